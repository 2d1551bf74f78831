"""The plan as a whole: exact integers, repairs that repair, the best of several, the same every time."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesmith.errors import ConfigError, DataError
from optimizer.compare import compare
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import onnx_emulator, plan_files
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from tests.tiny_plans import Floats, images, network

PLAIN = PtqSettings(observer="minmax", equalize=False, bias_correction=False)


class Given(Floats):
    """Builds networks whose numbers are given."""

    def op(self, kind: str, x: str, name: str, kernel: Any, bias: Any, **attributes: Any) -> str:
        w = self.constant(f"{name}_w", np.asarray(kernel, np.float32))
        b = self.constant(f"{name}_b", np.asarray(bias, np.float32))
        return self.node(kind, [x, w, b], name, **attributes)


def sqnr(planned: Planned, float_graph: PlanGraph, x: NDArray[Any]) -> float:
    name = float_graph.outputs[0]
    real, made = (
        np.concatenate([part[name] for part in run]) for run in (float_graph.run(x), onnx_emulator.run(planned, x))
    )
    return compare([real], [made]).sqnr_db


def tensor(planned: Planned, name: str) -> Any:
    found = planned.plan.tensor(name)
    assert found is not None
    return found


def test_a_pointwise_convolution_by_hand():
    g = Given()
    g.op("Conv", "image", "y", np.array([[1.27, -0.63], [0.0, 2.54]]).reshape(2, 2, 1, 1), [0.5, -1.0])
    graph = g.graph("y", ("N", 2, 1, 1))
    x = np.array([[0.0, 0.0], [2.55, 0.0], [0.0, 1.0]], np.float32).reshape(3, 2, 1, 1)
    planned = make_plan(graph, x, PLAIN)
    # Inputs 0..2.55 in 255 steps of 0.01; weights 1.27/127 and 2.54/127.
    grid = tensor(planned, "image").params
    np.testing.assert_allclose(grid.scale, [0.01], rtol=1e-6)
    assert grid.zero_point == (-128,)
    (op,) = planned.plan.ops
    assert op.weights is not None
    np.testing.assert_allclose(op.weights.scale, [0.01, 0.02], rtol=1e-6)
    assert planned.integers["y"].ravel().tolist() == [127, -63, 0, 127]
    # Outputs: 1.27 * 2.55 + 0.5 = 3.7385, and 2.54 - 1 = 1.54 at most; -1 at least.
    out = tensor(planned, "y")
    assert out.low == pytest.approx(-1.0)
    assert out.high == pytest.approx(3.7385)
    np.testing.assert_allclose(out.params.scale, [4.7385 / 255], rtol=1e-6)
    assert out.params.zero_point == (round(-128 + 1.0 / (4.7385 / 255)),)
    assert out.observer == "minmax"


@functools.cache
def learned() -> Planned:
    return make_plan(network("N"), images(64), PtqSettings(rounding="learned"))


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path):
    g = Floats()
    x = g.weighted("Conv", "image", "first", (8, 3, 3, 3), "Relu", pads=[1] * 4)
    g.weighted("Conv", x, "deep", (8, 1, 3, 3), group=8)
    graph, x = g.graph("deep", ("N", 3, 16, 16)), images(64)
    for name in ("one", "other"):
        planned = make_plan(graph, x.copy(), PtqSettings(rounding="learned"), model_sha256="m", calibration_sha256="c")
        plan_files.write(planned, tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()


def test_what_comes_out_is_the_best_of_what_was_tried():
    graph, planned = network("N"), learned()
    tried = planned.plan.figures["variants"]
    assert tried[0]["name"] == "minmax ranges"
    best = min(tried, key=lambda one: one["loss"])
    assert planned.plan.figures["chosen"] == best["name"]
    assert best["loss"] < tried[0]["loss"]
    fresh = images(64, seed=9)
    plain = make_plan(graph, images(64), PLAIN)
    assert sqnr(planned, graph, fresh) > sqnr(plain, graph, fresh)


def outlier_network() -> tuple[PlanGraph, NDArray[np.float32]]:
    """Two layers; of 64 samples one has a pixel 200 times the others, which the second layer hardly looks at."""
    g = Given()
    random = np.random.default_rng(0)
    kernel = np.eye(4).reshape(4, 4, 1, 1)
    g.op("Conv", "image", "copy", kernel, np.zeros(4))
    g.op("Conv", "copy", "y", random.normal(size=(4, 4, 1, 1)), np.zeros(4))
    x = random.normal(size=(64, 4, 8, 8)).astype(np.float32)
    x[3, 2, 1, 1] = 200.0
    return g.graph("y", ("N", 4, 8, 8)), x


def test_an_outlier_does_not_take_the_range_where_that_costs_more_than_it_gains():
    g = Given()
    random = np.random.default_rng(0)
    # Clipped at 6, so that little of the outlier is seen.
    g.op("Conv", "image", "sum", random.normal(size=(4, 4, 1, 1)), np.full(4, 3.0))
    low, high = g.constant("low", np.float32(0)), g.constant("high", np.float32(6))
    graph = g.graph(g.node("Clip", ["sum", low, high], "y"), ("N", 4, 8, 8))
    x = random.normal(size=(64, 4, 8, 8)).astype(np.float32)
    x[4, 2, 1, 1] = 200.0  # not among the samples that the plans are judged by
    wide = make_plan(graph, x, PLAIN)
    chosen = make_plan(graph, x, PtqSettings())
    assert tensor(wide, "image").high == 200.0
    assert tensor(chosen, "image").high < 50.0
    fresh = random.normal(size=(64, 4, 8, 8)).astype(np.float32)
    assert sqnr(chosen, graph, fresh) > sqnr(wide, graph, fresh) + 10.0


def test_an_outlier_that_matters_keeps_its_range():
    graph, x = outlier_network()
    x[:, 2, 1, 1] = 200.0  # now every sample has it, and it is most of the output
    planned = make_plan(graph, x, PtqSettings(equalize=False))
    assert tensor(planned, "image").high == 200.0


def shifted() -> tuple[PlanGraph, NDArray[np.float32]]:
    """Every weight is 0.4 of a step too large, every input positive: all outputs of the first channel shift."""
    g = Given()
    kernel = np.full((2, 32), 10.4 / 127)
    kernel[:, 0] = 1.0
    kernel[1] = 1.0
    g.op("Gemm", "image", "y", kernel, np.zeros(2), transB=1)
    x = np.random.default_rng(0).uniform(0.5, 1.0, size=(64, 32)).astype(np.float32)
    return g.graph("y", ("N", 32)), x


def test_bias_correction_takes_back_a_known_shift():
    graph, x = shifted()
    plain = make_plan(graph, x, PLAIN)
    fixed = make_plan(graph, x, PtqSettings(observer="minmax", equalize=False, bias_correction=True))
    # 31 weights of 10.4 steps, rounded to 10, times inputs of 0.75 on average.
    known = 31 * 0.4 / 127 * 0.75
    correction = fixed.graph.constants["y_b"] - graph.constants["y_b"]
    np.testing.assert_allclose(correction, [known, 0.0], atol=0.01)
    assert any("bias correction" in sentence for sentence in fixed.plan.repairs)
    assert not plain.plan.repairs
    np.testing.assert_array_equal(plain.graph.constants["y_b"], graph.constants["y_b"])
    # What is left is the rounding of input and output.
    assert sqnr(fixed, graph, x) > sqnr(plain, graph, x) + 4.0


def test_learned_rounding_lowers_the_error_of_other_samples_and_keeps_zeros():
    g = Given()
    random = np.random.default_rng(0)
    kernel = random.normal(size=(12, 24))
    kernel[random.random(kernel.shape) < 0.5] = 0.0
    g.op("Gemm", "image", "y", kernel, random.normal(size=12), transB=1)
    graph = g.graph("y", ("N", 24))
    mix = random.normal(size=(6, 24))  # inputs that depend on each other, as activations do

    def samples(n: int) -> NDArray[np.float32]:
        return (random.normal(size=(n, 6)) @ mix).astype(np.float32)

    x, fresh = samples(128), samples(128)
    settings = PtqSettings(scheme="int4-weights", observer="minmax", equalize=False)
    nearest = make_plan(graph, x, settings)
    made = make_plan(graph, x, dataclasses.replace(settings, rounding="learned"))
    assert sqnr(made, graph, fresh) > sqnr(nearest, graph, fresh) + 3.0
    assert any("learned rounding" in sentence for sentence in made.plan.repairs)
    assert (made.integers["y"][kernel == 0.0] == 0).all()
    assert np.abs(made.integers["y"]).max() <= 7


def test_badly_scaled_depthwise_channels_recover_by_equalization():
    g = Given()
    random = np.random.default_rng(0)
    factors = np.geomspace(0.002, 2.0, 16).reshape(16, 1, 1, 1)
    g.op("Conv", "image", "deep_sum", random.normal(size=(16, 1, 3, 3)) * factors, np.zeros(16), group=16, pads=[1] * 4)
    g.node("Relu", ["deep_sum"], "deep")
    g.op("Conv", "deep", "y", random.normal(size=(8, 16, 1, 1)) / factors.reshape(1, 16, 1, 1), np.zeros(8))
    graph = g.graph("y", ("N", 16, 8, 8))
    x, fresh = random.normal(size=(2, 64, 16, 8, 8)).astype(np.float32)
    plain, repaired = make_plan(graph, x, PLAIN), make_plan(graph, x, PtqSettings())
    assert "equalized" in repaired.plan.figures["chosen"]
    assert sqnr(plain, graph, fresh) < 15.0
    assert sqnr(repaired, graph, fresh) > 30.0
    assert repaired.plan.repairs
    off = make_plan(graph, x, PtqSettings(equalize=False))
    assert not any("equalized" in one["name"] for one in off.plan.figures["variants"])


def test_tensors_that_must_share_a_grid_do():
    planned = learned()
    assert tensor(planned, "pool").params == tensor(planned, "stem").params
    assert tensor(planned, "pool").observer == "shared"
    assert tensor(planned, "pool").reason == "the scale of stem"
    assert tensor(planned, "flat").params == tensor(planned, "mean").params


def test_a_softmax_has_its_fixed_grid():
    g = Given()
    g.op("Gemm", "image", "head", np.random.default_rng(0).normal(size=(5, 8)), np.zeros(5), transB=1)
    graph = g.graph(g.node("Softmax", ["head"], "y"), ("N", 8))
    planned = make_plan(graph, np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32), PtqSettings())
    out = tensor(planned, "y")
    assert (out.params.scale, out.params.zero_point, out.observer) == ((1 / 256,), (-128,), "fixed")
    assert out.low == 0.0
    assert out.high == 255 / 256


def test_layers_kept_in_float_are_left_alone():
    planned = make_plan(network("N"), images(16), dataclasses.replace(PLAIN, keep_float=("hidden_sum", "head")))
    assert planned.plan.kept_float == ("hidden_sum", "head")
    op = planned.plan.op("head")
    assert (op.precision, op.reason, op.weights) == ("float32", "the user's keep_float", None)
    assert "head" not in planned.integers
    assert tensor(planned, "head").params is None
    assert tensor(planned, "hidden").params is None
    assert tensor(planned, "flat").params is not None
    assert np.array_equal(planned.graph.constants["head_b"], network("N").constants["head_b"])


def test_every_quantized_op_has_integers_that_fit():
    planned = learned()
    for op in planned.graph.ops:
        if op.weight is None:
            continue
        made = planned.plan.op(op.name)
        assert made.weights is not None
        assert planned.integers[op.name].shape == planned.graph.constants[op.weight].shape
        assert np.abs(planned.integers[op.name].astype(int)).max() <= 127
        assert len(made.weights.scale) == planned.graph.constants[op.bias or ""].size


@pytest.mark.parametrize("scheme", ["int8", "int16x8", "int4-weights"])
def test_every_scheme_runs(scheme: Any):
    planned = make_plan(network("N"), images(16), dataclasses.replace(PLAIN, scheme=scheme))
    dtypes = {one.params.dtype for one in planned.plan.tensors if one.params is not None}
    assert dtypes == {"int16" if scheme == "int16x8" else "int8"}
    stored = {op.weights.dtype for op in planned.plan.ops if op.weights is not None}
    assert stored == {"int4" if scheme == "int4-weights" else "int8"}
    worst = {"int8": 20.0, "int16x8": 30.0, "int4-weights": 8.0}[scheme]
    assert sqnr(planned, network("N"), images(16, seed=3)) > worst


def test_two_inputs_and_a_fixed_batch():
    from onnx import TensorProto, helper

    shape = [1, 4]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["a", "b"], ["y"], name="sum")],
            "net",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab"],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = PlanGraph(model)
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 10, 4)).astype(np.float32)
    planned = make_plan(graph, [a, 10 * b], PtqSettings())
    assert tensor(planned, "b").high > 5 * tensor(planned, "a").high
    with pytest.raises(DataError, match="1 arrays, the network 2 inputs"):
        make_plan(graph, a, PtqSettings())
    with pytest.raises(DataError, match="10, 9 samples"):
        make_plan(graph, [a, b[1:]], PtqSettings())
    with pytest.raises(DataError, match="0, 0 samples"):
        make_plan(graph, [a[:0], b[:0]], PtqSettings())


def test_unknown_layers_are_refused_before_anything_is_computed():
    with pytest.raises(ConfigError, match="no layer 'nowhere'"):
        make_plan(network("N"), images(4), PtqSettings(keep_float=("nowhere",)))
