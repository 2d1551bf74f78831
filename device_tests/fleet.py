"""The boards of one run side by side: a thread, a lease and a ladder each, and one way to stop them all."""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from device_tests import lease
from device_tests.board_log import BoardLog, Logged
from device_tests.connect import connect
from device_tests.connection import Connection
from device_tests.deadline import Deadline
from device_tests.quarantine import BoardStates
from device_tests.recover import Ladder, Patience
from device_tests.session import BoardSession
from edgesmith.errors import ConnectionLost, InfrastructureError
from edgesmith.progress import Progress
from edgesmith.types import Device, Lease, LeaseRequest, RecoveryStep

WorkT = TypeVar("WorkT")

_STOP_S = 15.0


class BoardLink:
    """A run's way to one board: opens its sessions, always under the same lease token, and adds up what they did.

    Attributes:
        device: the board.
        progress: where this board's steps are shown, at the moment.
        lease: the last one that was got; None where none was needed.
    """

    def __init__(
        self,
        device: Device,
        request: LeaseRequest,
        local_root: Path,
        progress: Progress,
        log: BoardLog,
        stopping: threading.Event,
    ) -> None:
        self.device = device
        self.log = log
        self.progress: Progress = Logged(progress, log)
        self.lease: Lease | None = None
        self._request = request
        self._local_root = local_root
        self._stopping = stopping
        self._sessions: list[BoardSession] = []

    def session(self, *, leased: bool, patient: bool = True) -> BoardSession:
        """See `recover.Reach`.

        Raises:
            ConnectionLost: the run is being stopped.
        """
        request = self._request if patient else replace(self._request, wait_s=0.0)
        session = BoardSession(
            self.device, local_root=self._local_root, progress=self.progress, lease=request if leased else None
        )
        # In this order: who stops us sets the event first, and then aborts what is listed.
        self._sessions.append(session)
        if self._stopping.is_set():
            raise ConnectionLost(f"{self.device.name}: the run was stopped.")
        return session

    def connection(self, deadline: Deadline) -> AbstractContextManager[Connection]:
        """See `recover.Reach`."""
        return connect(self.device, deadline, self._local_root)

    def kill_stale(self, session: BoardSession) -> None:
        """See `recover.Reach`."""
        for sentence in lease.kill_stale(session.ask, self.device, self._request.token):
            self.tell(sentence)

    def tell(self, text: str) -> None:
        """See `recover.Reach`."""
        self.progress.note(f"{self.device.name}: {text}")

    def abort(self) -> None:
        """Cuts what is open, from another thread: whatever waits there ends with `ConnectionLost`."""
        for session in tuple(self._sessions):
            session.abort()

    @property
    def bytes_sent(self) -> int:
        """Over all sessions."""
        return sum(session.bytes_sent for session in tuple(self._sessions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[WorkT]):
    """How the work on one board ended: with a value, or an error in its place."""

    device: Device
    value: WorkT | None
    error: InfrastructureError | None


class Fleet:
    """All boards of one run. Work is done in threads; what comes of it is handed over in the calling one."""

    def __init__(
        self,
        *,
        owner: str,
        run_id: str,
        local_root: Path,
        states: BoardStates,
        progress: Progress,
        row: Callable[[str], AbstractContextManager[Progress]],
        lease_wait_s: float = 600.0,
        logs: Callable[[Device], Path] | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Prepares; nothing is reached.

        Args:
            owner: of the leases, for people.
            run_id: of the leases, for people.
            local_root: folder here for what is sent; of the device "local" also the workdir.
            states: where quarantine and errors in a row are kept.
            progress: where a board that is alone shows its steps.
            row: makes a progress of one row for a board among others.
            lease_wait_s: how long each board is waited for while somebody else holds it.
            logs: the log file of a board; None writes none.
            patience: how long a board that fails gets.
        """
        self._owner, self._run_id, self._lease_wait_s = owner, run_id, lease_wait_s
        self._local_root, self._states, self._patience = local_root, states, patience
        self._progress, self._row, self._logs = progress, row, logs
        self._stopping = threading.Event()
        self._boards: dict[str, _Board] = {}

    def check(self, device: Device) -> None:
        """Lets a board pass that may judge a model.

        Raises:
            Quarantined: says why and since when.
        """
        self._states.check(device)

    def each(
        self,
        devices: Sequence[Device],
        work: Callable[[BoardSession], WorkT],
        done: Callable[[Outcome[WorkT]], None],
        *,
        leased: bool,
    ) -> None:
        """Does `work` on every board, those over a link side by side.

        A board's `InfrastructureError` is its outcome and disturbs no other. Ctrl-C, SIGTERM and an error in `done`
        stop them all: links are cut, the agents notice, end their children and give the leases back.

        Args:
            devices: which.
            work: in a thread of each board; done anew as a whole where the board had to be mended.
            done: told every outcome as it comes, in the calling thread.
            leased: the work needs the boards for itself.

        Raises:
            Exception: another error of a board's work, once the others are done.
        """
        over_a_link = [device for device in devices if device.transport != "local"]
        # This machine is measured alone, and last: driving the other boards would disturb its figures.
        groups = [over_a_link, *([device] for device in devices if device.transport == "local")]
        errors: dict[str, BaseException] = {}
        try:
            for group in groups:
                errors.update(self._side_by_side(group, work, done, leased=leased))
        except BaseException:
            self._stop()
            raise
        for device in devices:
            if device.name in errors:
                raise errors[device.name]

    def settle(self, device: Device) -> None:
        """The run is done with a board: see `Ladder.settle`."""
        if device.name in self._boards:
            self._boards[device.name].ladder.settle()

    @property
    def bytes_sent(self) -> int:
        """To all boards so far."""
        return sum(board.link.bytes_sent for board in self._boards.values())

    def steps(self) -> tuple[RecoveryStep, ...]:
        """What was done about boards that failed, board by board."""
        return tuple(step for board in self._boards.values() for step in tuple(board.ladder.steps))

    def leases(self) -> tuple[Lease, ...]:
        """Those that were got."""
        return tuple(board.link.lease for board in self._boards.values() if board.link.lease is not None)

    def _side_by_side(
        self,
        devices: Sequence[Device],
        work: Callable[[BoardSession], WorkT],
        done: Callable[[Outcome[WorkT]], None],
        *,
        leased: bool,
    ) -> dict[str, BaseException]:
        ended: queue.SimpleQueue[tuple[Device, WorkT | None, BaseException | None]] = queue.SimpleQueue()
        errors: dict[str, BaseException] = {}

        def visit(device: Device, board: _Board) -> None:
            try:
                with self._shown(board.link, alone=len(devices) == 1):
                    ended.put((device, board.work(work, leased=leased), None))
            except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
                ended.put((device, None, error))

        for device in devices:
            board = self._boards.setdefault(device.name, self._board(device))
            board.thread = threading.Thread(
                target=visit, args=(device, board), name=f"edgesmith-{device.name}", daemon=True
            )
            board.thread.start()
        for _ in devices:
            device, value, error = ended.get()
            if error is None or isinstance(error, InfrastructureError):
                done(Outcome(device=device, value=value, error=error))
            else:
                errors[device.name] = error
        return errors

    def _board(self, device: Device) -> _Board:
        request = LeaseRequest(
            owner=self._owner, run_id=self._run_id, token=secrets.token_hex(8), wait_s=self._lease_wait_s
        )
        log = BoardLog(self._logs(device) if self._logs is not None else None)
        link = BoardLink(device, request, self._local_root, self._progress, log, self._stopping)
        return _Board(link, Ladder(link, self._states, self._stopping, self._patience))

    @contextlib.contextmanager
    def _shown(self, link: BoardLink, *, alone: bool) -> Iterator[None]:
        with contextlib.nullcontext(self._progress) if alone else self._row(link.device.name) as progress:
            link.progress = Logged(progress, link.log)
            yield

    def _stop(self) -> None:
        """Cuts all links and waits for the threads: each gives its lease back, or its agent does."""
        self._stopping.set()
        until = Deadline.after(_STOP_S)
        boards = [board for board in self._boards.values() if board.thread is not None]
        for board in boards:
            board.link.abort()
        for board in boards:
            if board.thread is not None:
                board.thread.join(until.remaining_s)


class _Board:
    """A board's way and ladder, and the thread that is at it."""

    def __init__(self, link: BoardLink, ladder: Ladder) -> None:
        self.link = link
        self.ladder = ladder
        self.thread: threading.Thread | None = None

    def work(self, work: Callable[[BoardSession], WorkT], *, leased: bool) -> WorkT:
        def noted(session: BoardSession) -> WorkT:
            if session.lease is not None:
                self.link.lease = session.lease
            try:
                return work(session)
            finally:
                if session.agent_log:
                    self.link.log.line(f"the agent's last lines:\n{session.agent_log}")

        return self.ladder.work(noted, leased=leased)
