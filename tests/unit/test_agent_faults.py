"""Runtimes that crash, hang, chat or lack: an answer for the one artifact, and the others keep their figures."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device_tests.agent_zip import AgentZip, build_agent
from device_tests.session import BoardSession
from edgesmith.errors import BoardError
from edgesmith.progress import Silent, Task
from edgesmith.types import Artifact, Device, Measurement, MeasureProtocol
from tests.tiny_artifacts import artifact

HERE = Device(name="local", transport="local", python=sys.executable)
QUICK = MeasureProtocol(min_runs=10, min_seconds=0.01, windows=2, warmup_max_seconds=1.0, timeout_seconds=30.0)
X = np.array([[4, 8, 12, 0], [0, 0, 0, 255]], np.float32)
SEGV = "os.kill(os.getpid(), signal.SIGSEGV)"
RUNNER = """
import os, signal, sys, time
import numpy as np

from device_tests.agent.runners import Input

PACKAGES = ("{name}",)

def probe():
    {probe}
    return {{"{name}": "1.0"}}

class Runner:
    name = "{name} 1.0"
    inputs = [Input("x", [4], np.dtype("float32"), None)]
    output_quantization = [None]

    def __init__(self, path, threads, options):
        {load}

    def __call__(self, sample):
        {call}
        return [sample[0] * 2]
"""


def agents(faults: dict[str, dict[str, str]]) -> AgentZip:
    """An agent with further runners: name -> what it does in "probe", "load" and "call"."""
    calm = {"probe": "pass", "load": "pass", "call": "pass"}
    sources = {name: RUNNER.format(name=name, **(calm | does)) for name, does in faults.items()}
    return build_agent({f"runners/{name}.py": source.encode() for name, source in sources.items()})


GOOD = artifact("dense.onnx", "onnx")


def measured(tmp_path: Path, agent: AgentZip, *artifacts: Artifact, protocol: MeasureProtocol = QUICK):
    with BoardSession(HERE, local_root=tmp_path / "board", progress=Silent(), agent=agent) as board:
        return board.measure(artifacts, X, protocol)


def test_two_runtimes_take_turns_and_give_latency_and_outputs(tmp_path: Path):
    models = [artifact("dense.tflite", "tflite"), artifact("dense_int8.tflite", "tflite"), GOOD]
    protocol = dataclasses.replace(QUICK, windows=4, min_runs=40)
    found = measured(tmp_path, build_agent(), *models, protocol=protocol)
    for model, one in zip(models, found, strict=True):
        assert isinstance(one, Measurement)
        assert one.artifact_sha256 == model.sha256
        assert len(one.samples_ns) == len(one.windows) >= 40
        assert set(one.windows) == {0, 1, 2, 3}
        assert (one.samples_ns > 0).all()
        assert len(one.warmup_ns) >= 9 + 4 * 3
        assert one.peak_rss_bytes is not None
        assert one.peak_rss_bytes > 1 << 20
    floats, integers, onnx = (one.outputs[0] for one in found if isinstance(one, Measurement))
    expected = np.array([[1, 2, 3], [63.75, 63.75, 63.75]], np.float32)
    np.testing.assert_allclose(floats, expected)
    np.testing.assert_allclose(onnx, expected)
    # steps of 0.5 above -128; 63.75 lies between 127 and 128 steps
    np.testing.assert_array_equal(integers[0], [-126, -124, -122])
    assert set(integers[1].tolist()) <= {-1, 0}
    assert found[1].output_quantization == ((0.5, -128),)
    assert found[0].runner.startswith("ai-edge-litert 2.")
    assert found[2].runner.startswith("onnxruntime 1.")
    assert found[0].outputs_sha256 != found[1].outputs_sha256


def test_inference_alone_gives_the_same_outputs(tmp_path: Path):
    with BoardSession(HERE, local_root=tmp_path / "board", progress=Silent()) as board:
        found = board.infer(artifact("dense_int8.tflite", "tflite"), X)
        np.testing.assert_array_equal(found.outputs[0][0], [-126, -124, -122])
        assert found.quantization == ((0.5, -128),)
        assert not list((tmp_path / "board" / "work").rglob("*.npy"))


FAULTS = {
    "segv_load": ({"load": SEGV}, "the runtime crashed: SIGSEGV during 'load'"),
    "segv_call": ({"call": SEGV}, "the runtime crashed: SIGSEGV during 'warm_up'"),
    "oom": ({"call": SEGV.replace("SEGV", "KILL")}, "SIGKILL during 'warm_up'; the board was probably out of memory"),
    "exits": ({"load": "os._exit(3)"}, "exit status 3 during 'load'"),
    "raises": ({"call": "raise ZeroDivisionError('by hand')"}, "ZeroDivisionError: by hand"),
    "refuses": ({"load": "raise RuntimeError('bad file')"}, "RuntimeError: bad file"),
    "varies": (
        {"call": "return [np.zeros((1, int(sample[0][0, 0])))]"},
        "an output changed from float64 [4] to float64 [0] between samples",
    ),
    "aborts": ({"load": "sys.stderr.write('assertion failed: 7\\n'); sys.stderr.flush(); os.abort()"}, "SIGABRT"),
    "import_crash": ({"probe": SEGV}, "No runtime for import_crash (SIGSEGV during 'probe')"),
}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measurement | BoardError]:
    """Every fault beside a good artifact, in one measurement."""
    agent = agents({name: faults for name, (faults, _) in FAULTS.items()})
    artifacts = [*(artifact("dense.tflite", name) for name in FAULTS), GOOD]
    found = measured(tmp_path_factory.mktemp("faults"), agent, *artifacts)
    return dict(zip([*FAULTS, "good"], found, strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_one_that_fails_is_an_error_in_its_place(together: dict[str, Measurement | BoardError], name: str):
    error = together[name]
    assert isinstance(error, BoardError)
    assert "local: " in error.what
    assert FAULTS[name][1] in error.what


def test_the_others_keep_their_figures(together: dict[str, Measurement | BoardError]):
    good = together["good"]
    assert isinstance(good, Measurement)
    np.testing.assert_allclose(good.outputs[0][0], [1, 2, 3])


def test_the_last_words_of_a_crashed_runtime_are_kept(together: dict[str, Measurement | BoardError]):
    error = together["aborts"]
    assert isinstance(error, BoardError)
    assert error.next_step == "Its last lines:\n    assertion failed: 7"


def test_a_hung_runtime_is_ended_at_its_deadline_and_the_others_go_on(tmp_path: Path):
    note = tmp_path / "pid"
    hang = f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    protocol = dataclasses.replace(QUICK, timeout_seconds=3.0)
    start = time.monotonic()
    found = measured(
        tmp_path, agents({"hung": {"call": hang}}), artifact("dense.tflite", "hung"), GOOD, protocol=protocol
    )
    assert time.monotonic() - start < 60
    assert isinstance(found[0], BoardError)
    assert "no answer to 'warm_up' in time; it was ended" in found[0].what
    assert "measure.timeout_seconds" in found[0].next_step
    assert isinstance(found[1], Measurement)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_what_a_runtime_prints_does_not_reach_the_protocol(tmp_path: Path):
    agent = agents({"chatty": {"load": "os.write(1, b'{}\\n'); print('hello')", "call": "os.write(1, b'noise\\n')"}})
    (found,) = measured(tmp_path, agent, artifact("dense.tflite", "chatty"))
    assert isinstance(found, Measurement)
    np.testing.assert_array_equal(found.outputs[0], X * 2)


def test_a_runtime_that_is_missing_names_the_package_and_the_command(tmp_path: Path):
    agent = agents({"tflite": {"probe": "raise ImportError(\"No module named 'ai_edge_litert'\")"}})
    found = measured(tmp_path, agent, artifact("dense.tflite", "tflite"), GOOD)
    assert isinstance(found[0], BoardError)
    assert "No runtime for tflite (No module named 'ai_edge_litert')" in found[0].what
    assert f"{sys.executable} -m pip install ai-edge-litert" in found[0].next_step
    assert isinstance(found[1], Measurement)
    with (
        BoardSession(HERE, local_root=tmp_path / "board", progress=Silent(), agent=agent) as board,
        pytest.raises(BoardError, match=r"No runtime for tflite"),
    ):
        board.infer(artifact("dense.tflite", "tflite"), X)


def test_an_unknown_format_is_refused_by_the_agent(tmp_path: Path):
    (found,) = measured(tmp_path, build_agent(), artifact("dense.tflite", "abacus"))
    assert isinstance(found, BoardError)
    assert "no runner 'abacus'; there are onnxruntime, tensorrt, tflite" in found.what


def test_samples_that_do_not_fit_are_refused(tmp_path: Path):
    with BoardSession(HERE, local_root=tmp_path / "board", progress=Silent()) as board:
        (found,) = board.measure([GOOD], np.zeros((2, 5), np.float32), QUICK)
    assert isinstance(found, BoardError)
    assert "the model takes samples of shape [4], these are [5]" in found.what


@pytest.mark.parametrize(("file", "kind"), [("make_models.py", "tflite"), ("make_models.py", "onnx")])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, file: str, kind: str):
    (found,) = measured(tmp_path, build_agent(), artifact(file, kind))
    assert isinstance(found, BoardError)
    assert f"local: {file} (" in found.what
    assert "crashed" not in found.what


class Watch(Silent):
    """Remembers what the measuring task was told."""

    def __init__(self) -> None:
        self.total = 0.0
        self.notes: list[str] = []

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        with super().task(label, total) as silent:
            yield self if label.startswith("measure") else silent

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.total += amount
        self.notes.append(note)


def test_progress_reaches_its_end(tmp_path: Path):
    watch = Watch()
    with BoardSession(HERE, local_root=tmp_path / "board", progress=watch) as board:
        board.measure([GOOD], X, QUICK)
    assert watch.total == pytest.approx(1.0)
    assert watch.notes == ["load", "warm-up", "window 1 of 2", "window 2 of 2", "outputs"]
