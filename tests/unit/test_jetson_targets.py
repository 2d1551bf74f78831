"""Which boards get TensorRT files in a run, made for what runs them, and how these are checked and asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from device_tests import measured
from edgesmith.config import LoadedConfig, load_config
from edgesmith.errors import BoardError, ConfigError
from edgesmith.pipeline import fleet
from edgesmith.pipeline.build import Built, Wanted, _infer, artifact_inputs, wanted_for
from edgesmith.pipeline.quantization import PlannedQuantization
from edgesmith.pipeline.select import select_targets
from edgesmith.pipeline.stages import Stage
from edgesmith.progress import Silent
from edgesmith.types import BoardInfo, Device, Model, Scheme, Signature
from targets import tensorrt
from targets.base import RuntimeFacts
from targets.board_runtime import is_jetson, runtime_facts
from tests import tiny_plans
from tests.tensorrt_requests import ORIN_11, ORIN_JP6, planned_in, request, saved
from tests.tiny_artifacts import artifact

MODEL = Model(
    kind="keras", path=Path("m"), sha256="m", signature=Signature(inputs=(), outputs=()), origin="m", parameters=1
)
ORIN, NANO, PI = "NVIDIA Jetson Orin Nano Developer Kit", "NVIDIA Jetson Nano Developer Kit", "Raspberry Pi 5 Model B"
ALL = ("onnxruntime", "tensorrt", "tflite")


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedConfig:
    return config(tmp_path)


def config(folder: Path, more: str = "") -> LoadedConfig:
    path = folder / "edgesmith.yaml"
    path.write_text(f"model: m.keras\ndata: {{evaluation: e.npz}}\n{more}", encoding="utf-8")
    return load_config(path)


def device(board: str = "auto") -> Device:
    return Device(name="board", transport="ssh", host="h", board=board)


def info(
    model: str | None, runners: tuple[str, ...] = ALL, tensorrt: str = "10.3.0", machine: str = "aarch64", **more: Any
) -> BoardInfo:
    runtimes = {"onnxruntime": "1.23.2", "ai-edge-litert": "2.3.0"}
    if "tensorrt" in runners:
        runtimes |= {"tensorrt": tensorrt, "cuda": "12.6"}
    told: dict[str, Any] = {
        "machine": machine, "system": "Ubuntu", "kernel": "5.15", "python": "3.10", "numpy": "1.26", "model": model,
        "cpu": None, "cores": 6, "memory_bytes": None, "runtimes": runtimes, "emulated": False, "agent_sha256": "a",
        "runners": runners,
    }  # fmt: skip
    return BoardInfo(**{**told, **more})


def chosen(
    loaded: LoadedConfig, board: BoardInfo | None, scheme: Scheme = Scheme.INT8, named: str = "auto", **how: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = select_targets(loaded, device(named), MODEL, scheme, board, **how)
    return found.names, found.notes


# Who gets it.


def test_a_jetson_with_tensorrt_gets_it(loaded: LoadedConfig):
    assert chosen(loaded, info(ORIN)) == (ALL, ())


@pytest.mark.parametrize(
    "board", [info(PI, ("onnxruntime", "tflite")), info(None, ("onnxruntime", "tflite"), machine="x86_64"), None]
)
def test_where_no_jetson_is_meant_not_a_word_is_said(loaded: LoadedConfig, board: BoardInfo | None):
    assert chosen(loaded, board) == (("onnxruntime", "tflite"), ())


def test_a_jetson_without_tensorrt_is_told(loaded: LoadedConfig):
    names, notes = chosen(loaded, info(ORIN, ("onnxruntime", "tflite")))
    assert names == ("onnxruntime", "tflite")
    (note,) = notes
    assert note.startswith("board: tensorrt left out: the board has no runtime for it (onnxruntime, ai-edge-litert)")


def test_a_jetson_that_is_called_one_counts_before_it_is_reached(loaded: LoadedConfig):
    assert chosen(loaded, None, named="jetson-orin-nano")[0] == ALL
    assert chosen(loaded, None, named="raspberry-pi-5")[0] == ("onnxruntime", "tflite")


def test_another_machine_with_tensorrt_gets_it_as_well(loaded: LoadedConfig):
    assert chosen(loaded, info(None, machine="x86_64"))[0] == ALL


def test_what_it_is_counts_where_its_runtimes_do_not(loaded: LoadedConfig):
    """A Jetson that has nothing installed: the user is told what to install for each."""
    bare = info(ORIN, ())
    assert chosen(loaded, bare, installed=False)[0] == ALL
    with pytest.raises(ConfigError, match="no target can take this model"):
        chosen(loaded, bare)


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT8_FLOAT_IO])
def test_int8_is_not_made_for_a_nano_and_float16_is_offered(loaded: LoadedConfig, scheme: Scheme):
    nano = info(NANO, tensorrt="8.2.1")
    names, notes = chosen(loaded, nano, scheme)
    assert names == ("onnxruntime", "tflite")
    said = f"the GPU of this board (compute capability 5.3) does not compute in {scheme}"
    assert notes == (f"board: tensorrt left out: {said}. What it makes there: quantize: {{scheme: float16}}.",)
    assert chosen(loaded, nano, Scheme.FLOAT16) == (ALL, ())


def test_int8_that_was_asked_for_by_name_ends_the_run(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"yaml:3: target tensorrt: .*5\.3.* does not compute in int8") as caught:
        chosen(config(tmp_path, "targets: [tensorrt]\n"), info(NANO, tensorrt="8.2.1"))
    assert "float16" in caught.value.next_step


def test_int8_needs_the_common_plan(loaded: LoadedConfig):
    names, notes = chosen(loaded, info(ORIN), has_plan=False)
    assert names == ("onnxruntime", "tflite")
    assert notes == ("board: tensorrt left out: it makes int8 from a quantization plan only, and there is none.",)
    assert chosen(loaded, info(ORIN), Scheme.FLOAT16, has_plan=False) == (ALL, ())


def test_a_tensorrt_that_is_too_old_is_no_end_of_the_run(loaded: LoadedConfig):
    names, (note,) = chosen(loaded, info(ORIN, tensorrt="7.1.3"), Scheme.NONE)
    assert names == ("onnxruntime", "tflite")
    assert "TensorRT 7.1.3 is older than all that files are written for" in note


# What it is made for.


def test_facts_of_a_board():
    assert runtime_facts(device(), info(ORIN), "tensorrt") == RuntimeFacts(version="10.3.0", compute="8.7")
    assert runtime_facts(device("jetson-agx-thor"), info(None), "tensorrt") == RuntimeFacts(
        version="10.3.0", compute="11.0"
    )
    assert runtime_facts(device(), info(None), "tensorrt") == RuntimeFacts(version="10.3.0", compute="")
    assert runtime_facts(device(), info(ORIN, ("tflite",)), "tensorrt") is None
    # A TX1 has no profile; its own word counts before any profile's.
    said = info(ORIN, runtimes={"tensorrt": "8.2.1", "compute": "5.3"})
    assert runtime_facts(device(), said, "tensorrt") == RuntimeFacts(version="8.2.1", compute="5.3")


def test_only_jetsons_are_jetsons():
    assert is_jetson(device(), info(ORIN))
    assert is_jetson(device("jetson-nano"), None)
    assert not is_jetson(device(), info(PI))
    assert not is_jetson(device(), None)


def wanted(runtime: RuntimeFacts | None, target: str = "tensorrt") -> tuple[Wanted, ...]:
    plan = PlannedQuantization(folder=Path("plan"), key="k", record=None)
    return tuple(
        wanted_for(
            target, "aarch64", original=MODEL, compressed=MODEL, scheme=Scheme.INT8, per_channel=True, has_recipe=True,
            plan=plan, runtime=runtime,
        )
    )  # fmt: skip


def test_boards_with_the_same_facts_share_files_and_others_do_not():
    same = dataclasses.replace(ORIN_JP6)
    assert wanted(ORIN_JP6) == wanted(same)
    assert artifact_inputs(wanted(ORIN_JP6)[1], None) == artifact_inputs(wanted(same)[1], None)
    assert artifact_inputs(wanted(ORIN_JP6)[1], None) != artifact_inputs(wanted(ORIN_11)[1], None)
    assert wanted(ORIN_JP6, "tflite") == wanted(ORIN_11, "tflite")
    # Both may be in the artifacts folder of one run.
    names = [[item.file_name for item in wanted(one)] for one in (ORIN_JP6, ORIN_11)]
    assert names == [
        ["float-float32-10.3.0-8.7", "compressed-int8-10.3.0-8.7"],
        ["float-float32-11.4.1-8.7", "compressed-int8-11.4.1-8.7"],
    ]
    assert [item.file_name for item in wanted(None, "tflite")] == ["float-float32", "compressed-int8"]


def test_a_board_whose_tensorrt_changed_meanwhile_is_not_measured(tmp_path: Path):
    item = Built(
        wanted=wanted(ORIN_JP6)[0], artifact=artifact("dense.onnx", "onnx"), comparison=None, cached=True, seconds=0.0
    )
    met, updated = info(ORIN), info(ORIN, tensorrt="10.13.3")
    session: Any = SimpleNamespace(device=device(), info=met)
    fleet._still_as_met(session, met, [item])
    session.info = updated
    with pytest.raises(BoardError, match=r"has tensorrt 10\.13\.3 now; the artifacts were made for 10\.3\.0") as caught:
        fleet._still_as_met(session, met, [item])
    assert "Run again" in caught.value.next_step


# How it is asked for.


def test_the_agent_is_asked_for_the_targets_own_runner_with_its_options(tmp_path: Path):
    graph = tiny_plans.network(batch="N")
    planned_in(tmp_path, tiny_plans.plan(graph, tiny_plans.images()))
    made = tensorrt.compile(saved(graph, tmp_path), request(Scheme.INT8, tmp_path, ORIN_JP6), Silent())
    assert measured.runner(made) == "tensorrt"
    assert measured.asked(made)["options"] == made.build
    plain = artifact("dense.onnx", "onnx")
    assert measured.asked(plain) == {"sha256": plain.sha256, "runner": "onnxruntime", "precision": "float32"}


def test_this_machine_checks_it_as_it_is_written(tmp_path: Path):
    """CPU emulation of Q/DQ in a fresh process, by ONNX Runtime with its optimizations off."""
    graph = tiny_plans.network(batch="N")
    planned_in(tmp_path, tiny_plans.plan(graph, tiny_plans.images()))
    made = tensorrt.compile(saved(graph, tmp_path), request(Scheme.INT8, tmp_path, ORIN_JP6), Silent())
    work: Any = SimpleNamespace(store=SimpleNamespace(root=tmp_path / "store"), progress=Silent())
    stage = Stage(Any, SimpleNamespace(add_work=lambda **_: None), work)  # type: ignore[arg-type]
    x = tiny_plans.images(6, seed=4)
    with stage.this_machine() as session:
        (found,) = _infer(session, made, x).outputs
    (literal,) = tensorrt.outputs(made.path, x)
    np.testing.assert_array_equal(found, literal)
