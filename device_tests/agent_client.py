"""The workstation's side of the agent's protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from device_tests.agent.protocol import GRACE_S, HEARTBEAT, MARKER, PROTOCOL, request
from device_tests.connection import Process
from device_tests.deadline import Deadline
from edgesmith.errors import BoardError, DeadlineExceeded

Event = Callable[[Mapping[str, Any]], None]


class Refused(BoardError):
    """The agent answered with an error.

    Attributes:
        code: stable word: "not-found", "damaged", "runtime-crashed", "timeout", ...
        message: as the agent said it.
        facts: further fields, such as "signal" and the last lines of "stderr".
    """

    def __init__(self, who: str, error: Mapping[str, Any]) -> None:
        self.code = str(error.get("code", "internal"))
        self.message = str(error.get("message", "no message"))
        self.facts = {key: value for key, value in error.items() if key not in ("code", "message")}
        super().__init__(f"{who}: {self.message}", next_step=last_lines(self.facts.get("stderr")))


def last_lines(lines: object) -> str:
    """The end of a log, for a message; empty where there is none."""
    if not isinstance(lines, list) or not lines:
        return ""
    return "Its last lines:\n" + "\n".join(f"    {line}" for line in lines[-10:])


class AgentClient:
    """Asks a running agent, one question at a time. Heartbeats may come from another thread meanwhile."""

    def __init__(self, process: Process, who: str, grace_s: float = GRACE_S) -> None:
        """Takes over a process that has just been started.

        Args:
            process: the agent.
            who: the board's name, for messages.
            grace_s: how long past a deadline the agent's own answer that its time was up is waited for.
        """
        self._process = process
        self._who = who
        self._grace_s = grace_s
        self._next = 0
        self._sending = threading.Lock()

    def wait_until_ready(self, deadline: Deadline) -> None:
        """Reads up to the agent's marker line; what a login shell prints before it is skipped.

        Raises:
            BoardError: the agent ended, or what runs there speaks another protocol.
        """
        while True:
            line = self._process.receive(deadline).decode("utf-8", "replace").strip()
            if line == MARKER:
                return
            if line.startswith(MARKER.split()[0]):
                raise BoardError(
                    f"{self._who}: the agent there says '{line}', this edgesmith speaks protocol {PROTOCOL}.",
                    next_step="Remove the agent folder in the board's workdir; it is sent again.",
                )

    def call(
        self, method: str, params: Mapping[str, Any], deadline: Deadline, event: Event | None = None
    ) -> Mapping[str, Any]:
        """Asks and waits for the answer. The agent gets the time that is left and keeps to it by itself.

        Args:
            method: what to do.
            params: JSON.
            deadline: for the answer.
            event: told every progress event on the way.

        Raises:
            Refused: the agent's error answer.
            BoardError: the agent ended.
            ConnectionLost: the link broke.
            DeadlineExceeded: no answer, not even the agent's own "timeout".
        """
        self._next += 1
        message = request(self._next, method, dict(params), deadline.remaining_s)
        self._send(json.dumps(message).encode(), deadline)
        patience = Deadline(deadline.at + self._grace_s)
        while True:
            answer = self._answer(method, patience)
            if answer.get("id") != self._next:
                continue
            if "error" in answer:
                raise Refused(self._who, answer["error"])
            if "result" in answer:
                result: Mapping[str, Any] = answer["result"]
                return result
            if event is not None:
                event(answer)

    def heartbeat(self, deadline: Deadline) -> None:
        """Renews the board's lease; there is no answer.

        Raises:
            BoardError, ConnectionLost, DeadlineExceeded: it could not be sent.
        """
        self._send(HEARTBEAT, deadline)

    def _send(self, line: bytes, deadline: Deadline) -> None:
        if not self._sending.acquire(timeout=deadline.remaining_s):
            raise DeadlineExceeded(f"{self._who}: the line before is still being sent.")
        try:
            self._process.send(line, deadline)
        finally:
            self._sending.release()

    def _answer(self, method: str, patience: Deadline) -> dict[str, Any]:
        try:
            line = self._process.receive(patience)
        except DeadlineExceeded:
            raise DeadlineExceeded(
                f"{self._who}: the agent gave no answer to '{method}' in time.\n"
                f"{last_lines(self._process.stderr_tail().splitlines())}".rstrip()
            ) from None
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BoardError(f"{self._who}: the agent's line is no answer: {line[:200]!r}.")
        return answer
