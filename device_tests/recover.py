"""The recovery ladder: what is done about a board that fails, in this order, each rung at most once in a run.

    reconnect -> kill the stale agent -> reboot -> power command -> quarantine

It is climbed only for an `InfrastructureError` that may pass. A refusal, a mistake of the user, a broken budget and
Ctrl-C never climb: a red verdict is not retried into a green one. After every rung the interrupted work is done again
as a whole; what the board has already got is not sent again. A board is restarted only by who holds its lease, or, by
its power command, where it gives no answer at all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from device_tests import restart
from device_tests.connection import Connection
from device_tests.deadline import Deadline
from device_tests.quarantine import RUNS_IN_A_ROW, BoardStates
from device_tests.restart import NOT_POSSIBLE
from device_tests.session import BoardSession
from edgesmith.errors import ConnectionLost, InfrastructureError
from edgesmith.types import Device, RecoveryStep, Rung

WorkT = TypeVar("WorkT")

HELPED = "helped"
DID_NOT_HELP = "did not help"
_STOPPED = "not known: the run was stopped"
_RULE = "edgesmith"
_CONNECT_S = 30.0


class Reach(Protocol):
    """How a run gets to one board."""

    @property
    def device(self) -> Device:
        """The board."""

    def session(self, *, leased: bool, patient: bool = True) -> BoardSession:
        """A session that is not yet open; always of the same lease token, so that it comes back to its own lease.

        Args:
            leased: with the board's lease, for work; without, for a look.
            patient: wait for whoever holds the board now.
        """

    def connection(self, deadline: Deadline) -> AbstractContextManager[Connection]:
        """The bare link."""

    def kill_stale(self, session: BoardSession) -> None:
        """Ends what an earlier session of this run may have left running on the board."""

    def tell(self, text: str) -> None:
        """A line for the user and for the board's log; the board's name is put before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a board gets.

    Attributes:
        reconnect_s: to be there again, where it had answered in this run: it may be restarting by itself.
        restart_s: to answer after a reboot or a power cycle.
        poll_s: between two looks.
    """

    reconnect_s: float = 90.0
    restart_s: float = 300.0
    poll_s: float = 2.0


class Ladder:
    """One board in one run.

    Attributes:
        steps: the rungs climbed so far, in order.
    """

    def __init__(
        self, reach: Reach, states: BoardStates, stopping: threading.Event, patience: Patience | None = None
    ) -> None:
        """Prepares; nothing is reached.

        Args:
            reach: how to get to the board.
            states: where errors in a row and quarantine are kept.
            stopping: once set, nothing is climbed any more: the link was cut by us.
            patience: how long to wait for the board.
        """
        self.steps: list[RecoveryStep] = []
        self._reach = reach
        self._device = reach.device
        self._states = states
        self._stopping = stopping
        self._patience = patience or Patience()
        self._left = [Rung.RECONNECT, Rung.KILL_AGENT, Rung.REBOOT, Rung.POWER]
        self._errors_in_a_row = 0
        self._reached = False
        self._well = False
        self._silent = False
        self._holds = False
        self._boot_id: str | None = None

    def work(self, attempt: Callable[[BoardSession], WorkT], *, leased: bool) -> WorkT:
        """Does `attempt` on the board, mending the board where that may help.

        Args:
            attempt: the work as a whole; it is begun anew after every rung.
            leased: the work needs the board for itself.

        Raises:
            InfrastructureError: what could not be mended; the board is quarantined if it was of the kind that may pass.
        """
        try:
            return self._try(attempt, leased, None)
        except InfrastructureError as error:
            failure = error
        while True:
            step = self._climb(failure)
            if why_not := self._why_not(step.rung):
                self._append(step.rung, step.reason, f"{NOT_POSSIBLE}{why_not}", 0.0)
                continue
            self._reach.tell(f"{step.reason.removeprefix(f'{self._device.name}: ')} Recovery: {step.rung.value}")
            if outcome := self._mend(step.rung):
                self._record(step, outcome)
                continue
            try:
                result = self._try(attempt, leased, step)
            except InfrastructureError as error:
                self._record(step, DID_NOT_HELP)
                failure = error
            except BaseException:
                self._record(step, _STOPPED)
                raise
            else:
                self._record(step, HELPED)
                return result

    def settle(self) -> None:
        """The run is done with the board: counts how it went, and quarantines what keeps failing."""
        if self._stopping.is_set() or self._is_quarantined:
            return
        if self._errors_in_a_row >= RUNS_IN_A_ROW:
            last = self.steps[-1].reason
            self._quarantine(f"{self._errors_in_a_row} runs in a row with an infrastructure error, the last: {last}")
        elif self._well and not self._errors_in_a_row:
            with self._best_effort():
                self._states.record_success(self._device)

    def _try(self, attempt: Callable[[BoardSession], WorkT], leased: bool, step: _Step | None) -> WorkT:
        self._well = False
        with contextlib.ExitStack() as stack:
            session = self._open(stack, leased, step)
            if step is not None:
                if step.rung is Rung.KILL_AGENT:
                    self._reach.kill_stale(session)
                step.answered()
                self._reach.tell("it answers again; what was interrupted is done again as a whole")
            self._reached = True
            self._holds = self._holds or session.lease is not None
            if self._device.reboot or self._device.power:
                self._boot_id = restart.boot_id(session.connection)
            result = attempt(session)
        self._well = True
        return result

    def _open(self, stack: contextlib.ExitStack, leased: bool, step: _Step | None) -> BoardSession:
        back = step is not None and step.rung is Rung.RECONNECT and self._reached
        until = Deadline.after(self._patience.reconnect_s if back else 0.0)
        while True:
            try:
                session = stack.enter_context(self._reach.session(leased=leased))
            except InfrastructureError as error:
                self._silent = isinstance(error, ConnectionLost)
                if not self._silent or self._stopping.is_set() or until.remaining_s == 0.0:
                    raise
            else:
                self._silent = False
                return session
            self._stopping.wait(self._patience.poll_s)

    def _climb(self, failure: InfrastructureError) -> _Step:
        """The next rung, if there is one for this failure; else the failure is raised."""
        if not failure.may_pass or self._stopping.is_set():
            raise failure
        reason = _first_line(failure)
        if not self._errors_in_a_row and not self._is_here:
            self._errors_in_a_row = 1
            with self._best_effort():
                self._errors_in_a_row = self._states.record_error(self._device, reason)
        if not self._left:
            # Never reached may just mean switched off; only a second run in a row that says so counts against it.
            if self._reached:
                self._quarantine(reason)
            raise failure
        return _Step(self._left.pop(0), reason)

    def _why_not(self, rung: Rung) -> str:
        """Why a rung cannot even be tried; empty where it can."""
        if rung is Rung.REBOOT and not self._device.reboot:
            return "no `reboot:` is set for it"
        if rung is Rung.POWER and not self._device.power:
            return "no `power:` is set for it"
        return "it does not answer" if self._silent and rung in (Rung.KILL_AGENT, Rung.REBOOT) else ""

    def _mend(self, rung: Rung) -> str:
        """What a rung does before the work is tried again; returns what came of it where that is in vain."""
        if rung is Rung.REBOOT:
            return self._reboot()
        return self._power_cycle() if rung is Rung.POWER else ""

    def _reboot(self) -> str:
        try:
            with self._ours() as connection:
                self._boot_id, why_not = restart.reboot(connection, self._device.reboot)
        except InfrastructureError as error:
            return f"{NOT_POSSIBLE}{_first_line(error)}"
        return why_not or self._wait_restarted()

    def _power_cycle(self) -> str:
        try:
            # A board that answers may be at work for somebody else.
            with contextlib.nullcontext() if self._silent else self._ours():
                why_not = restart.power_cycle(self._device.power)
        except InfrastructureError as error:
            return f"{NOT_POSSIBLE}{_first_line(error)}"
        return why_not or self._wait_restarted()

    @contextlib.contextmanager
    def _ours(self) -> Iterator[Connection]:
        """The link to a board that nobody else holds.

        Raises:
            BoardBusy: somebody does.
            InfrastructureError: nobody can tell.
        """
        if self._holds:
            with self._reach.connection(Deadline.after(_CONNECT_S)) as connection:
                yield connection
        else:
            with self._reach.session(leased=True, patient=False) as session:
                self._holds = True
                yield session.connection

    def _wait_restarted(self) -> str:
        patience = self._patience
        why_not = restart.wait_restarted(
            self._reach.connection, self._boot_id, patience.restart_s, patience.poll_s, self._stopping
        )
        return f"{DID_NOT_HELP}: {why_not}" if why_not else ""

    def _record(self, step: _Step, outcome: str) -> None:
        took = step.seconds
        self._append(step.rung, step.reason, outcome, took)
        self._reach.tell(f"{step.rung.value}: {outcome} ({took:.1f} s)")

    def _quarantine(self, reason: str) -> None:
        if self._is_here or self._is_quarantined:
            return
        name = self._device.name
        with self._best_effort():
            self._states.quarantine(self._device, reason, _RULE)
            self._append(Rung.QUARANTINE, reason, f"until `edgesmith devices health {name}` passes", 0.0)
            self._reach.tell(f"quarantined; when it is mended: `edgesmith devices health {name}`")

    def _append(self, rung: Rung, reason: str, outcome: str, seconds: float) -> None:
        step = RecoveryStep(
            device=self._device.name, rung=rung, reason=reason, outcome=outcome, seconds=round(seconds, 3)
        )
        self.steps.append(step)

    @property
    def _is_here(self) -> bool:
        return self._device.transport == "local"

    @property
    def _is_quarantined(self) -> bool:
        return any(step.rung is Rung.QUARANTINE for step in self.steps)

    @contextlib.contextmanager
    def _best_effort(self) -> Iterator[None]:
        """What this machine cannot write down must not spoil what the board has measured; it is told."""
        try:
            yield
        except InfrastructureError as error:
            self._reach.tell(str(error))


class _Step:
    """A rung that is being climbed. Its time ends when the board answers: the work after it is not its cost."""

    def __init__(self, rung: Rung, reason: str) -> None:
        self.rung = rung
        self.reason = reason
        self._started = time.monotonic()
        self._ended: float | None = None

    def answered(self) -> None:
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        return (self._ended or time.monotonic()) - self._started


def _first_line(error: InfrastructureError) -> str:
    return error.what.splitlines()[0]
