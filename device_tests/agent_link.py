"""A link to a board with our agent at its other end: opened, asked, cut, and closed in good time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_tests import deploy
from device_tests.agent_client import AgentClient, Refused
from device_tests.agent_zip import AgentZip
from device_tests.connect import connect
from device_tests.connection import Connection, Process
from device_tests.deadline import Deadline
from edgesmith.errors import BoardBusy, ConnectionLost, InfrastructureError, InternalError
from edgesmith.progress import Task
from edgesmith.types import Device

_START_S = 180.0
_CLOSE_S = 5.0


class AgentLink:
    """One board, one connection, one agent. For one thread; `abort` is for the others."""

    def __init__(self, device: Device, local_root: Path, agent: AgentZip) -> None:
        """Prepares; nothing is reached before `open`.

        Args:
            device: where to.
            local_root: folder here for what is sent; for the device "local" also the board's workdir.
            agent: what is to run there.
        """
        self._device = device
        self._local_root = local_root
        self._zip = agent
        self._stack = contextlib.ExitStack()
        self._connection: Connection | None = None
        self._process: Process | None = None
        self._client: AgentClient | None = None
        self._aborted = False

    @property
    def connection(self) -> Connection:
        """The connection, once it is open."""
        if self._connection is None:
            raise InternalError("the board session is not open.")
        return self._connection

    @property
    def client(self) -> AgentClient:
        """The agent, once it runs."""
        if self._client is None:
            raise InternalError("the board session is not open.")
        return self._client

    @property
    def log(self) -> str:
        """The last lines of the agent's stderr; empty where it was never started."""
        return "" if self._process is None else self._process.stderr_tail().strip()

    @property
    def workdir(self) -> str:
        """Our folder on the board, as the connection sees it."""
        return "." if self._device.transport == "local" else self._device.workdir

    def open(self, timeout_s: float) -> int:
        """Connects within `timeout_s`, brings the agent there and starts it.

        Returns:
            Bytes sent.

        Raises:
            ConfigError, BoardError, ConnectionLost, DeadlineExceeded: as the transport says.
        """
        connection = self._stack.enter_context(connect(self._device, Deadline.after(timeout_s), self._local_root))
        self._connection = connection
        if self._aborted:
            raise self._cut()
        ready, python = Deadline.after(_START_S), self._device.python
        path, sent = deploy.ensure_agent(connection, python, self.workdir, self._zip, self._local_root, ready)
        self._process = connection.spawn([python, "-u", path], ready)
        self._stack.callback(_end, self._process)
        client = AgentClient(self._process, self._device.name)
        client.wait_until_ready(ready)
        self._client = client
        return sent

    def ask(
        self, method: str, params: Mapping[str, Any], deadline: Deadline, task: Task | None = None
    ) -> Mapping[str, Any]:
        """Asks the agent; `task` shows how far it is.

        Raises:
            Refused: it answered with an error.
            BoardBusy: the board's lease was lost meanwhile.
            BoardError, ConnectionLost, DeadlineExceeded: there was no answer.
        """
        shown = 0.0

        def event(told: Mapping[str, Any]) -> None:
            nonlocal shown
            if task is not None and told.get("event") == "progress":
                task.advance(told["fraction"] - shown, told["stage"])
                shown = told["fraction"]

        try:
            return self.client.call(method, params, deadline, event)
        except Refused as refused:
            if refused.code != "lease-lost":
                raise
            raise BoardBusy(
                f"{self._device.name}: {refused.message}.",
                next_step="The board, or the way to it, stood still for longer than the lease lasts. Run again.",
            ) from None
        except InfrastructureError:
            if not self._aborted:
                raise
            raise self._cut() from None

    def abort(self) -> None:
        """Cuts the connection at once; one that is not open yet is cut as soon as it is."""
        self._aborted = True
        if self._connection is not None:
            self._connection.abort()

    def close(self) -> None:
        """Ends agent and connection. Safe to call twice."""
        if self._connection is None:
            return
        # On a link that has gone silent every farewell would wait for its own deadline.
        patience = threading.Timer(_CLOSE_S, self._connection.abort)
        patience.daemon = True
        patience.start()
        try:
            self._stack.close()
        finally:
            patience.cancel()

    def _cut(self) -> ConnectionLost:
        return ConnectionLost(f"{self._device.name}: the connection was cut from here.")


def _end(process: Process) -> None:
    """Lets the agent go. A link that is gone by now has been told about, or matters no more."""
    with contextlib.suppress(InfrastructureError):
        process.close(Deadline.after(_CLOSE_S))
