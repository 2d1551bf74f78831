"""The health check on a board of this process: what passes, what fails and says why, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_tests import health
from device_tests.health import Health, check_health
from device_tests.health_models import HERE, samples
from device_tests.loopback import InProcessBoard, folder_for_boards
from device_tests.quarantine import BoardStates
from device_tests.session import BoardSession
from edgesmith.errors import Quarantined
from edgesmith.progress import Silent
from edgesmith.types import Device, LeaseRequest


@pytest.fixture
def pi(nobodys_ssh_setup: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessBoard]:
    quick = replace(health._PROTOCOL, min_runs=20, min_seconds=0.05, windows=2, warmup_max_seconds=0.5)
    monkeypatch.setattr(health, "_PROTOCOL", quick)
    monkeypatch.setattr(health, "BAND", 0.99)  # a machine that runs tests is no board that runs health checks
    with folder_for_boards() as folder, InProcessBoard(folder / "pi") as board:
        yield board


@pytest.fixture
def states(tmp_path: Path) -> BoardStates:
    return BoardStates(tmp_path / "states")


def check(device: Device, states: BoardStates, tmp_path: Path, lease_wait_s: float = 0.0) -> Health:
    return check_health(device, states, local_root=tmp_path / "local", progress=Silent(), lease_wait_s=lease_wait_s)


def why(found: Health, name: str) -> str:
    return next(one.why for one in found.checks if one.name == name)


def test_a_board_that_is_well_is_set_free_and_keeps_its_band(pi: InProcessBoard, states: BoardStates, tmp_path: Path):
    device = pi.device("pi")
    states.record_error(device, "the link was lost")
    states.quarantine(device, "why", "edgesmith")
    found = check(device, states, tmp_path)
    assert found.ok, found.lines()
    assert found.lifted
    assert [one.name for one in found.checks] == [
        "connect",
        "agent",
        "lease",
        "hash echo",
        "state",
        "answers",
        "speed",
    ]
    assert why(found, "hash echo") == "1,048,576 random bytes arrived whole"
    assert found.lines()[0] == "pi: well; the quarantine is lifted"
    states.check(device)
    assert states.get(device).errors_in_a_row == 0
    left = [path.name for path in (pi.home / "edgesmith" / "incoming").iterdir()]
    assert not [name for name in left if name.startswith("health-")]
    band = states.get(device).band
    if band is None:  # a noisy moment sets none
        assert "no band is set" in why(found, "speed")

    # All that is needed is there now: only the random file still crosses the link.
    pi.flip = True
    again = check(device, states, tmp_path)
    assert not again.ok
    assert not again.lifted
    assert why(again, "hash echo") == "1,048,576 random bytes arrived DAMAGED: look at its disk and memory"
    assert json.loads(json.dumps(again.as_dict()))["ok"] is False


def test_a_board_outside_its_band_stays_in_quarantine(
    pi: InProcessBoard, states: BoardStates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    device = pi.device("pi")
    states.quarantine(device, "why", "edgesmith")
    real = health._Trial._speed

    def far_faster_before(trial: health._Trial, model: object, measured: object) -> health.Check:
        fast = health.HealthBand(
            model_sha256=model.sha256, runner=measured.runner, median_ns=1, set_at="2026-01-01T00:00:00+00:00"
        )
        trial._states.set_band(device, fast)
        return real(trial, model, measured)

    monkeypatch.setattr(health._Trial, "_speed", far_faster_before)
    found = check(device, states, tmp_path)
    assert not found.ok
    assert "OUTSIDE its band" in why(found, "speed")
    assert "is it throttled, hot, or busy?" in why(found, "speed")
    assert found.lines()[0] == "pi: NOT well: it does not judge models"
    with pytest.raises(Quarantined):
        states.check(device)


def test_wrong_answers_are_no_health(
    pi: InProcessBoard, states: BoardStates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(health, "samples", lambda: samples() + 1)
    found = check(pi.device("pi"), states, tmp_path)
    assert not found.ok
    assert why(found, "answers").startswith("WRONG by ")


def test_a_board_that_is_off(states: BoardStates, tmp_path: Path, nobodys_ssh_setup: None):
    (tmp_path / "known_hosts").write_text("")
    off = Device(name="off", transport="ssh", host="127.0.0.1", port=9, user="pi", known_hosts=tmp_path / "known_hosts")
    found = check(off, states, tmp_path)
    (only,) = found.checks
    assert (only.name, only.ok) == ("connect", False)
    assert "refused" in only.why


def test_a_board_that_somebody_holds_says_who(pi: InProcessBoard, states: BoardStates, tmp_path: Path):
    device = pi.device("pi")
    request = LeaseRequest(owner="ann@ws", run_id="run-7", token="t")
    with BoardSession(device, local_root=tmp_path / "ann", progress=Silent(), lease=request):
        found = check(device, states, tmp_path)
    assert (found.checks[-1].name, found.checks[-1].ok) == ("lease", False)
    assert "ann@ws" in found.checks[-1].why


def test_a_board_without_a_python_fails_as_its_agent(pi: InProcessBoard, states: BoardStates, tmp_path: Path):
    found = check(replace(pi.device("pi"), python="/nowhere/python3"), states, tmp_path)
    assert [(one.name, one.ok) for one in found.checks] == [("connect", True), ("agent", False)]
    assert "/nowhere/python3" in found.checks[-1].why


def test_the_shipped_models_are_small_and_both_give_the_expected_answers():
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    expected = np.array(json.loads((HERE / "expected.json").read_text()))
    assert all(path.stat().st_size < 10_000 for path in (HERE / "health.onnx", HERE / "health.tflite"))
    session = onnxruntime.InferenceSession(HERE / "health.onnx", providers=["CPUExecutionProvider"])
    (by_onnx,) = session.run(None, {"x": samples().transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(by_onnx, expected, atol=1e-4)
    interpreter = Interpreter(str(HERE / "health.tflite"))
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    for sample, row in zip(samples(), expected, strict=True):
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        np.testing.assert_allclose(interpreter.get_tensor(answer["index"])[0], row, atol=1e-4)
