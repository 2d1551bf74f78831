"""`tensorrt:` of the config: what goes into files, into keys and to the board, and what is refused before work."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from device_tests import measured
from edgesmith import measure_cli
from edgesmith.config import LoadedConfig, TensorRt, load_config
from edgesmith.errors import ConfigError
from edgesmith.pipeline import boards, tensorrt_settings
from edgesmith.pipeline.build import Wanted, artifact_inputs, wanted_for
from edgesmith.pipeline.plan import make_plan
from edgesmith.pipeline.select import select_targets
from edgesmith.pipeline.store import Store
from edgesmith.report.engines import asked_for
from edgesmith.types import Artifact, BoardInfo, Device, Model, Scheme, Signature
from targets import tensorrt_asked
from targets.base import RuntimeFacts
from tests.tensorrt_requests import ORIN_JP6
from tests.tiny_artifacts import DATA, artifact

MODEL = Model(
    kind="keras", path=Path("m"), sha256="m", signature=Signature(inputs=(), outputs=()), origin="m", parameters=1
)
NANO, XAVIER = "NVIDIA Jetson Nano Developer Kit", "NVIDIA Jetson Xavier NX Developer Kit"
ORIN_NANO, AGX = "NVIDIA Jetson Orin Nano Developer Kit", "NVIDIA Jetson AGX Orin Developer Kit"


def config(folder: Path, tensorrt: str, more: str = "") -> LoadedConfig:
    path = folder / "edgesmith.yaml"
    path.write_text(f"model: m.keras\ndata: {{evaluation: e.npz}}\ntensorrt: {tensorrt}\n{more}", encoding="utf-8")
    return load_config(path)


def jetson(model: str, tensorrt: str) -> BoardInfo:
    return BoardInfo(
        machine="aarch64", system="Ubuntu", kernel="5.15", python="3.10", numpy="1.26", model=model, cpu=None, cores=6,
        memory_bytes=None, runtimes={"tensorrt": tensorrt, "cuda": "12.6"}, emulated=False, agent_sha256="a",
        runners=("tensorrt",),
    )  # fmt: skip


def onnx(precision: str = "int8-float-io") -> Artifact:
    made = artifact("dense.onnx", "onnx")
    return dataclasses.replace(made, target="tensorrt", precision=precision, build={"precision": ["fp16", "int8"]})


# The section.


def test_only_what_differs_from_the_defaults_is_asked():
    assert TensorRt().options() == {}
    assert TensorRt(cuda_graph=False, opset=17, trtexec="auto", build_timeout_seconds=3600).options() == {}
    asked = TensorRt(dla_core=0, cuda_graph=True, sparsity="never", optimization_level=0).options()
    assert asked == {"dla_core": 0, "cuda_graph": True, "sparsity": False, "optimization_level": 0}


def test_the_package_may_be_called_by_its_import_name(tmp_path: Path):
    assert config(tmp_path, "{cuda: cuda.bindings}").config.tensorrt.cuda == "cuda-bindings"


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ("{dla_cores: 0}", "yaml:3: unknown key 'tensorrt.dla_cores'; did you mean 'dla_core'?"),
        ("{opset: 12}", "'tensorrt.opset': Input should be greater than or equal to 13"),
        ("{workspace_bytes: 512}", "'tensorrt.workspace_bytes': Input should be greater than or equal to 1048576"),
        ("{optimization_level: 6}", "'tensorrt.optimization_level': Input should be less than or equal to 5"),
        ("{trtexec: yes}", "'tensorrt.trtexec': Input should be 'auto', 'never' or 'only'"),
    ],
)
def test_what_it_does_not_hold_is_refused_with_its_line(tmp_path: Path, section: str, text: str):
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, section)
    assert text in str(caught.value)


# Where it goes.


def test_the_board_is_asked_and_the_file_stays_what_it_is(tmp_path: Path):
    settings = config(tmp_path, "{dla_core: 1, cuda_graph: true, build_timeout_seconds: 60}").config
    plain = onnx()
    asked = tensorrt_asked.as_asked(plain, settings.tensorrt)
    assert dataclasses.replace(asked, build=plain.build) == plain
    wanted = {"precision": ["fp16", "int8"], "dla_core": 1, "cuda_graph": True, "build_timeout_seconds": 60.0}
    assert measured.asked(asked)["options"] == wanted
    # No DLA computes in float32; and nobody else's files are concerned.
    assert "dla_core" not in tensorrt_asked.as_asked(onnx("float32"), settings.tensorrt).build
    assert tensorrt_asked.as_asked(onnx("float32"), settings.tensorrt).build["cuda_graph"] is True
    other = artifact("dense.onnx", "onnx")
    assert tensorrt_asked.as_asked(other, settings.tensorrt) is other


def test_a_kept_measurement_is_of_the_same_options(tmp_path: Path):
    device, store = Device(name="orin", transport="ssh", host="h"), Store(tmp_path / "store")

    def key(section: str) -> str:
        loaded = config(tmp_path, section)
        prepared: Any = SimpleNamespace(loaded=loaded, evaluation=SimpleNamespace(sha256="e"))
        asked = tensorrt_asked.as_asked(onnx(), loaded.config.tensorrt)
        return boards.measurement_key(device, [asked], prepared, store)

    plain = key("{}")
    assert key("{cuda_graph: false}") == plain
    assert key("{build_timeout_seconds: 60}") == plain
    others = [key("{cuda_graph: true}"), key("{dla_core: 0}"), key("{dla_core: 1}"), key("{trtexec: only}")]
    assert len({plain, *others}) == 5


def made_for(target: str, opset: int | None, runtime: RuntimeFacts | None = ORIN_JP6) -> Wanted:
    (found,) = wanted_for(
        target, "aarch64", original=MODEL, compressed=MODEL, scheme=Scheme.NONE, per_channel=True, has_recipe=False,
        runtime=runtime, opset=opset,
    )  # fmt: skip
    return found


def test_an_operator_set_makes_another_file_and_other_settings_do_not(tmp_path: Path):
    settings = config(tmp_path, "{opset: 16, cuda_graph: true}").config
    assert tensorrt_settings.opset(settings, "onnxruntime") is None
    item = made_for("tensorrt", tensorrt_settings.opset(settings, "tensorrt"))
    assert item.request(None, tmp_path).opset == 16
    plain = artifact_inputs(made_for("tensorrt", None), None)
    assert artifact_inputs(item, None) == {**plain, "opset": 16}


def test_files_for_other_processors_have_other_names():
    """Both may be in the artifacts folder of one run."""
    items = [
        wanted_for(
            "onnxruntime", isa, original=MODEL, compressed=MODEL, scheme=Scheme.NONE, per_channel=True, has_recipe=False
        )[0]
        for isa in ("aarch64", "x86_64-no-vnni")
    ]
    assert [item.file_name for item in items] == ["float-float32-aarch64", "float-float32-x86_64-no-vnni"]


def test_the_report_says_what_was_asked(tmp_path: Path):
    settings = config(tmp_path, "{dla_core: 1, cuda_graph: true, build_timeout_seconds: 60}").config
    assert asked_for(tensorrt_asked.as_asked(onnx(), settings.tensorrt).build) == "dla_core 1, cuda_graph"
    assert asked_for(onnx().build) == ""


# What is refused.

REFUSED = [
    ("{opset: 17}", NANO, "8.2.1", "opset: jetson: TensorRT 8.2.1 does not read operator set 17", "from 13 to 13"),
    ("{version_compatible: true}", XAVIER, "8.5.2", "8.6 and later do", "Leave it out"),
    ("{dla_core: 0}", ORIN_NANO, "10.3.0", "dla_core: jetson: NVIDIA Jetson Orin Nano has no DLA", "GPU computes"),
    ("{dla_core: 2}", AGX, "10.3.0", "NVIDIA Jetson AGX Orin has the DLA cores 0 to 1", "Choose one"),
    ("{dla_core: 0}", AGX, "10.16.2", "TensorRT 10.16.2 uses no DLA. Those up to 10.7 do", "GPU computes"),
    ("{dla_core: 0}", AGX, "11.4.0", "JetPack 7.0 to 7.2.1", "GPU computes"),
]


@pytest.mark.parametrize(("section", "model", "tensorrt", "text", "step"), REFUSED)
def test_what_a_board_lacks_is_refused_before_anything_is_made(
    tmp_path: Path, section: str, model: str, tensorrt: str, text: str, step: str
):
    device = Device(name="jetson", transport="ssh", host="h")
    loaded = config(tmp_path, section, "targets: [tensorrt]\n")
    with pytest.raises(ConfigError, match="yaml:3: ") as caught:
        select_targets(loaded, device, MODEL, Scheme.NONE, jetson(model, tensorrt))
    assert text in caught.value.what
    assert step in caught.value.next_step


@pytest.mark.parametrize(
    ("section", "model", "tensorrt"),
    [
        ("{dla_core: 1}", XAVIER, "8.5.2"),
        ("{dla_core: 1}", AGX, "10.3.0"),
        ("{dla_core: 0}", AGX, "11.4.1"),
        ("{dla_core: 0}", "A board that nobody knows", "10.3.0"),
        ("{opset: 17, version_compatible: true, optimization_level: 5}", AGX, "8.6.2"),
        ("{optimization_level: 3}", NANO, "8.0.1"),  # the board says that it has none, and builds
    ],
)
def test_what_a_board_has_is_not_refused(tmp_path: Path, section: str, model: str, tensorrt: str):
    device = Device(name="jetson", transport="ssh", host="h")
    loaded = config(tmp_path, section, "targets: [tensorrt]\n")
    assert select_targets(loaded, device, MODEL, Scheme.NONE, jetson(model, tensorrt)).names == ("tensorrt",)


def test_a_board_is_known_by_its_name_before_it_is_reached(tmp_path: Path):
    device = Device(name="jetson", transport="ssh", host="h", board="jetson-orin-nano")
    with pytest.raises(ConfigError, match="has no DLA"):
        select_targets(config(tmp_path, "{dla_core: 0}"), device, MODEL, Scheme.NONE, None)


def test_a_ready_file_keeps_its_operator_set_and_a_board_what_it_has(tmp_path: Path):
    device = Device(name="jetson", transport="ssh", host="h")
    refuse = partial(tensorrt_settings.refuse_ready, device=device, info=jetson(ORIN_NANO, "10.3.0"))
    with pytest.raises(ConfigError, match=r"yaml:3: opset: dense\.onnx is ready: nothing writes it anew"):
        refuse(config(tmp_path, "{opset: 13}"), onnx())
    with pytest.raises(ConfigError, match="has no DLA"):
        refuse(config(tmp_path, "{dla_core: 0}"), onnx())
    refuse(config(tmp_path, "{dla_core: 0}"), artifact("dense.onnx", "onnx"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["cuda_graph"], "--tensorrt cuda_graph: no KEY=VALUE"),
        (["dla_cor=1"], "--tensorrt:1: unknown key 'dla_cor'; did you mean 'dla_core'?"),
        (["cuda_graph=true", "dla_core=x"], "--tensorrt:2: 'dla_core': Input should be a valid integer"),
        (["opset=13"], "the file is written already"),
        (["cuda_graph=true"], "dense.tflite is no .onnx"),
    ],
)
def test_measuring_one_file_takes_the_same_keys(tmp_path: Path, options: list[str], text: str):
    with pytest.raises(ConfigError) as caught:
        measure_cli.measure(DATA / "dense.tflite", tmp_path / "none.npz", runs_dir=tmp_path, tensorrt=options)
    assert text in caught.value.what


# What is said.


def test_a_section_for_nobody_is_a_warning(tmp_path: Path):
    settings = config(tmp_path, "{cuda_graph: true}").config
    (found,) = tensorrt_settings.findings(settings, {"tflite", "onnxruntime"})
    assert (found.severity, found.code) == ("warning", "tensorrt_unused")
    assert tensorrt_settings.findings(settings, {"tflite", "tensorrt"}) == ()
    assert tensorrt_settings.findings(settings, ()) == ()


def test_float32_on_the_gpu_is_said_where_a_dla_was_asked_for(tmp_path: Path):
    (found,) = tensorrt_settings.findings(config(tmp_path, "{dla_core: 0}").config, {"tensorrt"})
    assert (found.severity, found.code) == ("info", "float_on_gpu")


def test_a_plan_shows_how_it_will_be_measured_and_what_is_for_nobody(tmp_path: Path):
    import numpy as np

    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "e.npz", x=x, y=np.arange(40) % 3)
    path = tmp_path / "edgesmith.yaml"
    text = f"model: {DATA / 'dense_int8.tflite'}\ndata: {{evaluation: e.npz}}\ntensorrt: {{cuda_graph: true}}\n"
    path.write_text(text, encoding="utf-8")
    loaded = load_config(path).measured_in("15W", lock_clocks=True)
    load, measure, note = make_plan(loaded, tmp_path / "runs")
    assert load.label == "load"
    assert measure.detail.endswith("timed runs each, power mode 15W, clocks held")
    assert (note.label, note.state) == ("tensorrt", "note")
    assert "no device is judged with TensorRT" in note.detail
    assert tensorrt_settings.shown(loaded.config.tensorrt) == "cuda_graph"
    assert tensorrt_settings.shown(TensorRt(dla_core=1, cuda_graph=True)) == "dla_core 1, cuda_graph"
