"""What the agent tells of power arrives as records, and what went wrong is said."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from device_tests import power
from device_tests.agent.sensors import power as on_the_board
from edgesmith.types import Power, PowerRequest, PowerState
from tests.power_boards import Board


def test_figures_of_the_agent_are_a_record():
    samples = on_the_board.Samples("ina3221", [0, 10**9], [[1000.0], [3000.0]], ["VDD_IN"], [0], "all")
    told = samples.over([(0, 10**9)], runs=4)
    found = power.read_power(told)
    assert {field.name for field in fields(Power)} == set(told)
    assert (found.mean_mw, found.max_mw, found.energy_mj, found.energy_mj_per_run) == (2000, 3000, 2000, 500)
    assert [asdict(rail) for rail in found.rails] == told["rails"]
    assert found.reason is None


def test_no_figures_are_a_record_too():
    found = power.read_power(on_the_board.none("no rails").over([(0, 1)]))
    assert (found.mean_mw, found.energy_mj_per_run, found.rails, found.reason) == (None, None, (), "no rails")
    with pytest.raises(ValidationError):
        power.read_power({"mean_mw": 1.0})


def test_only_a_wish_is_sent():
    assert power.asked(None) is None
    assert power.asked(PowerRequest()) is None
    assert power.asked(PowerRequest(mode="15W")) == {"mode": "15W", "lock_clocks": False}
    assert power.asked(PowerRequest(lock_clocks=True)) == {"mode": None, "lock_clocks": True}


def test_what_it_was_measured_in_is_a_record_and_needs_no_word(tmp_path: Path):
    board = Board(tmp_path)
    with board.hold("25W", lock=True) as held:
        pass
    state = power.read_state(held.record())
    assert {field.name for field in fields(PowerState)} == set(held.record())
    assert (state.mode, state.mode_before, state.clocks_locked) == ("25W", "MAXN_SUPER", True)
    assert state.asked == PowerRequest(mode="25W", lock_clocks=True)
    assert state.restored is not None
    assert state.restored.steps[0].command == "nvpmodel -m 2"
    assert power.findings(state) == ()


def test_what_was_not_put_back_or_not_held_is_said(tmp_path: Path):
    board = Board(tmp_path)
    with board.hold("25W") as held:
        (board.top / "usr/sbin/nvpmodel").write_text("#!/bin/sh\nexit 7\n")
    (not_restored,) = power.findings(power.read_state(held.record()))
    assert (not_restored.severity, not_restored.code) == ("warning", "power-mode-not-restored")
    assert not_restored.text.startswith(
        "the board is not as it was before: the power mode is '25W', it was 'MAXN_SUPER'"
    )
    assert "which was MAXN_SUPER" in not_restored.next_step

    board = Board(tmp_path / "other")
    board.state("gpu_stays_loose")
    with board.hold(lock=True) as held:
        pass
    (loose,) = power.findings(power.read_state(held.record()))
    assert loose.text == (
        "clocks were to be held still, and could move: 17000000.gpu may move between 306000 and 1020000 kHz"
    )


def test_what_an_earlier_session_left_is_said(tmp_path: Path):
    board = Board(tmp_path)
    with board.hold() as held:
        told = held.record()
    told["recovered"] = [{"ok": True, "mode": "15W", "steps": [], "differs": []}]
    (recovered,) = power.findings(power.read_state(told))
    assert recovered.text == "an earlier session had been cut off; the board was first put back into 15W"
