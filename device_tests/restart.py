"""Restarting a board: by a command of its own, or by one of this machine that cuts its power.

Both wait until the board answers with another boot id: an answer alone may come from before the restart.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from device_tests.connection import CommandResult, Connection
from device_tests.deadline import Deadline
from device_tests.local import Local
from edgesmith.errors import ConnectionLost, DeadlineExceeded, InfrastructureError

Link = Callable[[Deadline], AbstractContextManager[Connection]]

NOT_POSSIBLE = "not possible: "
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CONNECT_S = 30.0
_COMMAND_S = 60.0
_LOOK_S = 10.0


def boot_id(connection: Connection) -> str | None:
    """Names the board's current run of its kernel; None where it has no such file.

    Raises:
        ConnectionLost, DeadlineExceeded: as the connection says.
    """
    done = connection.run(["cat", _BOOT_ID], Deadline.after(_LOOK_S))
    return done.stdout.decode("ascii", "replace").strip() or None if done.exit_status == 0 else None


def reboot(connection: Connection, command: Sequence[str]) -> tuple[str | None, str]:
    """Tells a board to restart.

    Returns:
        Its boot id from before, and why it could not be told to; empty where it was.

    Raises:
        ConnectionLost, DeadlineExceeded: it could not even be asked for its boot id.
    """
    before = boot_id(connection)
    if before is None:
        return None, f"{NOT_POSSIBLE}its boot id cannot be read, so a restart could not be told"
    # A board that goes down takes the link with it; whether it did is seen by its next boot id.
    with contextlib.suppress(ConnectionLost, DeadlineExceeded):
        return before, _refusal(command, connection.run(list(command), Deadline.after(_COMMAND_S)))
    return before, ""


def power_cycle(command: Sequence[str]) -> str:
    """Runs the power command, here; returns why it failed, empty where it did not."""
    try:
        done = Local(Path.cwd()).run(list(command), Deadline.after(_COMMAND_S))
    except DeadlineExceeded:
        return f"{NOT_POSSIBLE}`{shlex.join(command)}` did not end within {_COMMAND_S:.0f} s"
    return _refusal(command, done)


def wait_restarted(link: Link, before: str | None, within_s: float, poll_s: float, stopping: threading.Event) -> str:
    """Waits until the board answers with a boot id other than `before`.

    Args:
        link: opens the bare connection.
        before: None where it is not known; then any answer will do.
        within_s: patience.
        poll_s: between two looks.
        stopping: ends the wait.

    Returns:
        Why it does not answer; empty where it does.
    """
    until = Deadline.after(within_s)
    seen = "no answer"
    while not stopping.is_set():
        try:
            with link(Deadline.after(_CONNECT_S)) as connection:
                now = boot_id(connection)
        except InfrastructureError as error:
            if not error.may_pass:
                return error.what
        else:
            if before is None or now not in (before, None):
                return ""
            seen = "it is up and has not restarted"
        if until.remaining_s == 0.0:
            return f"{seen} within {within_s:.0f} s"
        stopping.wait(poll_s)
    return "the run was stopped"


def _refusal(command: Sequence[str], done: CommandResult) -> str:
    if done.exit_status == 0 or done.signal:  # a reboot ends its own shell, too
        return ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    said = f": {lines[-1]}" if lines else ""
    return f"{NOT_POSSIBLE}`{shlex.join(command)}` ended with exit status {done.exit_status}{said}"
