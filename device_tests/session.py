"""One board for the length of a lease: connected, agent running, things pushed, artifacts measured."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from device_tests import deploy, engines, lease, measure, measured, power
from device_tests.agent_client import Refused
from device_tests.agent_link import AgentLink
from device_tests.agent_zip import AgentZip, build_agent
from device_tests.connection import Connection
from device_tests.deadline import Deadline
from device_tests.install import no_runtime
from device_tests.lease import Heartbeat
from device_tests.measured import Arrays, Inferred
from device_tests.probe import probe
from edgesmith.errors import BoardError, BuildRefused, InternalError
from edgesmith.progress import Progress, Task
from edgesmith.types import Artifact, BoardInfo, Device, Engine, Lease, LeaseRequest, Measurement, MeasureProtocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BoardSession", "Inferred"]

_HELLO_S = 180.0
_TRANSFER_S = 600.0


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
        self._link = AgentLink(device, local_root, self._zip)
        self._heartbeat: Heartbeat | None = None
        self._hello: Mapping[str, Any] = {}
        self._info: BoardInfo | None = None
        self._engines: dict[str, Engine | BuildRefused] = {}

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
    def local_root(self) -> Path:
        """Folder here for what belongs to boards."""
        return self._local_root

    @property
    def connection(self) -> Connection:
        """The link to the board."""
        return self._link.connection

    @property
    def agent_log(self) -> str:
        """The last lines of the agent's stderr; empty where it was never started."""
        return self._link.log

    def ask(
        self, method: str, params: Mapping[str, Any], deadline: Deadline, task: Task | None = None
    ) -> Mapping[str, Any]:
        """Asks the agent; `task` shows how far it is.

        Raises:
            Refused: it answered with an error.
            BoardBusy: the lease was lost meanwhile; whatever was done since counts for nothing.
            BoardError, ConnectionLost, DeadlineExceeded: there was no answer.
        """
        return self._link.ask(method, params, deadline, task)

    def abort(self) -> None:
        """Cuts the link at once, from any thread: what waits on it raises ConnectionLost."""
        self._link.abort()

    def no_runtime(self, runner: str) -> BoardError | None:
        """Why nothing that needs this runner can work there, with the commands that mend it; None where it can."""
        return no_runtime(probe(self), runner) if runner in self._hello["missing"] else None

    def push(self, path: Path, sha256: str) -> int:
        """Brings a file to the board unless it is there; returns bytes sent.

        Raises:
            BoardError: no room, or it arrived damaged.
        """
        return self._push({sha256: path})

    def build(self, artifact: Artifact) -> Engine:
        """Has the board build its engine of an artifact, or find it; asked once in a session, whatever comes of it.

        One file with other options is another engine.

        Raises:
            BuildRefused: it cannot, or will not.
            BoardBusy, ConnectionLost, DeadlineExceeded: as in `measure`.
        """
        key = engines.asked_key(artifact)
        if key not in self._engines:
            self.push(artifact.path, artifact.sha256)
            try:
                self._engines[key] = engines.build(self, artifact)
            except BuildRefused as refused:
                self._engines[key] = refused
        found = self._engines[key]
        if isinstance(found, BuildRefused):
            raise found
        return found

    def measure(
        self, artifacts: Sequence[Artifact], x: NDArray[Any], protocol: MeasureProtocol
    ) -> list[Measurement | BoardError]:
        """Latency, memory and outputs of each artifact, taking turns on the board.

        Args:
            artifacts: what to measure.
            x: [N, ...] evaluation samples, as the float model takes them.
            protocol: how.

        Returns:
            In order. An artifact whose runtime is missing or crashed, or whose engine was not built, is a `BoardError`
            in its place: the others keep their measurement. A power mode that the board refuses is the error of all of
            them.

        Raises:
            BoardError: the board as a whole failed.
            BoardBusy: the lease was lost meanwhile.
            ConnectionLost, DeadlineExceeded: the link, or the board's silence.
        """
        found: list[Measurement | BoardError | None] = [
            self.no_runtime(measured.runner(artifact)) or self._not_built(artifact) for artifact in artifacts
        ]
        able = [artifact for artifact, error in zip(artifacts, found, strict=True) if error is None]
        if able:
            results = iter(list(self._measure(able, x, protocol)))  # to its end: it cleans up there
            found = [next(results) if error is None else error for error in found]
        return [one for one in found if one is not None]

    def infer(self, artifact: Artifact, x: NDArray[Any], timeout_s: float = 600.0) -> Inferred:
        """Raw outputs for every sample; nothing is timed.

        Raises:
            BoardError: the runtime is missing, refused the model or crashed.
            BoardBusy, ConnectionLost, DeadlineExceeded: as in `measure`.
        """
        if (unable := self.no_runtime(measured.runner(artifact))) is not None:
            raise unable
        if (unable := self._not_built(artifact)) is not None:
            raise unable
        inputs = self._push_inputs([artifact], x)
        params = {"artifact": measured.asked(artifact), "inputs": inputs, "threads": 1}
        with self._progress.task(f"run on {self.device.name}", total=1.0) as task:
            try:
                told = self._link.ask("infer", params, Deadline.after(timeout_s), task)
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
            self._count(self._link.open(self._connect_timeout_s))
        # First the lease: the greeting imports runtimes, and would disturb whoever measures there.
        if self._request is not None:
            self._acquire(self._request)
        if not self._greet:
            return
        with self._progress.task(f"look at {self.device.name}"):
            self._hello = self.ask("hello", {"workdir": self._link.workdir}, Deadline.after(_HELLO_S))
            self._info = measure.board_info(self._hello, self._zip.sha256)

    def _acquire(self, request: LeaseRequest) -> None:
        with self._progress.task(f"wait for {self.device.name}"):
            self.lease = lease.acquire(self.ask, self.device, request, self._progress)
        self._heartbeat = Heartbeat(self._link.client.heartbeat, request.ttl_s / lease.BEATS_PER_TTL)

    def _close(self) -> None:
        """Ends everything. The agent gives the lease back when it leaves, which it does once its stdin has ended."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._link.close()

    def _push(self, files: Mapping[str, Path]) -> int:
        link, until = self._link, Deadline.after(_TRANSFER_S)
        return deploy.push(link.connection, link.client, link.workdir, files, until, self._progress, self._count)

    def _count(self, sent: int) -> None:
        self.bytes_sent += sent

    def _push_inputs(self, artifacts: Sequence[Artifact], x: NDArray[Any]) -> dict[str, str]:
        encoded = deploy.encode_inputs(x, self._local_root / "inputs")
        self._push({artifact.sha256: artifact.path for artifact in artifacts} | {encoded.sha256: encoded.path})
        return {"sha256": encoded.sha256, "dtype": encoded.dtype}

    def _not_built(self, artifact: Artifact) -> BuildRefused | None:
        """Why the board has no engine of an artifact; None where it has, or needs none."""
        if not engines.is_built(artifact):
            return None
        try:
            self.build(artifact)
        except BuildRefused as error:
            return error
        return None

    def _measure(
        self, artifacts: Sequence[Artifact], x: NDArray[Any], protocol: MeasureProtocol
    ) -> Iterator[Measurement | BoardError]:
        inputs = self._push_inputs(artifacts, x)
        params = measured.request(artifacts, inputs, protocol)
        until = Deadline.after(protocol.timeout_seconds * len(artifacts) + power.patience_s(protocol.power))
        with self._progress.task(f"measure on {self.device.name}", total=1.0) as task:
            try:
                told = self._link.ask("measure", params, until, task)
            except Refused as answer:
                no_mode = power.refusal(self.device.name, answer.code, answer.message, answer.facts)
                if no_mode is None:
                    raise
                yield from [no_mode] * len(artifacts)
                return
        with self._arrays(told["folder"]) as arrays:
            for artifact, one in zip(artifacts, told["artifacts"], strict=True):
                if "error" in one:
                    refused = Refused(self.device.name, one["error"])
                    yield measured.artifact_error(artifact, self.device, refused)
                else:
                    taken = measured.measurement(
                        one, told, arrays, device=self.device.name, board=self.info, protocol=protocol
                    )
                    engine = self._engines.get(engines.asked_key(artifact))
                    if isinstance(engine, Engine):
                        engine = engines.profile(self, artifact, inputs, engine, protocol.power)
                        engine = engines.time_by_trtexec(self, artifact, inputs, engine, protocol.power)
                        taken = replace(taken, engine=engine)
                    yield taken

    @contextlib.contextmanager
    def _arrays(self, folder: str) -> Iterator[Arrays]:
        """Fetches files of an answer, then has the board remove them."""
        with tempfile.TemporaryDirectory(prefix="edgesmith-") as here:
            yield Arrays(self.connection, Path(here), Deadline.after(_TRANSFER_S))
        self.ask("forget", {"folder": folder}, Deadline.after(60))
