"""The ladder on a scripted board with the agent's own code: hangs, deaths and restarts, end to end in one process."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.fake_board import board_of, forget_boards
from device_tests.fleet import Fleet, Outcome
from device_tests.quarantine import BoardStates
from device_tests.recover import Patience
from device_tests.session import BoardSession
from edgesmith.progress import Silent
from edgesmith.types import Device, Measurement, MeasureProtocol, Rung
from tests.tiny_artifacts import artifact

X = np.array([[4, 8, 12, 0], [0, 0, 0, 255]], np.float32)
QUICK = MeasureProtocol(min_runs=10, min_seconds=0.01, windows=2)
Run = Callable[[str], tuple[Outcome[Measurement], list[tuple[Rung, str]], Device]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Measures a dense layer on a board with this script."""

    def work(session: BoardSession) -> Measurement:
        (measured,) = session.measure([artifact("dense.onnx", "onnx")], X, QUICK)
        assert isinstance(measured, Measurement)
        return measured

    def measure(script: str) -> tuple[Outcome[Measurement], list[tuple[Rung, str]], Device]:
        path = tmp_path / "pi.yaml"
        path.write_text(textwrap.dedent(script))
        device = Device(name="pi", transport="fake", script=path, reboot=("sudo", "reboot"))
        fleet = Fleet(
            owner="me",
            run_id="run-1",
            local_root=tmp_path / "local",
            states=BoardStates(tmp_path / "states"),
            progress=Silent(),
            row=lambda name: contextlib.nullcontext(Silent()),
            patience=Patience(reconnect_s=5.0, restart_s=5.0, poll_s=0.0),
        )
        outcomes: list[Outcome[Any]] = []
        fleet.each([device], work, outcomes.append, leased=True)
        return outcomes[0], [(step.rung, step.outcome) for step in fleet.steps()], device

    yield measure
    forget_boards()


def faulty(fault: str) -> str:
    return f"latency: [{{median_ms: 2}}]\nfaults: [{fault}]\n"


def test_an_agent_that_hangs_is_ended_and_the_measurement_taken_again(run: Run):
    outcome, climbed, _ = run(faulty("{at: measure, kind: hang, until: kill}"))
    assert outcome.error is None
    assert outcome.value is not None
    assert len(outcome.value.samples_ns) >= 10
    assert climbed == [(Rung.RECONNECT, "did not help"), (Rung.KILL_AGENT, "helped")]


def test_a_link_that_breaks_in_a_window_costs_a_reconnect(run: Run):
    outcome, climbed, _ = run(faulty("{at: window, after: 1, kind: lost, times: 1}"))
    assert outcome.error is None
    assert climbed == [(Rung.RECONNECT, "helped")]


def test_what_only_a_restart_mends_is_restarted(run: Run):
    outcome, climbed, device = run(faulty("{at: measure, kind: killed, until: reboot}"))
    assert outcome.error is None
    assert climbed == [
        (Rung.RECONNECT, "did not help"),
        (Rung.KILL_AGENT, "did not help"),
        (Rung.REBOOT, "helped"),
    ]
    assert board_of(device).log.count("reboot") == 1


def test_a_full_disk_climbs_nothing(run: Run):
    outcome, climbed, _ = run(faulty("{at: push, kind: disk-full}"))
    assert outcome.error is not None
    assert "no space left" in outcome.error.what
    assert climbed == []
