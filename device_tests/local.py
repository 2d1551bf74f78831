"""This machine as a board: same agent, same protocol, no network."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from device_tests.connection import CommandResult, ended_error
from device_tests.deadline import Deadline
from edgesmith.errors import BoardError, ConnectionLost, DeadlineExceeded, InfrastructureError

_CHUNK = 1 << 20
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


class Local:
    """Fulfils `connection.Connection` with processes of this machine."""

    def __init__(self, root: Path) -> None:
        """`root`: the folder that relative paths mean, and where programs run."""
        self._root = root.resolve()
        self._root.mkdir(parents=True, exist_ok=True)
        self._running: list[LocalProcess] = []
        self._open: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._aborted = False

    @property
    def address(self) -> str:
        """See `Connection.address`."""
        return "local"

    @property
    def rate(self) -> None:
        """See `Connection.rate`: there is no link."""
        return

    def run(self, argv: Sequence[str], deadline: Deadline, stdin: bytes = b"") -> CommandResult:
        """See `Connection.run`. A program that is not there is exit status 127, as a shell says it."""
        try:
            process = self._popen(argv)
        except OSError as error:
            return _not_started(argv, error)
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout=deadline.remaining_s)
            except subprocess.TimeoutExpired:
                _kill_group(process)
                process.communicate()
                raise DeadlineExceeded(f"local: '{argv[0]}' did not end in time; it was killed.") from None
        self._check_not_aborted(f"local: '{argv[0]}'")
        return _result(process.returncode, stdout, stderr)

    def spawn(self, argv: Sequence[str], deadline: Deadline) -> LocalProcess:
        """See `Connection.spawn`.

        Raises:
            BoardError: it could not be started.
        """
        deadline.check(f"local: starting '{argv[0]}'")
        try:
            process = LocalProcess(self._popen(argv), argv[0], self._check_not_aborted)
        except OSError as error:
            raise BoardError(f"local: '{argv[0]}' could not be started: {error}.") from None
        self._running.append(process)
        return process

    def put(
        self,
        local: Path,
        remote: str,
        deadline: Deadline,
        sent: Callable[[int], None] | None = None,
        skipped: Callable[[int], None] | None = None,
    ) -> int:
        """See `Connection.put`. Starts anew each time: no link is in between that could be cut."""
        del skipped
        return self._copy(local, self._root / remote, deadline, sent)

    def get(self, remote: str, local: Path, deadline: Deadline) -> None:
        """See `Connection.get`."""
        self._copy(self._root / remote, local, deadline, None)

    def abort(self) -> None:
        """See `Connection.abort`. Commands are ended; what was spawned sees the end of its stdin, as over a link."""
        with self._lock:
            self._aborted = True
            spawned = tuple(self._running)
            for process in self._open - {one.process for one in spawned}:
                if process.poll() is None:
                    _kill_group(process)
        for one in spawned:
            one.cut()

    def close(self) -> None:
        """See `Connection.close`."""
        while self._running:
            self._running.pop().close(Deadline.after(5))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _popen(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._lock:
            self._check_not_aborted(f"local: '{argv[0]}'")
            # A session of its own: Ctrl-C reaches us, and we end it in order.
            process = subprocess.Popen(
                list(argv),
                cwd=self._root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self._open = {process, *(one for one in self._open if one.poll() is None)}
        return process

    def _check_not_aborted(self, doing: str) -> None:
        if self._aborted:
            raise ConnectionLost(f"{doing}: the connection was cut.")

    def _copy(self, source: Path, target: Path, deadline: Deadline, sent: Callable[[int], None] | None) -> int:
        part = target.with_name(target.name + ".part")
        copied = 0
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as reader, part.open("wb") as writer:
                while chunk := reader.read(_CHUNK):
                    deadline.check(f"local: copying {source.name}")
                    self._check_not_aborted(f"local: copying {source.name}")
                    writer.write(chunk)
                    copied += len(chunk)
                    if sent is not None:
                        sent(len(chunk))
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise BoardError(f"local: {target}: {_reason(error, target)}.") from None
        except InfrastructureError:
            part.unlink(missing_ok=True)
            raise
        return copied


class LocalProcess:
    """Fulfils `connection.Process`.

    Attributes:
        process: the one of this machine.
    """

    def __init__(self, process: subprocess.Popen[bytes], name: str, check: Callable[[str], None]) -> None:
        """Takes over a process; `check` raises once its connection was cut."""
        self.process = process
        self._name = name
        self._check = check
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._tail: collections.deque[bytes] = collections.deque(maxlen=40)
        self._readers = [
            threading.Thread(target=self._read_lines, args=(process.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Of the process here."""
        return self.process.pid

    def send(self, line: bytes, deadline: Deadline) -> None:
        """See `Process.send`."""
        deadline.check(f"local: asking '{self._name}'")
        if self.process.stdin is None:
            raise ConnectionLost(f"local: '{self._name}' takes no input.")
        try:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._ended() from None

    def receive(self, deadline: Deadline) -> bytes:
        """See `Process.receive`."""
        try:
            line = self._lines.get(timeout=deadline.remaining_s)
        except queue.Empty:
            raise DeadlineExceeded(f"local: '{self._name}' said nothing in time.") from None
        if line is None:
            self._lines.put(None)
            raise self._ended()
        return line.rstrip(b"\n")

    def cut(self) -> None:
        """Ends its stdin; who waits for a line waits no more. From any thread."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self._lines.put(None)

    def stderr_tail(self) -> str:
        """See `Process.stderr_tail`."""
        return b"".join(self._tail).decode("utf-8", "replace")

    def close(self, deadline: Deadline) -> CommandResult:
        """See `Process.close`."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(deadline.remaining_s)
        except subprocess.TimeoutExpired:
            _kill_group(self.process)
            self.process.wait()
        for reader in self._readers:
            reader.join(1)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return _result(self.process.returncode, b"", b"".join(self._tail))

    def _read_lines(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def _read_log(self, stream: IO[bytes]) -> None:
        self._tail.extend(stream)

    def _ended(self) -> BoardError:
        ended = self.close(Deadline.after(2))
        self._check(f"local: '{self._name}'")
        return ended_error(f"local: '{self._name}'", ended)


def _result(code: int, stdout: bytes, stderr: bytes) -> CommandResult:
    if code >= 0:
        return CommandResult(exit_status=code, signal=None, stdout=stdout, stderr=stderr)
    name = signal.Signals(-code).name.removeprefix("SIG")
    return CommandResult(exit_status=None, signal=name, stdout=stdout, stderr=stderr)


def _not_started(argv: Sequence[str], error: OSError) -> CommandResult:
    status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    message = f"{argv[0]}: {error.strerror}".encode()
    return CommandResult(exit_status=status, signal=None, stdout=b"", stderr=message)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _reason(error: OSError, target: Path) -> str:
    if error.errno == errno.ENOSPC:
        folder = next(parent for parent in target.parents if parent.exists())
        return f"no space left on device ({shutil.disk_usage(folder).free:,} bytes free)"
    return error.strerror or str(error)
