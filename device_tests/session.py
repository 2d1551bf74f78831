"""One board for the length of a lease: connected, agent running, things pushed, artifacts measured."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from device_tests import deploy, lease, measure, measured
from device_tests.agent_client import AgentClient, Refused
from device_tests.agent_zip import AgentZip, build_agent
from device_tests.connect import connect
from device_tests.connection import Connection, Process
from device_tests.deadline import Deadline
from device_tests.measured import Arrays, Inferred
from edgesmith.errors import BoardBusy, BoardError, ConnectionLost, InfrastructureError, InternalError
from edgesmith.progress import Progress, Task
from edgesmith.types import Artifact, BoardInfo, Device, Lease, LeaseRequest, Measurement, MeasureProtocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BoardSession", "Inferred"]

_HELLO_S = 180.0
_TRANSFER_S = 600.0
_CLOSE_S = 5.0


class BoardSession:
    """A board from connect to close. Use as a context manager, in one thread; `abort` is for the others.

    Attributes:
        device: as the inventory has it.
        bytes_sent: over this session: agent, artifacts, inputs.
        lease: the board's, from open to close; None where none was asked for.
    """

    def __init__(
        self,
        device: Device,
        *,
        local_root: Path,
        progress: Progress,
        lease: LeaseRequest | None = None,
        greet: bool = True,
        connect_timeout_s: float = 30.0,
        agent: AgentZip | None = None,
    ) -> None:
        """Prepares; nothing is reached before `__enter__`.

        Args:
            device: where to.
            local_root: folder here for what is sent; for the device "local" also the board's workdir.
            progress: where it tells how far it is.
            lease: the board is to be ours: waits for whoever has it. None for a look that disturbs nobody.
            greet: False only asks: without the greeting, which imports the board's runtimes, nothing can be measured,
                and whoever measures there is not disturbed. `info` is not known then.
            connect_timeout_s: for the connection, retries included.
            agent: another agent than the one that ships.
        """
        self.device = device
        self.bytes_sent = 0
        self.lease: Lease | None = None
        self._request = lease
        self._greet = greet
        self._local_root = local_root
        self._progress = progress
        self._connect_timeout_s = connect_timeout_s
        self._zip = agent or build_agent()
        self._stack = contextlib.ExitStack()
        self._connection: Connection | None = None
        self._process: Process | None = None
        self._agent: AgentClient | None = None
        self._aborted = False
        self._hello: Mapping[str, Any] = {}
        self._info: BoardInfo | None = None

    @property
    def info(self) -> BoardInfo:
        """What the agent found there."""
        if self._info is None:
            raise InternalError("the board session is not open.")
        return self._info

    @property
    def progress(self) -> Progress:
        """Where what is done on this board is told."""
        return self._progress

    @property
    def connection(self) -> Connection:
        """The link to the board."""
        if self._connection is None:
            raise InternalError("the board session is not open.")
        return self._connection

    @property
    def agent_log(self) -> str:
        """The last lines of the agent's stderr; empty where it was never started."""
        return "" if self._process is None else self._process.stderr_tail().strip()

    def ask(self, method: str, params: Mapping[str, Any], deadline: Deadline) -> Mapping[str, Any]:
        """Asks the agent.

        Raises:
            Refused: it answered with an error.
            BoardBusy: the lease was lost meanwhile; whatever was done since counts for nothing.
            BoardError, ConnectionLost, DeadlineExceeded: there was no answer.
        """
        return self._ask(method, params, deadline)

    def abort(self) -> None:
        """Cuts the link at once, from any thread: what waits on it raises ConnectionLost."""
        self._aborted = True
        if self._connection is not None:
            self._connection.abort()

    def push(self, path: Path, sha256: str) -> int:
        """Brings a file to the board unless it is there; returns bytes sent.

        Raises:
            BoardError: no room, or it arrived damaged.
        """
        return self._push({sha256: path})

    def measure(
        self, artifacts: Sequence[Artifact], x: NDArray[Any], protocol: MeasureProtocol
    ) -> list[Measurement | BoardError]:
        """Latency, memory and outputs of each artifact, taking turns on the board.

        Args:
            artifacts: what to measure.
            x: [N, ...] evaluation samples, as the float model takes them.
            protocol: how.

        Returns:
            In order. An artifact whose runtime is missing or crashed is a `BoardError` in its place: the others
            keep their measurement.

        Raises:
            BoardError: the board as a whole failed.
            BoardBusy: the lease was lost meanwhile.
            ConnectionLost, DeadlineExceeded: the link, or the board's silence.
        """
        found: list[Measurement | BoardError | None] = [self._unable(artifact) for artifact in artifacts]
        able = [artifact for artifact, error in zip(artifacts, found, strict=True) if error is None]
        if able:
            results = iter(self._measure(able, x, protocol))
            found = [next(results) if error is None else error for error in found]
        return [one for one in found if one is not None]

    def infer(self, artifact: Artifact, x: NDArray[Any], timeout_s: float = 600.0) -> Inferred:
        """Raw outputs for every sample; nothing is timed.

        Raises:
            BoardError: the runtime is missing, refused the model or crashed.
            BoardBusy, ConnectionLost, DeadlineExceeded: as in `measure`.
        """
        if (unable := self._unable(artifact)) is not None:
            raise unable
        inputs = self._push_inputs([artifact], x)
        params = {"artifact": measured.asked(artifact), "inputs": inputs, "threads": 1}
        with self._progress.task(f"run on {self.device.name}", total=1.0) as task:
            try:
                told = self._ask("infer", params, Deadline.after(timeout_s), task)
            except Refused as refused:
                raise measured.artifact_error(artifact, self.device, refused) from None
        with self._arrays(told["folder"]) as arrays:
            return measured.inferred(told, arrays)

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _open(self) -> None:
        with self._progress.task(f"connect to {self.device.name}"):
            deadline = Deadline.after(self._connect_timeout_s)
            connection = self._stack.enter_context(connect(self.device, deadline, self._local_root))
            self._connection = connection
            if self._aborted:
                raise self._cut()
            self._agent = self._start_agent(connection, Deadline.after(_HELLO_S))
        # First the lease: the greeting imports runtimes, and would disturb whoever measures there.
        if self._request is not None:
            self._acquire(self._request, self._agent)
        if not self._greet:
            return
        with self._progress.task(f"look at {self.device.name}"):
            self._hello = self.ask("hello", {"workdir": self._workdir}, Deadline.after(_HELLO_S))
            self._info = measure.board_info(self._hello, self._zip.sha256)

    def _start_agent(self, connection: Connection, ready: Deadline) -> AgentClient:
        python = self.device.python
        path, sent = deploy.ensure_agent(connection, python, self._workdir, self._zip, self._local_root, ready)
        self.bytes_sent += sent
        self._process = process = connection.spawn([python, "-u", path], ready)
        self._stack.callback(_end, process)
        agent = AgentClient(process, self.device.name)
        agent.wait_until_ready(ready)
        return agent

    def _acquire(self, request: LeaseRequest, agent: AgentClient) -> None:
        with self._progress.task(f"wait for {self.device.name}"):
            self.lease = lease.acquire(self.ask, self.device, request, self._progress)
        heartbeat = lease.Heartbeat(agent.heartbeat, request.ttl_s / lease.BEATS_PER_TTL)
        self._stack.callback(heartbeat.stop)

    def _close(self) -> None:
        """Ends everything. The agent gives the lease back when it leaves, which it does once its stdin has ended."""
        connection = self._connection
        if connection is None:
            self._stack.close()
            return
        # On a link that has gone silent every farewell would wait for its own deadline.
        patience = threading.Timer(_CLOSE_S, connection.abort)
        patience.daemon = True
        patience.start()
        try:
            self._stack.close()
        finally:
            patience.cancel()

    @property
    def _workdir(self) -> str:
        return "." if self.device.transport == "local" else self.device.workdir

    def _ask(
        self, method: str, params: Mapping[str, Any], deadline: Deadline, task: Task | None = None
    ) -> Mapping[str, Any]:
        if self._agent is None:
            raise InternalError("the board session is not open.")
        shown = 0.0

        def event(told: Mapping[str, Any]) -> None:
            nonlocal shown
            if task is not None and told.get("event") == "progress":
                task.advance(told["fraction"] - shown, told["stage"])
                shown = told["fraction"]

        try:
            return self._agent.call(method, params, deadline, event)
        except Refused as refused:
            if refused.code != "lease-lost":
                raise
            raise BoardBusy(
                f"{self.device.name}: {refused.message}.",
                next_step="The board, or the way to it, stood still for longer than the lease lasts. Run again.",
            ) from None
        except InfrastructureError:
            if not self._aborted:
                raise
            raise self._cut() from None

    def _cut(self) -> ConnectionLost:
        return ConnectionLost(f"{self.device.name}: the connection was cut from here.")

    def _push(self, files: Mapping[str, Path]) -> int:
        if self._agent is None:
            raise InternalError("the board session is not open.")
        until = Deadline.after(_TRANSFER_S)
        return deploy.push(self.connection, self._agent, self._workdir, files, until, self._progress, self._count)

    def _count(self, sent: int) -> None:
        self.bytes_sent += sent

    def _push_inputs(self, artifacts: Sequence[Artifact], x: NDArray[Any]) -> dict[str, str]:
        encoded = deploy.encode_inputs(x, self._local_root / "inputs")
        self._push({artifact.sha256: artifact.path for artifact in artifacts} | {encoded.sha256: encoded.path})
        return {"sha256": encoded.sha256, "dtype": encoded.dtype}

    def _measure(
        self, artifacts: Sequence[Artifact], x: NDArray[Any], protocol: MeasureProtocol
    ) -> Iterator[Measurement | BoardError]:
        inputs = self._push_inputs(artifacts, x)
        params = {
            "artifacts": [measured.asked(artifact) for artifact in artifacts],
            "inputs": inputs,
            "protocol": {
                "min_runs": protocol.min_runs,
                "min_seconds": protocol.min_seconds,
                "windows": protocol.windows,
                "warmup_max_seconds": protocol.warmup_max_seconds,
                "threads": protocol.threads,
                "timeout_seconds": protocol.timeout_seconds,
            },
        }
        until = Deadline.after(protocol.timeout_seconds * len(artifacts))
        with self._progress.task(f"measure on {self.device.name}", total=1.0) as task:
            told = self._ask("measure", params, until, task)
        with self._arrays(told["folder"]) as arrays:
            for artifact, one in zip(artifacts, told["artifacts"], strict=True):
                if "error" in one:
                    refused = Refused(self.device.name, one["error"])
                    yield measured.artifact_error(artifact, self.device, refused)
                else:
                    yield measured.measurement(
                        one, told, arrays, device=self.device.name, board=self.info, protocol=protocol
                    )

    def _unable(self, artifact: Artifact) -> BoardError | None:
        return measured.unable(artifact, self.device, self._hello)

    @contextlib.contextmanager
    def _arrays(self, folder: str) -> Iterator[Arrays]:
        """Fetches files of an answer, then has the board remove them."""
        with tempfile.TemporaryDirectory(prefix="edgesmith-") as here:
            yield Arrays(self.connection, Path(here), Deadline.after(_TRANSFER_S))
        self._ask("forget", {"folder": folder}, Deadline.after(60))


def _end(process: Process) -> None:
    """Lets the agent go. A link that is gone by now has been told about, or matters no more."""
    with contextlib.suppress(InfrastructureError):
        process.close(Deadline.after(_CLOSE_S))
