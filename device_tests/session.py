"""One board for the length of a lease: connected, agent running, things pushed, artifacts measured."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from device_tests import deploy, measure
from device_tests.agent_client import AgentClient, Refused
from device_tests.agent_zip import AgentZip, build_agent
from device_tests.connection import Connection, Process
from device_tests.deadline import Deadline
from device_tests.local import Local
from edgesmith.errors import BoardError, InfrastructureError, InternalError
from edgesmith.files import sha256_file
from edgesmith.progress import Progress, Task
from edgesmith.types import Artifact, BoardInfo, Device, Measurement, MeasureProtocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RUNNERS = {"onnx": "onnxruntime"}
_PIP = {"tflite": "ai-edge-litert", "onnxruntime": "onnxruntime"}
_HELLO_S = 180.0
_TRANSFER_S = 600.0
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Inferred:
    """What a model answered.

    Attributes:
        outputs: as the runtime gave them, one array [N, ...] per model output.
        quantization: (scale, zero_point) per output; None where it is not quantized.
    """

    outputs: tuple[NDArray[Any], ...]
    quantization: tuple[tuple[float, int] | None, ...]


class BoardSession:
    """A board from connect to close. Use as a context manager.

    Attributes:
        device: as the inventory has it.
        bytes_sent: over this session: agent, artifacts, inputs.
    """

    def __init__(
        self,
        device: Device,
        *,
        local_root: Path,
        progress: Progress,
        connect_timeout_s: float = 30.0,
        agent: AgentZip | None = None,
    ) -> None:
        """Prepares; nothing is reached before `__enter__`.

        Args:
            device: where to.
            local_root: folder here for what is sent; for the device "local" also the board's workdir.
            progress: where it tells how far it is.
            connect_timeout_s: for the connection, retries included.
            agent: another agent than the one that ships.
        """
        self.device = device
        self.bytes_sent = 0
        self._local_root = local_root
        self._progress = progress
        self._connect_timeout_s = connect_timeout_s
        self._zip = agent or build_agent()
        self._stack = contextlib.ExitStack()
        self._connection: Connection | None = None
        self._process: Process | None = None
        self._agent: AgentClient | None = None
        self._hello: Mapping[str, Any] = {}
        self._info: BoardInfo | None = None

    @property
    def info(self) -> BoardInfo:
        """What the agent found there."""
        if self._info is None:
            raise InternalError("the board session is not open.")
        return self._info

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
            ConnectionLost, DeadlineExceeded: the link, or the board's silence.
        """
        found: list[Measurement | BoardError | None] = [self._unable(artifact) for artifact in artifacts]
        able = [artifact for artifact, error in zip(artifacts, found, strict=True) if error is None]
        if able:
            measured = iter(self._measure(able, x, protocol))
            found = [next(measured) if error is None else error for error in found]
        return [one for one in found if one is not None]

    def infer(self, artifact: Artifact, x: NDArray[Any], timeout_s: float = 600.0) -> Inferred:
        """Raw outputs for every sample; nothing is timed.

        Raises:
            BoardError: the runtime is missing, refused the model or crashed.
            ConnectionLost, DeadlineExceeded: as in `measure`.
        """
        if (unable := self._unable(artifact)) is not None:
            raise unable
        inputs = self._push_inputs([artifact], x)
        params = {"artifact": _asked(artifact), "inputs": inputs, "threads": 1}
        with self._progress.task(f"run on {self.device.name}", total=1.0) as task:
            try:
                told = self._ask("infer", params, Deadline.after(timeout_s), task)
            except Refused as refused:
                raise self._artifact_error(artifact, refused) from None
        with self._arrays(told["folder"]) as arrays:
            return Inferred(
                outputs=tuple(arrays.fetch(file) for file in told["files"]),
                quantization=_pairs(told["output_quantization"]),
            )

    def __enter__(self) -> Self:
        try:
            with self._progress.task(f"connect to {self.device.name}"):
                self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self) -> None:
        self._connection = connection = self._stack.enter_context(self._connect())
        ready = Deadline.after(_HELLO_S)
        path, sent = deploy.ensure_agent(
            connection, self.device.python, self._workdir, self._zip, self._local_root, ready
        )
        self.bytes_sent += sent
        self._process = process = connection.spawn([self.device.python, "-u", path], ready)
        self._stack.callback(_end, process)
        self._agent = AgentClient(process, self.device.name)
        self._agent.wait_until_ready(ready)
        self._hello = self._agent.call("hello", {"workdir": self._workdir}, ready)
        self._info = measure.board_info(self._hello, self._zip.sha256)

    def _connect(self) -> Connection:
        if self.device.transport == "local":
            return Local(self._local_root)
        from device_tests.ssh import Ssh

        return Ssh(self.device, Deadline.after(self._connect_timeout_s))

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

        return self._agent.call(method, params, deadline, event)

    def _push(self, files: Mapping[str, Path]) -> int:
        if self._connection is None or self._agent is None:
            raise InternalError("the board session is not open.")
        until = Deadline.after(_TRANSFER_S)
        sent = deploy.push(self._connection, self._agent, self._workdir, files, until, self._progress)
        self.bytes_sent += sent
        return sent

    def _push_inputs(self, artifacts: Sequence[Artifact], x: NDArray[Any]) -> dict[str, str]:
        encoded = deploy.encode_inputs(x, self._local_root / "inputs")
        self._push({artifact.sha256: artifact.path for artifact in artifacts} | {encoded.sha256: encoded.path})
        return {"sha256": encoded.sha256, "dtype": encoded.dtype}

    def _measure(
        self, artifacts: Sequence[Artifact], x: NDArray[Any], protocol: MeasureProtocol
    ) -> Iterator[Measurement | BoardError]:
        inputs = self._push_inputs(artifacts, x)
        params = {
            "artifacts": [_asked(artifact) for artifact in artifacts],
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
                    yield self._artifact_error(artifact, Refused(self.device.name, one["error"]))
                else:
                    yield self._measurement(one, told, protocol, arrays)

    def _measurement(
        self, one: Mapping[str, Any], told: Mapping[str, Any], protocol: MeasureProtocol, arrays: _Arrays
    ) -> Measurement:
        samples, windows = arrays.fetch(one["samples"]), arrays.fetch(one["windows"])
        outputs = tuple(arrays.fetch(file) for file in one["outputs"])
        before, after = measure.environment(told["before"]), measure.environment(told["after"])
        validity, reasons = measure.judge_validity(
            samples, windows, warmup_flat=one["warmup_flat"], before=before, after=after, board=self.info
        )
        return Measurement(
            device=self.device.name,
            artifact_sha256=one["sha256"],
            samples_ns=samples,
            warmup_ns=arrays.fetch(one["warmup"]),
            windows=windows,
            outputs=outputs,
            outputs_sha256=measure.outputs_sha256(outputs),
            output_quantization=_pairs(one["output_quantization"]),
            peak_rss_bytes=one["peak_rss_bytes"],
            peak_rss_reason=one["peak_rss_reason"],
            warmup_flat=one["warmup_flat"],
            timer_overhead_ns=one["timer_overhead_ns"],
            validity=validity,
            validity_reasons=reasons,
            environment_before=before,
            environment_after=after,
            board=self.info,
            runner=one["runner"],
            protocol=protocol,
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _unable(self, artifact: Artifact) -> BoardError | None:
        """Why the board cannot run it at all, known before anything is sent."""
        runner = _runner(artifact)
        if runner not in self._hello["missing"]:
            return None
        package, python = _PIP.get(runner, runner), self.device.python
        if runner == "tflite" and self._hello["pointer_bits"] == 32:
            package = "tflite-runtime 'numpy<2'"
        return BoardError(
            f"{self.device.name}: no runtime for {artifact.path.name} on the board ({self._hello['missing'][runner]}).",
            next_step=f"Install it there: `{python} -m pip install {package}`. Where pip refuses to touch the system's "
            f"Python: `{python} -m venv ~/edge && ~/edge/bin/pip install {package}`, then `python: ~/edge/bin/python` "
            "for this board in devices.yaml.",
        )

    def _artifact_error(self, artifact: Artifact, refused: Refused) -> BoardError:
        where = f"{self.device.name}: {artifact.path.name} ({_runner(artifact)})"
        if refused.code == "runtime-crashed":
            killed = refused.facts.get("signal") == "SIGKILL"
            memory = "; the board was probably out of memory" if killed else ""
            return BoardError(f"{where}: the runtime crashed: {refused.message}{memory}.", next_step=refused.next_step)
        if refused.code == "timeout":
            what = f"{where}: {refused.message}."
            return BoardError(what, next_step="Raise `measure.timeout_seconds`, or take fewer evaluation samples.")
        return BoardError(f"{where}: {refused.message}.", next_step=refused.next_step)

    @contextlib.contextmanager
    def _arrays(self, folder: str) -> Iterator[_Arrays]:
        """Fetches files of an answer, then has the board remove them."""
        if self._connection is None:
            raise InternalError("the board session is not open.")
        with tempfile.TemporaryDirectory(prefix="edgesmith-") as here:
            yield _Arrays(self._connection, Path(here), Deadline.after(_TRANSFER_S))
        self._ask("forget", {"folder": folder}, Deadline.after(60))


class _Arrays:
    """`.npy` files of the agent's work folder."""

    def __init__(self, connection: Connection, folder: Path, deadline: Deadline) -> None:
        self._connection, self._folder, self._deadline = connection, folder, deadline

    def fetch(self, file: Mapping[str, str]) -> NDArray[Any]:
        """Copies one here; its content is checked.

        Raises:
            BoardError: it arrived damaged.
        """
        import numpy as np

        here = self._folder / f"{file['sha256']}.npy"
        self._connection.get(file["path"], here, self._deadline)
        if sha256_file(here) != file["sha256"]:
            raise BoardError(f"{self._connection.address}: {file['path']} arrived damaged.")
        array: NDArray[Any] = np.load(here, allow_pickle=False)
        return array


def _pairs(told: Sequence[Sequence[Any] | None]) -> tuple[tuple[float, int] | None, ...]:
    return tuple(None if pair is None else (float(pair[0]), int(pair[1])) for pair in told)


def _end(process: Process) -> None:
    """Lets the agent go. A link that is gone by now has been told about, or matters no more."""
    with contextlib.suppress(InfrastructureError):
        process.close(Deadline.after(_CLOSE_S))


def _runner(artifact: Artifact) -> str:
    return _RUNNERS.get(artifact.format, artifact.format)


def _asked(artifact: Artifact) -> dict[str, str]:
    # Only a fake board's script goes by the precision: it cannot know the file by its hash.
    return {"sha256": artifact.sha256, "runner": _runner(artifact), "precision": artifact.precision}
