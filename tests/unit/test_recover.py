"""The ladder against a scripted board: each rung at most once, in order, recorded, and only for what may pass."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_tests.connection import CommandResult
from device_tests.deadline import Deadline
from device_tests.quarantine import BoardStates
from device_tests.recover import Ladder, Patience
from edgesmith.errors import (
    AgentEnded,
    BoardBusy,
    BoardError,
    ConnectionLost,
    DeadlineExceeded,
    EdgesmithError,
    InputError,
    Quarantined,
)
from edgesmith.types import Device, Lease, Rung

IMPATIENT = Patience(reconnect_s=0.0, restart_s=0.0, poll_s=0.0)
ALL_RUNGS = [Rung.RECONNECT, Rung.KILL_AGENT, Rung.REBOOT, Rung.POWER, Rung.QUARANTINE]


class Board:
    """A board whose next moves are scripted: errors of opening a session, one after the other; then all is well."""

    def __init__(self, tmp_path: Path, *, power: str = "", reboot: bool = False) -> None:
        switch = tmp_path / "power"
        self.cycles = tmp_path / "cycles"
        switch.write_text(f"#!/bin/sh\necho cycled >> {self.cycles}\n{power or 'true'}\n")
        switch.chmod(0o755)
        self.device = Device(
            name="pi",
            transport="ssh",
            host="pi",
            reboot=("reboot",) if reboot else (),
            power=(str(switch),) if power else (),
        )
        self.states = BoardStates(tmp_path / "states")
        self.stopping = threading.Event()
        self.opening: list[EdgesmithError] = []
        self.linking: list[EdgesmithError] = []
        self.on_its_way_up: list[EdgesmithError] = []
        self.boots = 0
        self.reboots_itself = True
        self.done: list[str] = []
        self.told: list[str] = []
        self.held_by_other = False

    def ladder(self, patience: Patience = IMPATIENT) -> Ladder:
        return Ladder(self, self.states, self.stopping, patience)

    def session(self, *, leased: bool, patient: bool = True) -> Any:
        return Session(self, leased=leased, patient=patient)

    @contextlib.contextmanager
    def connection(self, deadline: Deadline) -> Iterator[Any]:
        if self.linking:
            raise self.linking.pop(0)
        if self.cycles.exists():
            self.boots = 99
        yield Link(self)

    def kill_stale(self, session: Any) -> None:
        self.done.append("kill")

    def tell(self, text: str) -> None:
        self.told.append(text)


class Session:
    def __init__(self, board: Board, *, leased: bool, patient: bool) -> None:
        self.board, self.leased, self.patient = board, leased, patient
        self.connection = Link(board)
        self.lease: Lease | None = None

    def __enter__(self) -> Session:
        self.board.done.append("open")
        if self.leased and self.board.held_by_other:
            raise BoardBusy("pi is held by ann@ws.")
        if self.board.opening:
            raise self.board.opening.pop(0)
        if self.leased:
            self.lease = Lease(
                device="pi", owner="me", run_id="1", token="t", ttl_s=60.0, taken_over=None, waited_s=0.0
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.board.done.append("close")


class Link:
    def __init__(self, board: Board) -> None:
        self.board = board

    def run(self, argv: list[str], deadline: Deadline) -> CommandResult:
        if argv == ["cat", "/proc/sys/kernel/random/boot_id"]:
            return done(f"boot {self.board.boots}")
        assert argv == ["reboot"]
        self.board.done.append("reboot")
        if self.board.reboots_itself:
            self.board.boots += 1
            self.board.linking = self.board.on_its_way_up
            raise ConnectionLost("pi: the connection was lost.")
        return done("", "sudo: a password is required", 1)


def done(stdout: str, stderr: str = "", status: int = 0) -> CommandResult:
    return CommandResult(exit_status=status, signal=None, stdout=stdout.encode(), stderr=stderr.encode())


def failing(*errors: BaseException | None) -> Callable[[Any], str]:
    """An attempt that ends with each of these in turn; None: it succeeds."""
    left = list(errors)

    def attempt(session: Any) -> str:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return "measured"

    return attempt


def lost() -> ConnectionLost:
    return ConnectionLost("pi: the link was lost.")


def hung() -> DeadlineExceeded:
    return DeadlineExceeded("pi: no answer in time.")


def rungs(ladder: Ladder) -> list[tuple[Rung, str]]:
    return [(step.rung, step.outcome) for step in ladder.steps]


def test_nothing_is_climbed_where_nothing_fails(tmp_path: Path):
    board = Board(tmp_path)
    ladder = board.ladder()
    assert ladder.work(failing(), leased=True) == "measured"
    ladder.settle()
    assert ladder.steps == []
    assert board.done == ["open", "close"]


def test_a_lost_link_is_reconnected_and_the_work_done_again_as_a_whole(tmp_path: Path):
    board = Board(tmp_path)
    ladder = board.ladder()
    assert ladder.work(failing(lost()), leased=True) == "measured"
    (step,) = ladder.steps
    assert (step.device, step.rung, step.outcome) == ("pi", Rung.RECONNECT, "helped")
    assert step.reason == "pi: the link was lost."
    assert board.told[0] == "the link was lost. Recovery: reconnect"
    assert "done again as a whole" in board.told[1]
    assert board.states.get(board.device).errors_in_a_row == 1


def test_rungs_in_order_each_once_and_the_reason_of_each(tmp_path: Path):
    board = Board(tmp_path, reboot=True, power="true")
    ladder = board.ladder()
    attempt = failing(lost(), hung(), AgentEnded("pi: the agent ended."), lost(), lost())
    with pytest.raises(ConnectionLost):
        ladder.work(attempt, leased=True)
    assert rungs(ladder) == [
        (Rung.RECONNECT, "did not help"),
        (Rung.KILL_AGENT, "did not help"),
        (Rung.REBOOT, "did not help"),
        (Rung.POWER, "did not help"),
        (Rung.QUARANTINE, "until `edgesmith devices health pi` passes"),
    ]
    reasons = [step.reason for step in ladder.steps]
    assert reasons[:3] == ["pi: the link was lost.", "pi: no answer in time.", "pi: the agent ended."]
    assert board.done.count("kill") == board.done.count("reboot") == 1
    assert board.cycles.read_text() == "cycled\n"
    with pytest.raises(Quarantined):
        board.states.check(board.device)


def test_a_second_failure_in_one_run_goes_on_where_the_first_ended(tmp_path: Path):
    board = Board(tmp_path)
    ladder = board.ladder()
    ladder.work(failing(lost()), leased=False)
    ladder.work(failing(lost()), leased=True)
    assert rungs(ladder) == [(Rung.RECONNECT, "helped"), (Rung.KILL_AGENT, "helped")]
    assert board.states.get(board.device).errors_in_a_row == 1  # a run counts once


def test_a_board_that_never_answers_is_not_asked_for_what_needs_an_answer(tmp_path: Path):
    board = Board(tmp_path, reboot=True)
    board.opening = [lost(), lost()]
    ladder = board.ladder()
    with pytest.raises(ConnectionLost):
        ladder.work(failing(), leased=True)
    assert rungs(ladder) == [
        (Rung.RECONNECT, "did not help"),
        (Rung.KILL_AGENT, "not possible: it does not answer"),
        (Rung.REBOOT, "not possible: it does not answer"),
        (Rung.POWER, "not possible: no `power:` is set for it"),
    ]
    assert board.done == ["open", "open"]
    board.states.check(board.device)  # it may just be switched off


def test_a_board_that_never_answers_in_two_runs_is_quarantined(tmp_path: Path):
    board = Board(tmp_path)
    for _ in range(2):
        board.opening = [lost(), lost()]
        ladder = board.ladder()
        with pytest.raises(ConnectionLost):
            ladder.work(failing(), leased=True)
        ladder.settle()
    assert ladder.steps[-1].rung is Rung.QUARANTINE
    with pytest.raises(Quarantined, match="2 runs in a row"):
        board.states.check(board.device)


@pytest.mark.parametrize(
    "error",
    [
        BoardError("pi: no space left."),
        BoardBusy("pi is held by ann@ws."),
        Quarantined("pi: quarantined."),
        InputError("no such file."),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_pass_never_climbs(tmp_path: Path, error: BaseException):
    board = Board(tmp_path, reboot=True, power="true")
    ladder = board.ladder()
    with pytest.raises(type(error)):
        ladder.work(failing(error), leased=True)
    ladder.settle()
    assert ladder.steps == []
    assert board.states.get(board.device).errors_in_a_row == 0
    assert not board.cycles.exists()


def test_a_refusal_on_the_way_up_ends_the_climb(tmp_path: Path):
    board = Board(tmp_path, reboot=True)
    board.opening = [lost(), BoardError("pi: THE HOST KEY HAS CHANGED.")]
    ladder = board.ladder()
    with pytest.raises(BoardError, match="HOST KEY"):
        ladder.work(failing(), leased=True)
    assert rungs(ladder) == [(Rung.RECONNECT, "did not help")]
    board.states.check(board.device)


def test_a_run_that_is_stopped_climbs_no_further_and_counts_nothing(tmp_path: Path):
    board = Board(tmp_path)
    ladder = board.ladder()
    board.stopping.set()
    with pytest.raises(ConnectionLost):
        ladder.work(failing(lost()), leased=True)
    ladder.settle()
    assert ladder.steps == []
    assert board.states.get(board.device).errors_in_a_row == 0


def test_a_stop_during_the_work_is_recorded_as_not_known(tmp_path: Path):
    ladder = Board(tmp_path).ladder()
    with pytest.raises(KeyboardInterrupt):
        ladder.work(failing(lost(), KeyboardInterrupt()), leased=True)
    assert rungs(ladder) == [(Rung.RECONNECT, "not known: the run was stopped")]


def test_a_reboot_waits_for_another_boot_id(tmp_path: Path):
    board = Board(tmp_path, reboot=True)
    board.on_its_way_up = [lost(), hung(), lost()]
    ladder = board.ladder(Patience(reconnect_s=0.0, restart_s=30.0, poll_s=0.0))
    assert ladder.work(failing(lost(), lost(), lost()), leased=True) == "measured"
    assert rungs(ladder)[-1] == (Rung.REBOOT, "helped")
    assert board.boots == 1
    assert not board.linking


def test_a_reboot_command_that_is_refused_says_why(tmp_path: Path):
    board = Board(tmp_path, reboot=True)
    board.reboots_itself = False
    ladder = board.ladder()
    with pytest.raises(ConnectionLost):
        ladder.work(failing(lost(), lost(), lost()), leased=True)
    outcome = dict(rungs(ladder))[Rung.REBOOT]
    assert outcome == "not possible: `reboot` ended with exit status 1: sudo: a password is required"


def test_a_power_command_that_fails_says_why(tmp_path: Path):
    board = Board(tmp_path, power="echo no such outlet >&2; exit 3")
    board.opening = [lost(), lost()]
    ladder = board.ladder()
    with pytest.raises(ConnectionLost):
        ladder.work(failing(), leased=True)
    outcome = dict(rungs(ladder))[Rung.POWER]
    assert outcome.startswith("not possible: `")
    assert outcome.endswith("ended with exit status 3: no such outlet")


def test_a_silent_board_is_power_cycled_and_the_work_goes_on(tmp_path: Path):
    board = Board(tmp_path, power="true")
    board.opening = [lost(), lost()]
    ladder = board.ladder()
    assert ladder.work(failing(), leased=True) == "measured"
    assert rungs(ladder)[-1] == (Rung.POWER, "helped")
    assert board.cycles.read_text() == "cycled\n"


def test_a_board_that_does_not_come_back_did_not_get_help(tmp_path: Path):
    board = Board(tmp_path, power="true")
    board.opening = [lost(), lost()]
    board.linking = [lost()]
    ladder = board.ladder()
    with pytest.raises(ConnectionLost):
        ladder.work(failing(), leased=True)
    assert dict(rungs(ladder))[Rung.POWER] == "did not help: no answer within 0 s"


def test_a_board_that_somebody_else_holds_is_not_restarted(tmp_path: Path):
    board = Board(tmp_path, reboot=True, power="true")
    board.held_by_other = True
    ladder = board.ladder()
    with pytest.raises(DeadlineExceeded):
        ladder.work(failing(hung(), hung(), hung()), leased=False)  # a look, which needs no lease
    found = dict(rungs(ladder))
    assert found[Rung.REBOOT] == found[Rung.POWER] == "not possible: pi is held by ann@ws."
    assert "reboot" not in board.done
    assert not board.cycles.exists()


def test_two_runs_in_a_row_with_errors_quarantine_though_the_ladder_helped(tmp_path: Path):
    board = Board(tmp_path)
    first, second = board.ladder(), board.ladder()
    first.work(failing(lost()), leased=True)
    first.settle()
    board.states.check(board.device)
    assert second.work(failing(lost()), leased=True) == "measured"  # what was measured well stays
    second.settle()
    assert second.steps[-1].rung is Rung.QUARANTINE
    with pytest.raises(Quarantined, match="2 runs in a row with an infrastructure error, the last: pi: the link was"):
        board.states.check(board.device)


def test_a_run_without_errors_begins_the_count_anew(tmp_path: Path):
    board = Board(tmp_path)
    for attempt in (failing(lost()), failing(), failing(lost())):
        ladder = board.ladder()
        ladder.work(attempt, leased=True)
        ladder.settle()
    board.states.check(board.device)


def test_this_machine_is_helped_but_never_quarantined(tmp_path: Path):
    board = Board(tmp_path)
    board.device = Device(name="local", transport="local")
    ladder = board.ladder()
    with pytest.raises(AgentEnded):
        ladder.work(failing(*(AgentEnded("local: the agent ended.") for _ in range(3))), leased=True)
    ladder.settle()
    assert [step.rung for step in ladder.steps] == ALL_RUNGS[:-1]
    assert not board.states.path(board.device).exists()


def test_what_cannot_be_written_down_does_not_spoil_the_work(tmp_path: Path):
    board = Board(tmp_path)
    (tmp_path / "states").write_text("a file where the folder should be")
    ladder = board.ladder()
    assert ladder.work(failing(lost()), leased=True) == "measured"
    ladder.settle()
    assert any("cannot be kept" in line for line in board.told)


def test_a_board_that_answered_in_this_run_gets_time_to_come_back(tmp_path: Path):
    board = Board(tmp_path)
    ladder = board.ladder(Patience(reconnect_s=60.0, restart_s=0.0, poll_s=0.0))
    ladder.work(failing(), leased=True)

    def cut(session: Any) -> str:
        board.opening = [lost(), lost(), lost()]
        raise lost()

    attempts = iter([cut, failing()])

    def attempt(session: Any) -> str:
        return next(attempts)(session)

    assert ladder.work(attempt, leased=True) == "measured"
    assert rungs(ladder) == [(Rung.RECONNECT, "helped")]


@settings(max_examples=60, deadline=None)
@given(errors=st.lists(st.sampled_from([lost, hung, None, "busy"]), max_size=12))
def test_whatever_happens_each_rung_is_climbed_at_most_once_and_in_order(
    errors: list[Any], tmp_path_factory: pytest.TempPathFactory
):
    board = Board(tmp_path_factory.mktemp("board"), reboot=True)
    ladder = board.ladder()
    script = [BoardBusy("pi is held.") if one == "busy" else one() if one else None for one in errors]
    attempt = failing(*script)
    for _ in range(3):
        with contextlib.suppress(EdgesmithError):
            ladder.work(attempt, leased=True)
    climbed = [step.rung for step in ladder.steps]
    assert climbed == ALL_RUNGS[: len(climbed)]
