"""Going through power modes: what is one mode's own fault, and what ends it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import device_tests.agent
from device_tests import power
from device_tests.session import BoardSession
from edgesmith.errors import BoardError, PowerModeRefused
from edgesmith.power_sweep import ModeSweep, Taken
from edgesmith.types import Measurement, PowerRequest, PowerRestored, PowerState


def session(*modes: str) -> BoardSession:
    told = {"modes": list(modes)}
    return cast(BoardSession, SimpleNamespace(device=SimpleNamespace(name="orin"), ask=lambda *_: told))


def measured(mode: str, *, restored: bool = True) -> Measurement:
    back = PowerRestored(ok=restored, mode=mode, steps=(), differs=())
    state = PowerState(
        asked=PowerRequest(mode=mode),
        mode=mode,
        mode_before="15W",
        clocks_locked=False,
        loose=(),
        restored=back,
        recovered=(),
    )
    fields: dict[str, Any] = dict.fromkeys(Measurement.__slots__)
    return Measurement(**{**fields, "power_state": state})


def refused(code: str) -> PowerModeRefused:
    return PowerModeRefused("orin: no.", code=code)


def test_every_mode_in_the_boards_order_or_those_that_are_named():
    taken = dict(ModeSweep().take(session("15W", "25W"), measured))
    assert [
        (mode, one.power_state and one.power_state.mode) for mode, one in taken.items() if isinstance(one, Measurement)
    ] == [
        ("15W", "15W"),
        ("25W", "25W"),
    ]
    assert [mode for mode, _ in ModeSweep(("25W",)).take(session("15W", "25W"), measured)] == ["25W"]


@pytest.mark.parametrize("code", ["power-mode-needs-reboot", "power-mode-unknown", "power-mode-failed"])
def test_what_one_mode_refuses_leaves_the_others(code: str):
    def measure(mode: str) -> Taken:
        return refused(code) if mode == "7W" else measured(mode)

    kinds = [(mode, type(one)) for mode, one in ModeSweep().take(session("7W", "15W"), measure)]
    assert kinds == [("7W", PowerModeRefused), ("15W", Measurement)]


@pytest.mark.parametrize("code", ["power-mode-denied", "power-mode-busy", "clocks-not-lockable"])
def test_what_every_mode_would_refuse_ends_it(code: str):
    asked = []

    def measure(mode: str) -> Taken:
        asked.append(mode)
        return refused(code)

    with pytest.raises(PowerModeRefused):
        list(ModeSweep().take(session("7W", "15W"), measure))
    assert asked == ["7W"]


def test_a_board_that_was_not_put_back_is_left_alone():
    asked = []

    def measure(mode: str) -> Taken:
        asked.append(mode)
        return measured(mode, restored=False)

    (_, first), (_, second) = ModeSweep().take(session("7W", "15W"), measure)
    assert isinstance(first, Measurement)
    assert isinstance(second, BoardError)
    assert second.what == "orin: skipped: after 7W the board was not as before."
    assert asked == ["7W"]


def test_a_board_without_modes_is_told():
    with pytest.raises(BoardError, match="orin: this board has no power modes") as caught:
        list(ModeSweep(("MAXN",)).take(session(), measured))
    assert "without --sweep" in caught.value.next_step


def test_every_refusal_of_the_agent_has_a_next_step():
    folder = Path(device_tests.agent.__file__).parent
    text = "".join(
        (folder / f"power_{part}.py").read_text() for part in ("hold", "guard", "journal", "modes", "switch")
    )
    codes = set(re.findall(r'Refusal\(\s*"([a-z-]+)"', text))
    assert len(codes) == 6
    for code in codes:
        error = power.refusal("orin", code, "why", {})
        assert error is not None
        assert (error.what, error.code) == ("orin: why.", code)
        assert error.next_step


def test_a_refusal_tells_what_was_not_put_back():
    facts = {"restored": {"ok": False, "mode": "7W", "steps": [], "differs": ["the power mode is '7W', it was '15W'"]}}
    error = power.refusal("orin", "power-mode-failed", "nvpmodel did not set it", facts)
    assert error is not None
    assert error.what.endswith("it. The board is not as it was before: the power mode is '7W', it was '15W'.")
    assert power.refusal("orin", "timeout", "the time was up", {}) is None


def test_only_a_request_takes_longer():
    assert power.patience_s(PowerRequest()) == 0
    assert power.patience_s(PowerRequest(mode="15W")) == power.patience_s(PowerRequest(lock_clocks=True)) == 540
