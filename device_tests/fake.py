"""A fake board: for whoever tries out gates, CI wiring or edgesmith itself and has no hardware at hand.

    # devices.yaml
    devices:
      pi5-fake: {fake: fake-board.yaml}

The script's keys stand in `fake_script`; examples/fake-board.yaml is a whole one. Nothing leaves this process: no
network, no other program, and no waiting unless the script says `realtime: true`. Unlike those of an emulated board, a
fake's figures are judged: that is what it is for. Every report calls them FAKE.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from device_tests.agent.protocol import MARKER
from device_tests.connection import CommandResult, ended_error
from device_tests.deadline import Deadline
from device_tests.fake_agent import FakeAgent, Struck
from device_tests.fake_board import FakeBoard, board_of
from device_tests.fake_script import Fault
from edgesmith.errors import BoardError, ConnectionLost, DeadlineExceeded
from edgesmith.types import Device

_CHUNK = 1 << 16
_NOT_FOUND = 127
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_IN_SCRIPT = "It is a fault of the fake board's script; a real board would need a look."


class FakeConnection:
    """Fulfils `connection.Connection` for a scripted board."""

    def __init__(self, device: Device) -> None:
        """Connects.

        Raises:
            ConfigError: the script is not there or wrong.
            ConnectionLost, BoardError: the script says so.
        """
        self.board: FakeBoard = board_of(device)
        self._device = device
        self._is_lost = threading.Event()
        self._running: list[FakeProcess] = []
        fault = self.board.fault("connect")
        if fault is not None:
            raise self._unreachable(fault)
        self.board.connected(device.lease_dir)

    @property
    def address(self) -> str:
        """See `Connection.address`."""
        return f"fake {self._device.name}"

    @property
    def rate(self) -> float | None:
        """See `Connection.rate`: there is no link in between."""
        return None

    def run(self, argv: Sequence[str], deadline: Deadline, stdin: bytes = b"") -> CommandResult:
        """See `Connection.run`. It knows how the agent is brought there, its boot id, and its reboot command."""
        del stdin
        self._check(deadline, f"running {argv[0]}")
        if list(argv) == ["cat", _BOOT_ID]:
            return _done(f"{self.board.boot_id}\n")
        if self._device.reboot and tuple(argv) == self._device.reboot:
            self.board.reboot()
            self.abort()
            raise self.lost()
        if argv[0] == self._device.python and "-c" in argv[1:2] and len(argv) == 6:
            return self._receive_agent(*argv[3:])
        return _done("", f"{argv[0]}: a fake board has no such program", _NOT_FOUND)

    def spawn(self, argv: Sequence[str], deadline: Deadline) -> FakeProcess:
        """See `Connection.spawn`. Whatever is asked for, its agent starts."""
        del argv
        self._check(deadline, "starting the agent")
        process = FakeProcess(self.board, self)
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
        """See `Connection.put`."""
        self._check(deadline, f"sending {local.name}")
        fault = self.board.fault("push")
        target = self.board.path(remote)
        part = target.with_name(f"{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        content = local.read_bytes()
        before = part.stat().st_size if part.exists() else 0
        start = before if content[:before] == (part.read_bytes() if before else b"") else 0
        if start and skipped is not None:
            skipped(start)
        end = len(content) if fault is None or fault.kind == "damaged" else (start + len(content)) // 2
        with part.open("ab" if start else "wb") as stream:
            for at in range(start, end, _CHUNK):
                chunk = content[at : min(at + _CHUNK, end)]
                stream.write(chunk)
                if sent is not None:
                    sent(len(chunk))
        if fault is not None and fault.kind == "disk-full":
            part.unlink()
            raise BoardError(
                f"{self._device.name}: no space left on the board: {local.name} has {len(content):,} bytes.",
                next_step=_IN_SCRIPT,
            )
        if fault is not None and fault.kind == "lost":
            self.abort()
            raise self.lost()
        part.replace(target)
        if fault is not None:
            target.write_bytes(bytes([content[0] ^ 1]) + content[1:] if content else b"?")
        return end - start

    def get(self, remote: str, local: Path, deadline: Deadline) -> None:
        """See `Connection.get`."""
        self._check(deadline, f"fetching {remote}")
        try:
            content = self.board.path(remote).read_bytes()
        except OSError as error:
            raise BoardError(f"{self._device.name}: {remote}: {error.strerror}.") from None
        part = local.with_name(f"{local.name}.part")
        part.write_bytes(content)
        part.replace(local)

    def abort(self) -> None:
        """See `Connection.abort`."""
        self._is_lost.set()
        for process in self._running:
            process.cut()

    def lost(self) -> ConnectionLost:
        """The error of a link that is gone."""
        return ConnectionLost(f"{self._device.name}: the connection to {self.address} was lost.", next_step=_IN_SCRIPT)

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

    def _check(self, deadline: Deadline, doing: str) -> None:
        if self._is_lost.is_set():
            raise self.lost()
        deadline.check(f"{self._device.name}: {doing}")

    def _unreachable(self, fault: Fault) -> BoardError | ConnectionLost:
        name = f"{self._device.name}: {self.address}"
        if fault.kind == "wrong-key":
            return BoardError(f"{name}: THE HOST KEY HAS CHANGED.", next_step=_IN_SCRIPT)
        why = "refused: nothing listens there" if fault.kind == "refuse" else "no answer in time"
        return ConnectionLost(f"{name}: {why}.", next_step=_IN_SCRIPT)

    def _receive_agent(self, upload: str, target: str, sha256: str) -> CommandResult:
        """What `deploy` asks the board's Python before the agent is there; a fake has one all the same."""
        if self.board.fault("hello", "no-python"):
            return _done("", f"{self._device.python}: not found", _NOT_FOUND)
        arrived, there = self.board.path(upload), self.board.path(target)
        if arrived.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(there) if _sha256(arrived) == sha256 else arrived.unlink()
        have = there.exists() and _sha256(there) == sha256
        version = [int(part) for part in self.board.script.python.split(".")]
        return _done(json.dumps({"edgesmith": 1, "python": version, "have": have}))


class FakeProcess:
    """Fulfils `connection.Process`: the agent, in a thread of its own."""

    def __init__(self, board: FakeBoard, link: FakeConnection) -> None:
        self._board = board
        self._link = link
        self._agent = FakeAgent(board, self._end)
        self._asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[bytes | _State] = queue.SimpleQueue()
        self._told.put(MARKER.encode())
        self._ended: CommandResult | None = None
        self._thread = threading.Thread(target=self._serve, name=f"fake agent of {board.name}", daemon=True)
        self._thread.start()

    def send(self, line: bytes, deadline: Deadline) -> None:
        """See `Process.send`."""
        deadline.check(f"{self._board.name}: asking the agent")
        if not self._agent.leasing.heartbeat(line):
            self._asked.put(line)

    def receive(self, deadline: Deadline) -> bytes:
        """See `Process.receive`."""
        try:
            told = self._told.get(timeout=deadline.remaining_s)
        except queue.Empty:
            raise DeadlineExceeded(f"{self._board.name}: the agent said nothing in time.") from None
        if isinstance(told, bytes):
            return told
        self._told.put(told)
        raise told()

    def stderr_tail(self) -> str:
        """See `Process.stderr_tail`."""
        return ""

    def cut(self) -> None:
        """The link is gone; the agent notices, and leaves."""
        self._told.put(self._link.lost)
        self._asked.put(None)

    def close(self, deadline: Deadline) -> CommandResult:
        """See `Process.close`."""
        self._asked.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(deadline.remaining_s)
        return self._ended or _done("", "", 0)

    def _serve(self) -> None:
        try:
            while (line := self._asked.get()) is not None:
                try:
                    answer = self._agent.answer(line, self._tell)
                except Struck as struck:
                    self._strike(struck.fault)
                    if struck.fault.kind != "hang":
                        return
                else:
                    self._tell(**answer)
        finally:
            self._agent.leave()

    def _tell(self, **message: Any) -> None:
        self._told.put(json.dumps(message, allow_nan=False).encode())

    def _strike(self, fault: Fault) -> None:
        if fault.kind == "hang":
            # With virtual time, the end of every patience is now.
            if not self._board.script.realtime:
                self._told.put(self._silence)
        elif fault.kind == "killed":
            self._ended = CommandResult(exit_status=None, signal="KILL", stdout=b"", stderr=b"")
            self._told.put(self._death)
        else:
            self._link.abort()

    def _end(self) -> None:
        """The heartbeats have stopped: the agent leaves."""
        self._told.put(self._death)
        self._asked.put(None)

    def _silence(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self._board.name}: the agent said nothing in time (scripted).")

    def _death(self) -> BoardError:
        return ended_error(f"{self._board.name}: the agent", self._ended or _done("", "", 0))


_State = Callable[[], BaseException]


def _done(stdout: str, stderr: str = "", status: int = 0) -> CommandResult:
    return CommandResult(exit_status=status, signal=None, stdout=stdout.encode(), stderr=stderr.encode())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
