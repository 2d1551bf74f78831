"""Ready models: what makes one, what it cannot give, and what is read of it where packages are missing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgesmith.config import LoadedConfig, load_config
from edgesmith.errors import ConfigError, ModelError
from edgesmith.pipeline.plan import make_plan
from edgesmith.pipeline.prepare import prepare
from edgesmith.pipeline.ready import find_ready
from edgesmith.pipeline.ready_built import ready_items
from edgesmith.pipeline.store import Store
from edgesmith.progress import Silent
from targets import onnx_file, tensorrt_build, tensorrt_ready
from targets.base import RuntimeFacts
from targets.found import float_inputs, read_artifact
from tests import qdq_graphs
from tests.tiny_artifacts import DATA

Configured = Callable[..., LoadedConfig]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """Writes a config beside the tiny models."""
    for model in DATA.glob("dense*"):
        shutil.copy(model, tmp_path)
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "e.npz", x=random.integers(0, 256, (240, 4)).astype(np.float32), y=random.integers(0, 3, size=240)
    )

    def write(**config: Any) -> LoadedConfig:
        path = tmp_path / "edgesmith.yaml"
        path.write_text(yaml.safe_dump({"data": {"evaluation": "e.npz"}, **config}, sort_keys=False))
        return load_config(path)

    return write


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes packages missing in this process, as they are on a board."""

    def hide(*packages: str) -> None:
        for package in packages:
            for loaded in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
                monkeypatch.delitem(sys.modules, loaded)
            monkeypatch.setitem(sys.modules, package, None)

    return hide


def test_a_tflite_is_ready(configured: Configured):
    found = find_ready(configured(model="dense_int8.tflite"))
    assert found is not None
    assert found.reference is None
    assert (found.model.kind, found.artifact.target, found.artifact.precision) == ("ready", "tflite", "as found")
    (spec,) = found.model.signature.inputs
    # int8 inside, and samples are given as floats all the same.
    assert (spec.dtype, spec.shape) == ("float32", (None, 4))


def test_an_onnx_is_compiled_where_it_can_be_and_ready_where_it_cannot(
    configured: Configured, without: Callable[..., None]
):
    loaded = configured(model="dense.onnx")
    assert find_ready(loaded) is None
    without("tf2onnx")
    assert find_ready(loaded) is not None


def test_an_onnx_with_a_reference_is_ready(configured: Configured):
    found = find_ready(configured(model="dense.onnx", reference="dense.onnx"))
    assert found is not None
    assert found.reference is not None


def test_an_onnx_with_a_recipe_is_never_ready(configured: Configured, without: Callable[..., None]):
    without("tf2onnx", "onnx")
    assert find_ready(configured(model="dense.onnx", recipe=[{"quantize": {}}])) is None


def test_without_the_onnx_package_the_runtime_tells_and_sparsity_is_unknown(without: Callable[..., None]):
    path = DATA / "dense.onnx"
    whole = read_artifact(path)
    assert whole.sparsity is not None
    assert onnx_file.runtime_signature(path) == whole.signature
    without("onnx")
    light = read_artifact(path)
    assert light.sparsity is None
    assert light.signature == whole.signature
    assert float_inputs(light) == float_inputs(whole)


def test_without_a_runtime_to_read_it_says_what_to_install(without: Callable[..., None]):
    without("ai_edge_litert")
    with pytest.raises(ModelError, match="cannot be read without the package ai_edge_litert") as caught:
        read_artifact(DATA / "dense.tflite")
    assert "edgesmith[board]" in caught.value.next_step


REFUSED = [
    (
        {"recipe": [{"prune": {}}, {"quantize": {}}]},
        r"yaml:\d+: dense_int8.tflite is compiled already: .*\(prune, quantize\)",
    ),
    ({"targets": ["onnxruntime"]}, r"yaml:\d+: dense_int8.tflite is ready for tflite, and for nothing else"),
    ({"budget": {"accuracy_drop_pp": 1}}, r"yaml:5: accuracy_drop_pp compares with a float model"),
    ({"budget": {"agreement_min": 0.9}}, "agreement_min compares with a float model"),
    ({"budget": {"size_ratio": 0.5}}, "size_ratio compares with a float model"),
    ({"budget": {"latency_p50_ratio": 0.5}}, "latency_p50_ratio compares with a float model"),
    ({"budget": {"latency_p95_ratio": 0.5}}, "latency_p95_ratio compares with a float model"),
    ({"task": {"metric": "agreement"}}, r"yaml:5: agreement compares with a float model"),
]


@pytest.mark.parametrize(("config", "text"), REFUSED)
def test_what_a_ready_model_cannot_give_is_refused_with_its_line(
    configured: Configured, config: dict[str, Any], text: str
):
    with pytest.raises(ConfigError, match=text) as caught:
        find_ready(configured(model="dense_int8.tflite", **config))
    assert caught.value.next_step


def test_absolute_budgets_and_ratios_with_a_reference_are_fine(configured: Configured):
    absolute = {"latency_p95_ms": 5.0, "size_bytes": 9000, "accuracy_min": 0.1, "peak_rss_bytes": 10**9}
    assert find_ready(configured(model="dense_int8.tflite", budget=absolute))
    ratios = {"accuracy_drop_pp": 1.0, "size_ratio": 0.5, "latency_p95_ratio": 1.0, "agreement_min": 0.9}
    assert find_ready(configured(model="dense_int8.tflite", reference="dense.tflite", budget=ratios))


def test_compressing_where_tensorflow_is_missing_says_what_to_install(
    configured: Configured, without: Callable[..., None]
):
    without("tensorflow")
    with pytest.raises(ConfigError) as caught:
        find_ready(configured(model="dense_int8.tflite", recipe=[{"prune": {}}]))
    assert 'pip install "edgesmith[tflite]" brings what that needs' in caught.value.next_step
    assert "compress on a workstation and copy it" in caught.value.next_step


def test_a_reference_goes_with_a_ready_model_only(configured: Configured):
    with pytest.raises(ConfigError, match=r"yaml:\d+: 'reference' goes with a ready model"):
        find_ready(configured(model="model.keras", reference="dense.tflite"))
    with pytest.raises(ConfigError, match=r"the reference dense\.onnx is for onnxruntime, the model for tflite"):
        find_ready(configured(model="dense_int8.tflite", reference="dense.onnx"))
    with pytest.raises(ModelError, match=r"nowhere\.tflite: no such file"):
        find_ready(configured(model="dense_int8.tflite", reference="nowhere.tflite"))


def test_a_reference_of_another_shape_is_no_reference(configured: Configured, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(name, kind, ["N", 7]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "o.onnx")
    with pytest.raises(ModelError, match=r"o.onnx is no version of dense.onnx: their inputs are x: float32\[N, 7\]"):
        find_ready(configured(model="dense.onnx", reference="o.onnx"))


def test_files_of_the_same_name_stay_apart(configured: Configured, tmp_path: Path):
    for folder, source in (("float", "dense.tflite"), ("int8", "dense_int8.tflite")):
        (tmp_path / folder).mkdir()
        shutil.copy(DATA / source, tmp_path / folder / "model.tflite")
    loaded = configured(model="int8/model.tflite", reference="float/model.tflite")
    store = Store(tmp_path / "store")
    prepared = prepare(loaded, store, Silent())
    first, second = ready_items(prepared, store)
    assert (first.wanted.variant, second.wanted.variant) == ("float", "compressed")
    assert (first.artifact.path.name, second.artifact.path.name) == ("float-model.tflite", "compressed-model.tflite")
    shutil.rmtree(tmp_path / "int8")
    assert second.artifact.path.read_bytes() == (DATA / "dense_int8.tflite").read_bytes()
    assert (first.comparison, prepared.compares) == (None, True)


def test_the_plan_of_a_ready_model_compiles_nothing(configured: Configured, tmp_path: Path):
    steps = make_plan(configured(model="dense_int8.tflite"), tmp_path / "runs")
    assert [(step.label, step.state) for step in steps] == [("load", "kept"), ("measure-local", "to do")]


def save(proto: Any, path: Path) -> str:
    path.write_bytes(proto.SerializeToString())
    return path.name


def quantized(*, batch: int = 1, **changes: Any) -> Any:
    """A convolution behind Q/DQ, whole enough for ONNX's checker."""
    proto = qdq_graphs.conv(batch=batch, **changes)
    helper = pytest.importorskip("onnx").helper
    (name,) = [output.name for output in proto.graph.output]
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, 1, [batch, qdq_graphs.C, 8, 8]))
    return proto


def facts(version: str, compute: str = "8.7") -> RuntimeFacts:
    return RuntimeFacts(version=version, compute=compute)


def test_an_onnx_with_qdq_is_ready_for_tensorrt_where_that_is_asked_for_by_name(configured: Configured, tmp_path: Path):
    name = save(quantized(), tmp_path / "qdq.onnx")
    assert find_ready(configured(model=name)) is None
    found = find_ready(configured(model=name, targets=["tensorrt"]))
    assert found is not None
    assert (found.artifact.target, found.artifact.build["precision"]) == ("tensorrt", ["fp16", "int8"])
    on_orin, findings = tensorrt_ready.for_board(found.artifact, facts("10.3.0"), "orin")
    assert (on_orin.build["precision"], findings) == (["fp16", "int8"], ())
    assert on_orin.sha256 == found.artifact.sha256, "nothing in it is changed"
    # TensorRT 11 takes every precision from the file.
    assert tensorrt_ready.for_board(found.artifact, facts("11.4.1"), "orin")[0].build["precision"] == []
    with pytest.raises(ModelError, match=r"nano: qdq.onnx is quantized, and the GPU there \(compute capability 5.3\)"):
        tensorrt_ready.for_board(found.artifact, facts("8.5.2", "5.3"), "nano")


def test_a_float_onnx_is_compiled_for_tensorrt_and_with_a_reference_measured_as_it_is(configured: Configured):
    assert find_ready(configured(model="dense.onnx", targets=["tensorrt"])) is None
    found = find_ready(configured(model="dense.onnx", targets=["tensorrt"], reference="dense.onnx"))
    assert found is not None
    assert found.reference is not None
    assert (found.artifact.target, found.reference.target) == ("tensorrt", "tensorrt")
    # Its batch is open: the builder is told that it is 1.
    assert found.artifact.build == {"precision": [], "profile": {"x": [[1, 4], [1, 4], [1, 4]]}}
    assert found.artifact.precision == "float32"


def test_a_ready_file_for_tensorrt_is_planned_and_needs_the_package_that_reads_it(
    configured: Configured, tmp_path: Path, without: Callable[..., None]
):
    loaded = configured(model="dense.onnx", targets=["tensorrt"], reference="dense.onnx")
    steps = make_plan(loaded, tmp_path / "runs")
    assert [(step.label, step.state) for step in steps] == [("load", "kept"), ("measure-local", "to do")]
    without("onnx")
    with pytest.raises(ModelError, match="not read without the package onnx") as caught:
        find_ready(loaded)
    assert "edgesmith[onnx]" in caught.value.next_step


def test_what_a_boards_tensorrt_makes_of_a_ready_file_is_told_before_it_is_asked(
    configured: Configured, tmp_path: Path
):
    uint8 = quantized(activation={"zero": np.uint8(0)})
    found = find_ready(configured(model=save(uint8, tmp_path / "uint8.onnx"), targets=["tensorrt"]))
    assert found is not None
    _, findings = tensorrt_ready.for_board(found.artifact, facts("10.3.0"), "orin")
    (told,) = [one for one in findings if "rule 'uint8'" in one.text]
    assert (told.code, told.severity) == ("tensorrt_rule", "warning")
    assert "-128..127 instead of 0..255" in told.text

    newer = quantized(opset=21)
    found = find_ready(configured(model=save(newer, tmp_path / "newer.onnx"), targets=["tensorrt"]))
    assert found is not None
    with pytest.raises(ModelError, match=r"newer.onnx has operator set 21; TensorRT 8.5.2 there reads up to 17") as no:
        tensorrt_ready.for_board(found.artifact, facts("8.5.2"), "xavier")
    assert "Export it with opset 17" in no.value.next_step


def test_a_file_that_edgesmith_wrote_keeps_its_own_options(configured: Configured, tmp_path: Path):
    own = quantized()
    tensorrt_build.put_in(own, {"precision": ["int8"], "profile": None, "float32": ["n"], "sparsity": True})
    found = find_ready(configured(model=save(own, tmp_path / "own.onnx"), targets=["tensorrt"]))
    assert found is not None
    made, _ = tensorrt_ready.for_board(found.artifact, facts("11.4.1"), "orin")
    assert made.build == {"precision": ["int8"], "profile": None, "float32": ["n"], "sparsity": True}


def test_a_batch_or_another_size_that_tensorrt_cannot_be_given_is_refused(configured: Configured, tmp_path: Path):
    loaded = configured(model=save(quantized(batch=4), tmp_path / "fixed.onnx"), targets=["tensorrt"])
    with pytest.raises(ModelError, match=r"the batch of input x: .* is fixed"):
        find_ready(loaded)
    wide = quantized()
    wide.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    loaded = configured(model=save(wide, tmp_path / "wide.onnx"), targets=["tensorrt"])
    with pytest.raises(ModelError, match="the builder has to know every size but the batch"):
        find_ready(loaded)
