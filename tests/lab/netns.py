"""Boards behind cables of their own: each a network namespace with a veth, whose link can be cut, spoilt and slowed.

The workstation's ends lie in a namespace, too. The thread that opens the lab moves into it until the lab is closed, and
so does the one that talks SSH. What a test starts meanwhile is born there, so tests run as they are, in this process,
and the machine's own interfaces, routes and packet filter are never touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from device_tests.deadline import Deadline
from device_tests.loopback_sshd import SshdBoard, why_no_sshd
from device_tests.ssh_loop import ssh_loop

_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")
_OURS = re.compile(r"edgesmith-(?P<pid>\d+)-\d+-(lab|board\d+)")
_TIMEOUT_S = 30.0
_numbers = itertools.count(1)


def why_no_netns() -> str:
    """Why there can be no such lab here; empty where there can."""
    if os.getuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc", "iptables") if shutil.which(tool) is None]
    return f"{', '.join(missing)} missing (Debian: iproute2, iptables)" if missing else why_no_sshd()


class NetnsLab:
    """A workstation and boards 1 to N, each at 10.77.I.2 with a link of its own. Use as a context manager.

    Attributes:
        boards: in order; `boards[0]` is board 1. They run while the lab is open.
    """

    def __init__(self, folder: Path, boards: int) -> None:
        """`folder`: for the boards' keys and homes; their login user must be able to enter it."""
        prefix = f"edgesmith-{os.getpid()}-{next(_numbers)}"
        self._lab = f"{prefix}-lab"
        self._names = [f"{prefix}-board{number}" for number in range(1, boards + 1)]
        self.boards = tuple(
            SshdBoard(folder / f"board{number}", address=f"10.77.{number}.2", network=name)
            for number, name in enumerate(self._names, start=1)
        )
        self._stack = contextlib.ExitStack()

    def cut(self, number: int) -> None:
        """Pulls the cable of a board out: the carrier is gone."""
        _ip("-n", self._names[number - 1], "link", "set", "eth0", "down")

    def mend(self, number: int) -> None:
        """Puts it in again."""
        _ip("-n", self._names[number - 1], "link", "set", "eth0", "up")

    def drop(self, number: int) -> None:
        """Half-open: the carrier stays, every packet vanishes, both ways."""
        for chain in ("INPUT", "OUTPUT"):
            _run("ip", "netns", "exec", self._names[number - 1], "iptables", "-I", chain, "-j", "DROP")

    def undrop(self, number: int) -> None:
        """Packets arrive again."""
        _run("ip", "netns", "exec", self._names[number - 1], "iptables", "-F")

    def shape(self, number: int, rate: str) -> None:
        """Limits the rate both ways; `rate` as tc writes it: "8mbit"."""
        for name, interface in self._ends(number):
            limit = ("tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
            _run("tc", "-n", name, "qdisc", "replace", "dev", interface, "root", *limit)

    def unshape(self, number: int) -> None:
        """As fast as it goes again."""
        for name, interface in self._ends(number):
            _run("tc", "-n", name, "qdisc", "del", "dev", interface, "root")

    def __enter__(self) -> Self:
        sweep()
        with contextlib.ExitStack() as opening:
            self._add(self._lab, opening)
            for number, name in enumerate(self._names, start=1):
                self._add(name, opening)
                self._connect(number, name)
            self._move_in(opening)
            for board in self.boards:
                opening.enter_context(board)
            self._stack = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _ends(self, number: int) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self._lab, f"veth{number}"), (self._names[number - 1], "eth0")

    def _add(self, name: str, opening: contextlib.ExitStack) -> None:
        _ip("netns", "add", name)
        opening.callback(_remove, name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _connect(self, number: int, name: str) -> None:
        here = f"veth{number}"
        _ip("-n", self._lab, "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name)
        for end, interface, last in ((self._lab, here, 1), (name, "eth0", 2)):
            _ip("-n", end, "addr", "add", f"10.77.{number}.{last}/30", "dev", interface)
            _ip("-n", end, "link", "set", interface, "up")

    def _move_in(self, opening: contextlib.ExitStack) -> None:
        # A descriptor, not a path: it names where this thread came from, wherever it is by then.
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        opening.callback(os.close, before)
        with (_NAMED / self._lab).open() as lab:
            opening.callback(_move, before)
            _move(lab.fileno())


def sweep() -> None:
    """Removes what a test run left that was killed: namespaces of ours whose process is no more."""
    for name in _namespaces():
        match = _OURS.fullmatch(name)
        if match and not Path("/proc", match["pid"]).exists():
            _remove(name)


def _namespaces() -> list[str]:
    return sorted(path.name for path in _NAMED.iterdir()) if _NAMED.is_dir() else []


def _remove(name: str) -> None:
    """With whatever still runs in it; a veth goes with either of its ends."""
    for pid in _run("ip", "netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "del", name)


def _move(descriptor: int) -> None:
    """Moves this thread and that of the SSH loop, which is as old as the first connection of this process."""

    async def there() -> None:
        _setns(descriptor)
        # Names are looked up in threads of the loop's executor, and a thread stays where it was born.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())

    _setns(descriptor)
    ssh_loop().call(there(), Deadline.after(_TIMEOUT_S), "moving the SSH loop")


def _setns(descriptor: int) -> None:
    """Moves the thread that calls it, and only that one. `os.setns` came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout
