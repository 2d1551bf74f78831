"""How a board is reached: one small contract, fulfilled by `local.Local`, `ssh.Ssh` and `fake.Fake`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from device_tests.deadline import Deadline
from edgesmith.errors import AgentEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What a finished command left behind.

    Attributes:
        exit_status: as a shell would say it; None where a signal ended it.
        signal: its name without SIG, e.g. "KILL"; None where it exited.
    """

    exit_status: int | None
    signal: str | None
    stdout: bytes
    stderr: bytes


def ended_error(doing: str, ended: CommandResult) -> AgentEnded:
    """The error for a program that should still be running."""
    how = f"by signal {ended.signal}" if ended.signal else f"with exit status {ended.exit_status}"
    # A shell in between says a death by signal 9 as 128 + 9.
    why = " (probably out of memory)" if ended.signal == "KILL" or ended.exit_status == 137 else ""
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()[-10:]
    log = "".join(f"\n    {line}" for line in lines)
    return AgentEnded(f"{doing} ended {how}{why}.", next_step=f"Its last lines:{log}" if log else "")


class Process(Protocol):
    """A running remote program that speaks lines: the agent."""

    def send(self, line: bytes, deadline: Deadline) -> None:
        """Writes one line; the newline is added."""

    def receive(self, deadline: Deadline) -> bytes:
        """Reads one line without its newline.

        Raises:
            ConnectionLost: the link is gone.
            BoardError: the program ended; says how, with its last lines.
            DeadlineExceeded: no line came in time.
        """

    def stderr_tail(self) -> str:
        """The last lines of its stderr so far, for messages."""

    def close(self, deadline: Deadline) -> CommandResult:
        """Closes its stdin and waits for its end; past the deadline it is killed. stdout is empty."""


class Connection(Protocol):
    """An open link to one board. Remote paths are relative to the login folder, or absolute."""

    @property
    def address(self) -> str:
        """Where it leads, for messages: "pi@10.0.0.7:22" or "local"."""

    @property
    def rate(self) -> float | None:
        """Bytes per second that uploads over this link reach; None where not known, or where there is no link."""

    def run(self, argv: Sequence[str], deadline: Deadline, stdin: bytes = b"") -> CommandResult:
        """Runs a program to its end. Arguments are passed as they are: no shell sees them unquoted.

        Raises:
            ConnectionLost: the link broke; whether the command ran is unknown.
            DeadlineExceeded: it did not end in time; it has been killed.
        """

    def spawn(self, argv: Sequence[str], deadline: Deadline) -> Process:
        """Starts a program that stays."""

    def put(
        self,
        local: Path,
        remote: str,
        deadline: Deadline,
        sent: Callable[[int], None] | None = None,
        skipped: Callable[[int], None] | None = None,
    ) -> int:
        """Copies a file there: to `remote`.part first, renamed when whole. Makes the folders on the way.

        A `.part` that a cut link left is gone on with: name `remote` after the content, and verify it afterwards. It
        stays when the link is lost or the deadline passes, and is removed when the board refuses.

        Args:
            local: the file here.
            remote: the path there.
            deadline: for the whole transfer.
            sent: told the bytes as they go over the link.
            skipped: told once, before them, the bytes that are there already; not called where there are none.

        Returns:
            Bytes that went over the link in this call.

        Raises:
            BoardError: no space, read-only, no permission: says which.
        """

    def get(self, remote: str, local: Path, deadline: Deadline) -> None:
        """Copies a file here, whole or not at all."""

    def abort(self) -> None:
        """Cuts the link at once, from any thread: what waits on it raises ConnectionLost. `close` is still called."""

    def close(self) -> None:
        """Ends the link and what runs over it. Safe to call twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
