"""A plan as `.tflite`: the plan's numbers in the converter's structure, on LiteRT's own kernels."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration import affine
from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Deviation, Model, QuantParams, Scheme
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import onnx_emulator, tflite, tflite_file, tflite_plan, tflite_read
from targets.base import CompileRequest
from targets.plan_export import make_plan_graph
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from targets.tflite_layout import find_layout
from targets.tflite_model import TfliteModel
from tests import quant_reference, tiny_networks


def convolutions(layers: Any) -> Any:
    """Pooling, branches joined twice, which is once in the plan, a ReLU after an addition, global pooling."""
    x = given_input(8, 8, 3)
    a = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="a")(x)
    b = layers.MaxPooling2D(2, name="pool")(layers.Conv2D(6, 3, padding="same", name="b")(x))
    inner = layers.Concatenate(name="inner")([layers.AveragePooling2D(2, name="average")(x), b])
    y = layers.Concatenate(name="join")([a, inner])
    z = layers.Conv2D(15, 1, name="point")(y)
    y = layers.ReLU(name="after")(layers.Add(name="sum")([y, z]))
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="deep")(y)
    return import_keras().Model(x, layers.Dense(5, name="head")(layers.GlobalAveragePooling2D(name="mean")(y)))


def signal(layers: Any) -> Any:
    """1-D, which the converter spells with reshapes and 2-D convolutions; one of them dilated."""
    x = given_input(16, 3)
    y = layers.Conv1D(8, 3, padding="same", activation="relu", name="first")(x)
    y = layers.MaxPooling1D(2, name="pool")(y)
    y = layers.Conv1D(8, 3, dilation_rate=2, padding="same", name="second")(y)
    y = layers.GlobalAveragePooling1D(name="mean")(y)
    return import_keras().Model(x, layers.Dense(3, activation="sigmoid", name="head")(y))


def upward(layers: Any) -> Any:
    """A transposed convolution; its ReLU is an op of its own in the file, one in the plan."""
    x = given_input(4, 4, 3)
    y = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="up")(x)
    return import_keras().Model(x, layers.Conv2D(4, 1, name="out")(y))


def attention(layers: Any) -> Any:
    """A transformer block; both normalizations have the same gain, which the converter stores once."""
    x = given_input(12, 8)
    y = layers.LayerNormalization(name="norm1")(x)
    y = layers.MultiHeadAttention(2, 4, name="attend")(y, y)
    y = z = layers.Add(name="res1")([x, y])
    y = layers.LayerNormalization(name="norm2")(y)
    y = layers.Dense(16, activation="gelu", name="up")(y)
    y = layers.Add(name="res2")([z, layers.Dense(8, name="down")(y)])
    y = layers.GlobalAveragePooling1D(name="mean")(y)
    return import_keras().Model(x, layers.Dense(3, activation="softmax", name="head")(y))


def squeeze(layers: Any) -> Any:
    """Squeeze and excite with a hard sigmoid: the converter folds its + 3 into the convolution before it."""
    x = given_input(6, 6, 4)
    y = layers.GlobalAveragePooling2D(keepdims=True, name="mean")(x)
    y = layers.Conv2D(4, 1, activation="hard_sigmoid", name="excite")(y)
    return import_keras().Model(x, layers.Multiply(name="scale")([x, y]))


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "everything": lambda _: tiny_networks.network(),
    "convolutions": convolutions,
    "signal": signal,
    "upward": upward,
    "attention": attention,
    "squeeze": squeeze,
}


def given_input(*shape: int) -> Any:
    return import_keras().Input(shape, name="given")


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its plan graph and its float file."""

    model: Model
    graph: PlanGraph
    file: bytes
    x: NDArray[np.float32]

    def plan(self, **settings: Any) -> Planned:
        return quant_reference.plan(self.graph, self.x, **settings)

    def lower(self, planned: Planned, *, float_io: bool = False) -> tuple[bytes, tuple[Deviation, ...]]:
        return tflite_plan.lower(planned, self.graph, self.file, self.x[:4], float_io=float_io)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    @functools.cache
    def make(name: str) -> Case:
        keras = import_keras()
        keras.utils.set_random_seed(0)
        return from_keras(NETWORKS[name](keras.layers), tmp_path_factory.mktemp(name))

    return make


def from_keras(live: Any, folder: Path) -> Case:
    """Biases are not zero, as after training."""
    random = np.random.default_rng(2)
    with third_party_warnings():
        for variable in live.variables:
            if variable.path.endswith("bias"):
                variable.assign(random.uniform(-0.2, 0.2, size=variable.shape))
    model = tiny_networks.record(live, folder / "net.keras")
    request = CompileRequest(scheme=Scheme.NONE, calibration=None, out_dir=folder, name="float")
    x = random.normal(size=(32, *live.inputs[0].shape[1:])).astype(np.float32)
    file = tflite.compile(model, request, Silent()).path.read_bytes()
    return Case(model=model, graph=make_plan_graph(model, Silent()), file=file, x=x)


def ops_of(content: bytes) -> list[str]:
    model = TfliteModel(content)
    return [model.kind(op) for op in model.ops]


def answers(content: bytes, x: NDArray[Any], folder: Path) -> NDArray[np.float32]:
    """As deployed: with XNNPACK."""
    path = folder / "made.tflite"
    path.write_bytes(content)
    (found,) = tflite_file.outputs(path, x)
    return found


def emulated(planned: Planned, x: NDArray[Any], tensors: Any = None) -> dict[str, NDArray[np.float32]]:
    parts = list(onnx_emulator.run(planned, x, tensors))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def params_of(planned: Planned) -> dict[str, QuantParams]:
    return {tensor.name: tensor.params for tensor in planned.plan.tensors if tensor.params is not None}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scheme", ["int8", "int16x8", "int4-weights"])
def test_what_is_read_back_is_the_plan_bit_for_bit(case: Any, name: str, scheme: Any):
    net = case(name)
    planned = net.plan(scheme=scheme)
    content, _ = net.lower(planned)
    wanted = params_of(planned)
    found = tflite_read.quantized_tensors(content, net.graph)
    assert found == {name: wanted[name] for name in found}
    assert {*net.graph.inputs, *net.graph.outputs} & set(wanted) <= set(found)
    weights = tflite_read.quantized_weights(content, net.graph)
    assert set(weights) == set(planned.integers)
    for op, (integers, grid) in weights.items():
        np.testing.assert_array_equal(integers, planned.integers[op])
        expected = planned.plan.op(op).weights
        # int4 weights beside ops without a 4-bit kernel are stored in bytes.
        assert grid == dataclasses.replace(expected, dtype=grid.dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_are_those_of_the_emulator(case: Any, name: str, tmp_path: Path):
    """The plan on ONNX Runtime: one step apart per op at most, so a few at the output of a small network."""
    net = case(name)
    planned = net.plan()
    content, _ = net.lower(planned)
    (output,) = net.graph.outputs
    params = params_of(planned)[output]
    wanted = affine.quantize(emulated(planned, net.x)[output], params).astype(int)
    found = affine.quantize(answers(content, net.x, tmp_path), params).astype(int)
    np.testing.assert_allclose(found, wanted, atol={"attention": 4, "convolutions": 3}.get(name, 2))
    # Some round where the emulator computes in float32, and LiteRT's pooling rounds ties away from zero.
    assert (found == wanted).mean() > (0.97 if name in ("everything", "signal", "upward") else 0.4)


@pytest.mark.parametrize("name", ["everything", "convolutions", "signal"])
def test_every_op_is_within_a_step_of_what_it_should_answer(case: Any, name: str, tmp_path: Path):
    """The built-in kernels, whose tensors can be seen: each op on what it was given, against numpy."""
    net = case(name)
    planned = net.plan()
    content, deviations = net.lower(planned)
    assert deviations == ()
    path = tmp_path / "made.tflite"
    path.write_bytes(content)
    grids = params_of(planned)
    close = emulated(planned, net.x, net.graph.tensors)
    seen = {key: values for key, values in tflite_file.tensors(path, net.x) if key in grids}
    found = {key: as_planned(values, close[key]) for key, values in seen.items()}
    (given,) = net.graph.inputs
    found[given] = affine.fake_quantize(net.x, grids[given])
    checked = Counter()
    for op in net.graph.ops:
        if op.output in grids and all(source in found for source in op.inputs):
            wanted = quant_reference.answer(planned, op, [found[source] for source in op.inputs])
            # Moves that the converter leaves out are made up for.
            had = affine.quantize(
                found.setdefault(op.output, affine.dequantize(wanted, grids[op.output])), grids[op.output]
            )
            assert np.abs(wanted.astype(int) - had).max() <= 1, op.name
            checked[op.kind] += op.output in seen
    weighted = sum(op.weight is not None for op in net.graph.ops)
    assert checked["Conv"] + checked["Gemm"] >= weighted - 1  # the last may be the network's output, under its own name


def as_planned(values: NDArray[np.float32], close: NDArray[np.float32]) -> NDArray[np.float32]:
    """A tensor of the file, channels last, in the plan's layout: the transposition nearest to what it should be."""
    plain = values.reshape(len(values), *(n for n in values.shape[1:] if n != 1))
    ways = [plain.transpose(0, *way) for way in itertools.permutations(range(1, plain.ndim))]
    shape = [n for n in close.shape if n != 1]
    fitting = [way.reshape(close.shape) for way in ways if [n for n in way.shape if n != 1] == shape]
    return min(fitting, key=lambda way: float(np.abs(way - close).sum()))


def test_a_dense_layer_by_hand(tmp_path: Path):
    """y = x W + b, x in [-0.5, 1]: every stored number is computed here."""
    keras = import_keras()
    x = keras.Input((2,), name="given")
    layer = keras.layers.Dense(2, name="dense")
    live = keras.Model(x, layer(x), name="net")
    with third_party_warnings():
        layer.kernel.assign([[1.0, -2.0], [0.0, 0.5]])
    net = dataclasses.replace(from_keras(live, tmp_path), x=np.array([[1, 1], [-0.5, -0.5]], np.float32))
    bias = np.array([0.5, -0.25], np.float32)
    (op,) = net.graph.ops
    planned = dataclasses.replace(net.plan(), graph=net.graph.with_constants({op.bias: bias}))
    content, deviations = net.lower(planned)
    assert deviations == ()
    model = TfliteModel(content)
    (found,) = model.ops
    given, kernel, biases = map(int, found.inputs)
    # 1.5 / 255, and 0 is a third of the way up: -128 + 85.
    assert model.grid(given).scale == (float(np.float32(1.5 / 255)),)
    assert model.grid(given).zero_point == (-43,)
    np.testing.assert_array_equal(model.constant(kernel), [[127, 0], [-127, 32]])
    assert model.grid(kernel).scale == (float(np.float32(1 / 127)), float(np.float32(2 / 127)))
    # 0.5 * 255 / 1.5 * 127 = 10795; -0.25 * 255 / 1.5 * 127 / 2 = -2698.75
    np.testing.assert_array_equal(model.constant(biases), [10795, -2699])
    assert model.dtype(biases) == "int32"


def test_float_io_adds_one_op_at_either_end_and_changes_no_answer(case: Any, tmp_path: Path):
    net = case("everything")
    planned = net.plan()
    integers, _ = net.lower(planned)
    floats, _ = net.lower(planned, float_io=True)
    assert ops_of(floats) == ["QUANTIZE", *ops_of(integers), "DEQUANTIZE"]
    np.testing.assert_array_equal(answers(integers, net.x, tmp_path), answers(floats, net.x, tmp_path))
    dtypes = {}
    for content in (integers, floats):
        path = tmp_path / "io.tflite"
        path.write_bytes(content)
        spec = tflite_file.signature(path)
        dtypes[content] = [s.dtype for s in (*spec.inputs, *spec.outputs)]
        names = [s.name for s in (*spec.inputs, *spec.outputs)]
        (tmp_path / "float.tflite").write_bytes(net.file)
        before = tflite_file.signature(tmp_path / "float.tflite")
        assert names == [s.name for s in (*before.inputs, *before.outputs)]
    assert list(dtypes.values()) == [["int8", "int8"], ["float32", "float32"]]
    assert tflite_read.quantized_tensors(floats, net.graph).keys() >= {"image", "head"}


def test_the_same_arguments_give_the_same_bytes(case: Any):
    net = case("attention")
    assert net.lower(net.plan()) == net.lower(net.plan())


@pytest.mark.parametrize("name", ["everything", "convolutions", "signal", "upward"])
def test_structure_and_kernel_versions_are_those_of_the_converter_s_own_int8(case: Any, name: str, tmp_path: Path):
    """Where the converter quantizes the same ops, the runtimes that take its file take ours, in as few parts."""
    net = case(name)
    ours, deviations = net.lower(net.plan())
    assert deviations == ()
    samples = tiny_networks.samples(net.x)
    request = CompileRequest(scheme=Scheme.INT8, calibration=samples, out_dir=tmp_path, name="theirs")
    theirs = tflite.compile(net.model, request, Silent()).path.read_bytes()
    assert Counter(versioned(ours)) == Counter(versioned(theirs))
    assert delegated(ours) <= delegated(theirs)


def versioned(content: bytes) -> list[tuple[str, int]]:
    model = TfliteModel(content)
    return [(model.kind(op), model._model.operatorCodes[op.opcodeIndex].version) for op in model.ops]


def delegated(content: bytes) -> int:
    """Parts that XNNPACK took of a graph; loading fails where it refuses an op it had accepted."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    parts = [op["op_name"] for op in interpreter._get_ops_details()]
    assert "DELEGATE" in parts
    return parts.count("DELEGATE")


def test_layers_kept_in_float_are_islands(case: Any, tmp_path: Path):
    net = case("everything")
    planned = net.plan(keep_float=("residual", "add"))
    content, deviations = net.lower(planned)
    assert deviations == ()
    ops = ops_of(content)
    before = ops.index("DEQUANTIZE")
    # The depthwise's output and the separable's are wanted as float32; what follows reads the sum as integers.
    island = ops[before : ops.index("QUANTIZE") + 1]
    assert Counter(island) == Counter(("DEQUANTIZE", "DEQUANTIZE", "CONV_2D", "ADD", "RESHAPE", "QUANTIZE"))
    model = TfliteModel(content)
    kept = next(op for op in model.ops if model.kind(op) == "ADD")
    assert all(model.dtype(int(i)) == "float32" for i in (*kept.inputs, *kept.outputs))
    assert set(tflite_read.quantized_weights(content, net.graph)) == set(planned.integers)
    wanted = emulated(planned, net.x)["head"]
    np.testing.assert_allclose(answers(content, net.x, tmp_path), wanted, atol=2 / 256)


def test_a_float_head_keeps_a_float_output_and_says_so(case: Any):
    net = case("everything")
    content, deviations = net.lower(net.plan(keep_float=("head",)))
    model = TfliteModel(content)
    assert [model.dtype(tensor) for tensor in (*model.inputs, *model.outputs)] == ["int8", "float32"]
    assert deviations == (
        Deviation(layer="head", tensor="head", what="a float32 output", why="it is computed in float32"),
    )
    assert net.lower(net.plan(keep_float=("head",)), float_io=True)[1] == ()


def test_normalizations_stay_in_float_and_matrix_products_do_not(case: Any):
    net = case("attention")
    planned = net.plan()
    content, _ = net.lower(planned)
    model = TfliteModel(content)
    widths = {(model.kind(op), model.dtype(int(op.outputs[0]))) for op in model.ops}
    assert {kind for kind, dtype in widths if dtype == "int8"} >= {"FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX", "ADD"}
    assert ("RSQRT", "float32") in widths
    assert ("GELU", "float32") in widths
    assert ("FULLY_CONNECTED", "float32") not in widths


def test_what_the_converter_folds_into_a_kernel_is_followed(case: Any):
    net = case("squeeze")
    planned = net.plan()
    content, deviations = net.lower(planned)
    model = TfliteModel(content)
    (op,) = [op for op in model.ops if model.kind(op) == "CONV_2D"]
    given, kernel, bias = map(int, op.inputs)
    (plan_op,) = [op for op in net.graph.ops if op.weight is not None]
    shifted = net.graph.constants[plan_op.bias] + 3
    expected = affine.int32_bias(shifted, model.grid(given).scale[0], model.grid(kernel).scale)
    np.testing.assert_allclose(model.constant(bias), expected, atol=1)
    told = {deviation.tensor for deviation in deviations if deviation.what == "not rounded"}
    assert plan_op.output in told  # before the + 3


@pytest.mark.parametrize("dtype", ["int16x8", "int4-weights"])
def test_other_widths_answer_as_the_plan_s_float_network_does(case: Any, dtype: Any, tmp_path: Path):
    net = case("everything")
    content, deviations = net.lower(net.plan(scheme=dtype))
    assert deviations == ()
    model = TfliteModel(content)
    held = {model.dtype(t) for t in range(len(model))}
    assert ("int4" if dtype == "int4-weights" else "int16") in held
    assert ("int64" in held) == (dtype == "int16x8")  # biases
    (wanted,) = tiny_networks.answers(import_keras().models.load_model(net.model.path), net.x)
    np.testing.assert_allclose(answers(content, net.x, tmp_path), wanted, atol=0.15 if "int4" in dtype else 0.01)


def test_widths_can_be_mixed(case: Any, tmp_path: Path):
    """int8 steps become int16 steps without loss, and back by the plan's own grid."""
    net = case("everything")
    conv = next(op for op in net.graph.ops if op.layer == "residual" and op.kind == "Conv")
    planned = net.plan(precision_of={conv.name: "int16"})
    content, deviations = net.lower(planned)
    assert deviations == ()
    model = TfliteModel(content)
    wide = [op for op in model.ops if model.dtype(int(op.outputs[0])) == "int16"]
    assert [model.kind(op) for op in wide] == ["QUANTIZE", "CONV_2D"]
    lifted = model.grid(int(wide[0].outputs[0]))
    narrow = model.grid(int(wide[0].inputs[0]))
    assert (lifted.scale, lifted.zero_point) == (narrow.scale, (0,))
    (wanted,) = tiny_networks.answers(import_keras().models.load_model(net.model.path), net.x)
    np.testing.assert_allclose(answers(content, net.x, tmp_path), wanted, atol=0.05)


@pytest.mark.parametrize("name", ["everything", "attention"])
def test_repairs_arrive_in_the_file(case: Any, name: str, tmp_path: Path):
    """Equalization and bias correction; SmoothQuant gives two normalizations that shared one gain different ones."""
    net = case(name)
    planned = make_plan(net.graph, net.x, PtqSettings(observer="minmax", smooth=True))
    changed = [n for n, v in net.graph.constants.items() if not np.array_equal(v, planned.graph.constants[n])]
    assert changed
    content, deviations = net.lower(planned)
    assert deviations == ()
    (output,) = net.graph.outputs
    np.testing.assert_allclose(answers(content, net.x, tmp_path), emulated(planned, net.x)[output], atol=3 / 256)


def test_float_ops_have_the_repaired_numbers(case: Any, tmp_path: Path):
    """Two gains that were one constant: each normalization gets its own."""
    net = case("attention")
    gains = [
        next(name for name in node.input if name in net.graph.constants and net.graph.constants[name].all())
        for node in net.graph.proto.graph.node
        if node.op_type == "LayerNormalization"
    ]
    first, second = np.linspace(0.5, 1.5, 8), np.linspace(2, 1, 8)
    graph = net.graph.with_constants({gains[0]: first, gains[1]: second})
    everything = tuple(dict.fromkeys(op.layer for op in graph.ops))
    planned = quant_reference.plan(graph, net.x, keep_float=everything)
    content, _ = net.lower(planned, float_io=True)
    assert "QUANTIZE" not in ops_of(content)
    (wanted,) = next(iter(graph.run(net.x))).values()
    np.testing.assert_allclose(answers(content, net.x, tmp_path), wanted, atol=1e-5)
    (unchanged,) = next(iter(net.graph.run(net.x))).values()
    assert np.abs(unchanged - wanted).max() > 1e-3


def test_a_repair_that_cannot_be_found_in_the_file_is_an_error(case: Any):
    """The float file holds other numbers than the graph it is said to be: what changed cannot be carried over."""
    net = case("everything")
    head = next(op for op in net.graph.ops if op.layer == "hidden" and op.weight)
    other = net.graph.with_constants({head.weight: net.graph.constants[head.weight][::-1]})
    planned = dataclasses.replace(net.plan(), graph=other)
    with pytest.raises(ModelError, match=r"output head of the repaired network is .* off"):
        tflite_plan.lower(planned, other, net.file, net.x[:4], float_io=False)


def test_a_softmax_that_shares_a_scale_is_rounded_twice_and_says_so(tmp_path: Path):
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = given_input(6)
    soft, plain = layers.Dense(4, activation="softmax", name="soft")(x), layers.Dense(4, name="plain")(x)
    net = from_keras(keras.Model(x, layers.Concatenate(name="join")([soft, plain])), tmp_path)
    planned = net.plan()
    content, deviations = net.lower(planned)
    (told,) = deviations
    assert (told.layer, told.what) == ("soft", "rounded twice, first with scale 0.00390625, zero point -128")
    assert tflite_read.quantized_tensors(content, net.graph).items() >= {
        (name, params_of(planned)[name]) for name in net.graph.outputs
    }
    np.testing.assert_allclose(
        answers(content, net.x, tmp_path), emulated(planned, net.x)[net.graph.outputs[0]], atol=0.05
    )


def test_tokens_are_looked_up_in_float_and_several_inputs_keep_their_order(tmp_path: Path):
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    tokens, extra = keras.Input((5,), dtype="int32", name="zeta"), keras.Input((5, 4), name="alpha")
    y = layers.Add(name="sum")([layers.Embedding(20, 4, name="table")(tokens), extra])
    model = tiny_networks.record(
        keras.Model([tokens, extra], layers.Dense(3, name="head")(layers.Flatten(name="flat")(y))),
        tmp_path / "net.keras",
    )
    request = CompileRequest(scheme=Scheme.NONE, calibration=None, out_dir=tmp_path, name="float")
    file = tflite.compile(model, request, Silent()).path.read_bytes()
    graph = make_plan_graph(model, Silent())
    random = np.random.default_rng(0)
    x = [random.integers(0, 20, size=(16, 5), dtype=np.int32), random.normal(size=(16, 5, 4)).astype(np.float32)]
    planned = make_plan(graph, x, PtqSettings(observer="minmax", equalize=False, bias_correction=False))
    content, deviations = tflite_plan.lower(planned, graph, file, x, float_io=False)
    assert deviations == ()
    made = TfliteModel(content)
    assert [made.dtype(tensor) for tensor in made.inputs] == ["int32", "int8"]
    ops = ops_of(content)
    assert ops[ops.index("GATHER") + 1] == "QUANTIZE"
    assert (ops[-1], made.dtype(made.outputs[0])) == ("FULLY_CONNECTED", "int8")


def test_activations_with_a_slope(tmp_path: Path):
    """The plan spells PReLU as the exporter does; the converter has one op for it, and its slopes become integers."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = given_input(6, 6, 3)
    y = layers.Conv2D(4, 3, name="conv")(x)
    y = layers.PReLU(shared_axes=[1, 2], alpha_initializer="uniform", name="slope")(y)
    y = layers.LeakyReLU(name="leaky")(layers.Conv2D(4, 3, name="other")(y))
    net = from_keras(keras.Model(x, y), tmp_path)
    planned = net.plan()
    content, deviations = net.lower(planned)
    assert ops_of(content) == ["CONV_2D", "PRELU", "CONV_2D", "LEAKY_RELU"]
    rounded, *inside = deviations
    assert rounded.layer == "slope"
    assert rounded.why == "LiteRT's PRELU takes no float32 constant beside integers"
    assert {(d.what, "slope" in d.tensor) for d in inside} == {("not rounded", True)}
    (output,) = net.graph.outputs
    room = 6 * params_of(planned)[output].scale[0]
    np.testing.assert_allclose(answers(content, net.x, tmp_path), emulated(planned, net.x)[output], atol=room)


def test_tensors_that_only_the_converter_has_get_a_range_of_their_own(case: Any, tmp_path: Path):
    """A plan that quantizes a normalization, which the converter computes in many steps."""
    net = case("attention")
    planned = net.plan()
    ops = tuple(
        dataclasses.replace(op, precision="int8") if op.kind == "LayerNormalization" else op for op in planned.plan.ops
    )
    planned = dataclasses.replace(planned, plan=dataclasses.replace(planned.plan, ops=ops))
    content, deviations = net.lower(planned)
    told = [d for d in deviations if d.layer in ("norm1", "norm2")]
    assert any("computed in float32" in d.what and d.why == "LiteRT has no int8 kernel for RSQRT" for d in told)
    assert any("norm1" in d.what and "moments/mean is rounded" in d.what for d in told)
    means = net.x[:4].mean(axis=-1)
    model = TfliteModel(content)
    grids = {model.name(t): model.grid(t) for t in range(len(model))}
    grid = next(grid for name, grid in grids.items() if "norm1" in name and name.endswith("moments/mean"))
    expected = affine.choose_params(means.min(), means.max(), dtype="int8", symmetric=False)
    np.testing.assert_allclose(grid.scale, expected.scale, rtol=1e-5)
    assert abs(grid.zero_point[0] - expected.zero_point[0]) <= 1


def test_constants_lie_on_16_bytes_and_nothing_unused_is_kept(case: Any):
    from ai_edge_litert import schema_py_generated as schema

    net = case("everything")
    content, _ = net.lower(net.plan())
    read = schema.Model.GetRootAs(bytearray(content), 0)
    starts = []
    for index in range(read.BuffersLength()):
        buffer = read.Buffers(index)
        if buffer.DataLength():
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert starts
    assert {start % 16 for start in starts} == {0}
    assert len(content) < len(net.file) / 2.5
    graph = read.Subgraphs(0)
    used = {int(i) for n in range(graph.OperatorsLength()) for i in graph.Operators(n).InputsAsNumpy()}
    used |= {int(i) for n in range(graph.OperatorsLength()) for i in graph.Operators(n).OutputsAsNumpy()}
    assert used == set(range(graph.TensorsLength()))
    names = [read.Metadata(index).Name() for index in range(read.MetadataLength())]
    assert b"min_runtime_version" not in names  # it was the float ops'


def test_a_file_that_is_none_is_refused():
    with pytest.raises(ModelError, match=r"Not a whole \.tflite file"):
        TfliteModel(b"\x08\x00\x00\x00TFL3nothing")


@given(values=st.lists(st.integers(-8, 7), min_size=1, max_size=9))
def test_four_bits_are_packed_and_unpacked(values: list[int]):
    from targets.tflite_model import _packed, _unpacked

    packed = _packed(np.array(values, np.int8))
    assert len(packed) == (len(values) + 1) // 2
    np.testing.assert_array_equal(_unpacked(packed, len(values)), values)
    assert (packed[0] & 0xF) == values[0] % 16  # the first in the low half


def test_layouts_by_hand():
    """Depthwise [C, 1, h, w] is [1, h, w, C] in the file; a transposed convolution's [I, O, h, w] is [O, h, w, I]."""
    kernel = np.arange(24, dtype=np.float32).reshape(4, 1, 2, 3)
    found = find_layout("DEPTHWISE_CONV_2D", 0, kernel, kernel.transpose(1, 2, 3, 0))
    assert found is not None
    layout, gain = found
    assert (layout.axis, layout.axes) == (3, (2, 3, 1, 0))
    np.testing.assert_array_equal(gain, np.ones(4))
    np.testing.assert_array_equal(layout.planned(layout.stored(kernel), kernel.shape), kernel)
    kernel = np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2)
    found = find_layout("TRANSPOSE_CONV", 1, kernel, kernel.transpose(1, 2, 3, 0))
    assert found is not None
    assert found[0].axes == (1, 2, 3, 0)
    doubled = find_layout(
        "CONV_2D", 0, kernel, kernel.transpose(0, 2, 3, 1) * np.array([2, 1, -1])[:, None, None, None]
    )
    assert doubled is not None
    np.testing.assert_allclose(doubled[1], [2, 1, -1])
    assert find_layout("CONV_2D", 0, kernel, np.roll(kernel.transpose(0, 2, 3, 1), 1, axis=3)) is None
