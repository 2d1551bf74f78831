"""The self-test of a board: small shipped networks, run by every runtime that it has, against the expected answers.

Everything happens under the board's lease. A trial that fails does not end the others; a board that goes away in the
middle is reached once more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from device_tests.session import BoardSession
from edgesmith.doctor.files_there import Fetched
from edgesmith.doctor.models.catalog import specimen
from edgesmith.doctor.one_row import OneRow
from edgesmith.doctor.running import compared, infrastructure_failure
from edgesmith.doctor.tensorrt_trials import TensorRtTrials
from edgesmith.doctor.trial import Outcome, SelfTest, Trial
from edgesmith.errors import BoardBusy, ConfigError, InfrastructureError

Step = tuple[str, Callable[[BoardSession], Trial]]
"""A trial's name, and how it is made."""

_LOSSES = 2
"""So often a board may go away before the rest is left."""


class Reached:
    """A board that is reached again when it went away. Use as a context manager."""

    def __init__(self, make: Callable[[], BoardSession]) -> None:
        """`make`: a session that is not open yet."""
        self._make = make
        self._stack = contextlib.ExitStack()
        self._session: BoardSession | None = None

    def session(self) -> BoardSession:
        """The open session; opens one where there is none.

        Raises:
            BoardBusy, BoardError, ConnectionLost, DeadlineExceeded: as `BoardSession` says.
        """
        if self._session is None:
            self._session = self._stack.enter_context(self._make())
        return self._session

    def let_go(self) -> None:
        """Closes the session: the next question opens another."""
        self._session = None
        self._stack.close()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Reached:
        return self

    def __exit__(self, *_error: object) -> None:
        self.let_go()


def self_test(board: Reached, row: OneRow, *, has_trtexec: bool = False) -> SelfTest:
    """Makes every trial that a board's runtimes allow.

    Args:
        board: open or not.
        row: tells the trials.
        has_trtexec: NVIDIA's own program is on the board.

    Raises:
        BoardBusy, BoardError, ConnectionLost, DeadlineExceeded: the board could not be reached at all.
    """
    session = board.session()
    info, fetched = session.info, Fetched()
    steps = list(_steps(session, fetched, has_trtexec=has_trtexec))
    trials: list[Trial] = []
    losses, log = 0, ""
    for name, make in steps:
        row.begin(name)
        started = time.monotonic()
        if losses == _LOSSES:
            trials.append(Trial(name=name, outcome=Outcome.SKIPPED, text="not tried: the board went away"))
            continue
        try:
            session = board.session()
            trial = make(session)
        except InfrastructureError as error:
            trial = infrastructure_failure(name, error)
            if error.may_pass or isinstance(error, BoardBusy):
                losses += 1
                log = _joined(log, session.agent_log)
                board.let_go()
        trials.append(_marked(replace(trial, seconds=time.monotonic() - started), fake=info.stand_in))
        row.go_on(1.0 / len(steps))
    return SelfTest(
        trials=tuple(trials),
        fake=info.fake or info.stand_in,
        emulated=info.emulated,
        log=_joined(log, session.agent_log),
        files=fetched.files,
    )


def _steps(session: BoardSession, fetched: Fetched, *, has_trtexec: bool) -> Iterator[Step]:
    info = session.info
    arm = info.machine.startswith(("aarch64", "arm"))
    named = {
        "tflite": {"float32": "tflite-float32", "int8": "tflite-int8"},
        "onnxruntime": {
            "float32": "onnxruntime-float32",
            "int8": f"onnxruntime-{'arm' if arm else 'x86'}-int8",
        },
    }
    for runner, files in named.items():
        if runner in info.runners:
            for precision, file in files.items():
                name = f"{runner} {precision}"
                yield name, _simple(name, precision, file)
    if "tensorrt" in info.runners:
        try:
            why = "a scripted board builds no engines" if info.fake else ""
            if not why:
                yield from TensorRtTrials(session, fetched, has_trtexec=has_trtexec).steps()
        except ConfigError as error:  # older than all that files are written for
            why = str(error).replace("\n", " ")
        if why:
            yield "tensorrt", lambda _: Trial(name="tensorrt", outcome=Outcome.SKIPPED, text=f"not tried: {why}")


def _simple(name: str, precision: str, file: str) -> Callable[[BoardSession], Trial]:
    return lambda session: compared(session, name, precision, specimen(file))


def _marked(trial: Trial, *, fake: bool) -> Trial:
    """A stand-in's row says so."""
    return replace(trial, text=f"FAKE TensorRT: {trial.text}") if fake and trial.name.startswith("tensorrt") else trial


def _joined(before: str, log: str) -> str:
    return "\n".join(filter(None, (before, log if log != before else "")))
