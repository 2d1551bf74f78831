"""What `edgesmith devices lease` and `release` do: a person's claim on a board, with patience, and given back."""

from __future__ import annotations

import time

from device_tests import lease
from device_tests.deadline import Deadline
from device_tests.session import BoardSession
from edgesmith.durations import show_duration
from edgesmith.errors import BoardBusy
from edgesmith.progress import Progress
from edgesmith.types import LeaseHolder

_POLL_S = 2.0


def reserve(
    session: BoardSession, by: str, seconds: float, progress: Progress, *, wait_s: float = 0.0, poll_s: float = _POLL_S
) -> LeaseHolder | None:
    """Keeps others off a board; a reservation of one's own is made longer or shorter.

    Args:
        session: open, without a lease of its own.
        by: the owner, as `lease.owner` names them.
        seconds: until it lapses by itself.
        progress: told once who has the board.
        wait_s: patience while somebody else has it.
        poll_s: between two attempts.

    Returns:
        Whose claim was taken over: a lapsed one, or one's own; None where the board was free.

    Raises:
        BoardBusy: somebody else has it, and the patience has run out.
    """
    until = Deadline.after(wait_s)
    told = False
    while True:
        try:
            return lease.reserve(session.ask, session.device, by, seconds)
        except BoardBusy as busy:
            if until.remaining_s == 0.0:
                raise
            if not told:
                progress.note(f"{busy.what} Waiting up to {show_duration(until.remaining_s)}.")
        told = True
        time.sleep(min(poll_s, until.remaining_s))


def release(session: BoardSession, by: str, *, force: bool = False) -> tuple[LeaseHolder, ...]:
    """Gives a board back: the owner's reservation; with `force` every claim there is.

    Returns:
        The claims that were ended; none where the board was free.

    Raises:
        BoardBusy: what is there belongs to somebody else, or to a run.
    """
    found = lease.give_back(session.ask, session.device, by, force=force)
    if found.gone or found.holder is None:
        return found.gone
    name = session.device.name
    whose = "" if found.holder.owner == by else f", and you are {by}"
    run = " A run may be in progress there: it would be ended, and what it has not written yet is lost."
    raise BoardBusy(
        f"{lease.describe(session.device, found.holder)}{whose}.{run if found.holder.kind == 'run' else ''}",
        next_step=f"`edgesmith devices release {name} --force` takes it away all the same.",
    )
