"""The agent as a real process at the other end of three pipes, without a session in between."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_tests.agent.protocol import HEARTBEAT, MARKER, PROTOCOL
from device_tests.agent_zip import build_agent


class AgentProcess:
    """A running agent."""

    def __init__(self, folder: Path, *, python: str = sys.executable, user: int | None = None) -> None:
        """Starts it in `folder`, as `user` where one is given."""
        zip_path = folder / "agent.zip"
        if not zip_path.exists():
            zip_path.write_bytes(build_agent().content)
        self.process = subprocess.Popen(
            [python, "-u", zip_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            user=user,
        )
        assert self._line() == MARKER.encode()

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, line: bytes) -> None:
        """Sends a line and waits for nothing."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def beat(self) -> None:
        self.say(HEARTBEAT)

    def begin(self, method: str, **params: object) -> None:
        """Asks; the answer is for `answer`."""
        asked = {"id": 1, "protocol": PROTOCOL, "method": method, "params": params, "timeout_s": 60}
        self.say(json.dumps(asked).encode())

    def answer(self) -> Any:
        """The result, or the error as {"code", "message", ...}."""
        told = json.loads(self._line())
        return told["result"] if "result" in told else told["error"]

    def ask(self, method: str, **params: object) -> Any:
        self.begin(method, **params)
        return self.answer()

    def ended(self) -> tuple[int, str]:
        """Waits for its end by itself; (exit status, log)."""
        self.process.wait(20)
        _, log = self.process.communicate()
        return self.process.returncode, log.decode()

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def running(folder: Path, *, python: str = sys.executable, user: int | None = None) -> Iterator[AgentProcess]:
    """An agent that is gone afterwards."""
    agent = AgentProcess(folder, python=python, user=user)
    try:
        yield agent
    finally:
        agent.process.kill()
        agent.process.communicate()
