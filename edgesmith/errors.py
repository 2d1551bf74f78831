"""Every error a user can meet, and the exit code each one ends the program with.

    EdgesmithError
    |-- GateFailed             1    measured well, and the budget or baseline is broken
    |-- InputError             2    the user's input
    |   |-- ConfigError             a config or inventory file, or a command-line value
    |   |-- ModelError              the model file
    |   `-- DataError               samples, labels, calibration
    |-- InfrastructureError    3    board, link, disk, runtime: the only class that is ever retried
    |   |-- ConnectionLost          the link went away; the board may be fine
    |   |-- DeadlineExceeded        a wait ran out
    |   |-- BoardError              the board answered, and the answer was a refusal or a crash
    |   |   |-- AgentEnded               our own program there is gone
    |   |   |-- BuildRefused             it built no engine from an artifact
    |   |   |-- PowerModeRefused         it was not put into the power mode that was asked for
    |   |   `-- Quarantined              the board has to pass a health check first
    |   `-- BoardBusy               somebody else holds the board
    |-- UnstableMeasurement    4    could not be judged
    `-- InternalError         70    ours

A message says what failed, where, and what to do next. `next_step` is printed on a line of its own.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class EdgesmithError(Exception):
    """Base of all errors that reach a user.

    Attributes:
        what: what failed and where, one or two sentences.
        next_step: what the reader can do about it; empty where there is nothing to do.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, what: str, *, next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what}\n{self.next_step}" if self.next_step else self.what


class GateFailed(EdgesmithError):
    """Measured well, and a budget or baseline is broken."""

    exit_code = 1


class InputError(EdgesmithError):
    """The user's input cannot be worked with."""

    exit_code = 2


class ConfigError(InputError):
    """A config file, an inventory file, or a command-line value is wrong."""


class ModelError(InputError):
    """The model file cannot be read, or holds something that cannot be deployed."""


class DataError(InputError):
    """Samples, labels or calibration data do not fit."""


class InfrastructureError(EdgesmithError):
    """Board, link, disk or runtime. Never the model's fault.

    Attributes:
        may_pass: trying again, or mending the board, may help: the recovery ladder is climbed for it. A refusal (a
            wrong host key, a full disk, no Python) is the same the next time; only a person can mend it.
    """

    exit_code = 3
    may_pass: ClassVar[bool] = False


class ConnectionLost(InfrastructureError):
    """The link to a board could not be made, or went away."""

    may_pass = True


class DeadlineExceeded(InfrastructureError):
    """A wait ran out."""

    may_pass = True


class BoardError(InfrastructureError):
    """The board answered with a refusal, or the runtime on it crashed."""


class AgentEnded(BoardError):
    """Our own program on the board ended while it was needed: killed, out of memory, or the board went down."""

    may_pass = True


class PowerModeRefused(BoardError):
    """The board was not put into the power mode that was asked for, so nothing was measured.

    Attributes:
        code: why, for machines: "power-mode-unknown", "power-mode-needs-reboot", ...
    """

    def __init__(self, what: str, *, code: str, next_step: str = "") -> None:
        super().__init__(what, next_step=next_step)
        self.code = code


class BuildRefused(BoardError):
    """The board built no engine from an artifact.

    Attributes:
        code: why, for machines: "no-implementation", "not-enough-memory", "parse-failed", ...
        nodes: of the artifact's graph, that it cannot build; empty where it is about none in particular.
    """

    def __init__(self, what: str, *, code: str, nodes: tuple[str, ...] = (), next_step: str = "") -> None:
        super().__init__(what, next_step=next_step)
        self.code = code
        self.nodes = nodes


class Quarantined(BoardError):
    """The board failed too often; it has to pass `edgesmith devices health` before it judges a model again."""


class BoardBusy(InfrastructureError):
    """Somebody else holds the board, and the time to wait for it ran out."""


class UnstableMeasurement(EdgesmithError):
    """The figures could not be judged: noisy, throttled, busy or too few."""

    exit_code = 4


class InternalError(EdgesmithError):
    """A defect of edgesmith."""

    exit_code = 70


class Terminated(BaseException):
    """SIGTERM came: ends the program as Ctrl-C does, with an exit code of its own. No error: nothing went wrong."""
