"""One owner per board: claimed on the board itself, kept by heartbeats, and told to whoever has to wait."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from device_tests.deadline import Deadline
from edgesmith.errors import BoardBusy, DeadlineExceeded, InfrastructureError
from edgesmith.progress import Progress
from edgesmith.types import Device, Lease, LeaseHolder, LeaseRequest

OWNER_VARIABLE = "EDGESMITH_OWNER"
BEATS_PER_TTL = 4
_POLL_S = 1.0
_ASK_S = 20.0
_STOP_S = 1.0
_LONGEST = 100


class Ask(Protocol):
    """`BoardSession.ask`: a question to the agent."""

    def __call__(self, method: str, params: Mapping[str, Any], deadline: Deadline) -> Mapping[str, Any]:
        """The agent's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """Who has a board; lapsed ones included, with 0.0 in `expires_in_s`.

    Attributes:
        run: whose run works there.
        hold: who has reserved it.
    """

    run: LeaseHolder | None
    hold: LeaseHolder | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What giving a board back came to.

    Attributes:
        gone: the leases that were ended.
        holder: who has the board now; None where it is free.
    """

    gone: tuple[LeaseHolder, ...]
    holder: LeaseHolder | None


def owner() -> str:
    """Who asks for boards, for people to read: EDGESMITH_OWNER where it is set, else "user@host"."""
    named = os.environ.get(OWNER_VARIABLE, "")
    if not named:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user without a name
            user = f"uid{os.getuid()}"
        named = f"{user}@{socket.gethostname()}"
    return _readable(named)


def new_token() -> str:
    """A word that names one claim."""
    return secrets.token_hex(16)


def acquire(ask: Ask, device: Device, request: LeaseRequest, progress: Progress, poll_s: float = _POLL_S) -> Lease:
    """Makes the board ours, waiting while somebody else has it. Every change of holder is told once.

    Args:
        ask: `BoardSession.ask`.
        device: the board.
        request: who asks, and how patient they are.
        progress: told who holds the board, and whose lapsed lease was taken over.
        poll_s: between two claims.

    Raises:
        BoardBusy: somebody else still holds it when the patience has run out; says who.
        BoardError: the board has no place for a lease.
    """
    params = {
        "lease_dir": device.lease_dir,
        "owner": request.owner,
        "run_id": request.run_id,
        "token": request.token,
        "ttl_s": request.ttl_s,
    }
    until, start, told = Deadline.after(request.wait_s), time.monotonic(), None
    while not (answer := ask("lease", params, Deadline.after(_ASK_S)))["granted"]:
        holder = _holder(answer["holder"])
        if until.remaining_s == 0.0:
            raise _busy(device, holder, request.wait_s)
        if told != (told := (holder.kind, holder.owner, holder.run_id)):
            progress.note(f"{describe(device, holder)}; waiting up to {_span(until.remaining_s)}")
        time.sleep(min(poll_s, until.remaining_s))
    taken_over = None if answer["taken_over"] is None else _holder(answer["taken_over"])
    if taken_over is not None:
        progress.note(f"{device.name}: the lease of {_who(taken_over)} had lapsed and was taken over")
    if answer["stale"]:
        pids = ", ".join(map(str, answer["stale"]))
        progress.note(f"{device.name}: an agent that a lost link had left there was told to leave (pid {pids})")
    return Lease(
        device=device.name,
        owner=request.owner,
        run_id=request.run_id,
        token=request.token,
        ttl_s=request.ttl_s,
        taken_over=taken_over,
        waited_s=time.monotonic() - start,
    )


def who(ask: Ask, device: Device) -> Holders:
    """Who has a board, as it says itself."""
    told = ask("holder", {"lease_dir": device.lease_dir}, Deadline.after(_ASK_S))
    run, hold = (None if told[kind] is None else _holder(told[kind]) for kind in ("run", "hold"))
    return Holders(run=run, hold=hold)


def reserve(ask: Ask, device: Device, by: str, seconds: float, *, force: bool = False) -> LeaseHolder | None:
    """Keeps others off a board, for a person; runs of the same owner are let in.

    Args:
        ask: `BoardSession.ask`.
        device: the board.
        by: the owner.
        seconds: until the reservation lapses by itself.
        force: takes the reservation of somebody else away; a run that works there is never disturbed.

    Returns:
        Whose reservation or lapsed lease was taken over.

    Raises:
        BoardBusy: somebody else has it.
    """
    params = {"lease_dir": device.lease_dir, "owner": by, "seconds": seconds, "force": force}
    answer = ask("hold", params, Deadline.after(_ASK_S))
    if not answer["granted"]:
        raise _busy(device, _holder(answer["holder"]))
    return None if answer["taken_over"] is None else _holder(answer["taken_over"])


def give_back(ask: Ask, device: Device, by: str, *, force: bool = False) -> Released:
    """Ends a reservation of `by`, and what has lapsed; with `force` every lease, whoever has it."""
    params = {"lease_dir": device.lease_dir, "owner": by, "force": force}
    answer = ask("unhold", params, Deadline.after(_ASK_S))
    left = None if answer["holder"] is None else _holder(answer["holder"])
    return Released(gone=tuple(_holder(one) for one in answer["released"]), holder=left)


def kill_stale(ask: Ask, device: Device, token: str) -> tuple[str, ...]:
    """Ends agents that an earlier session of the same token left on the board; one sentence for each."""
    params = {"lease_dir": device.lease_dir, "token": token}
    found = ask("kill_stale", params, Deadline.after(_ASK_S))["agents"]
    return tuple(f"the agent with pid {one['pid']} {_readable(one['outcome'])}" for one in found)


def describe(device: Device, holder: LeaseHolder) -> str:
    """Who holds a board and for how long still; the beginning of a sentence."""
    if holder.kind == "hold":
        return f"{device.name} is reserved by {_who(holder)} for {_span(holder.expires_in_s)} more"
    return (
        f"{device.name} is held by {_who(holder)} for {_span(holder.held_s)}, "
        f"lapses in {_span(holder.expires_in_s)} unless renewed"
    )


class Heartbeat:
    """Renews a lease from a thread, until it is stopped or the link is gone."""

    def __init__(self, beat: Callable[[Deadline], None], every_s: float) -> None:
        """Starts. `beat` sends one heartbeat."""
        self._beat = beat
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgesmith-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No heartbeat is begun after this."""
        self._stopping.set()
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            with contextlib.suppress(DeadlineExceeded):  # the link is slow; the next one may go through
                try:
                    self._beat(Deadline.after(self._every_s))
                except DeadlineExceeded:
                    raise
                except InfrastructureError:
                    return  # whoever waits for an answer learns of it


def _busy(device: Device, holder: LeaseHolder, waited_s: float = 0.0) -> BoardBusy:
    waited = f"; waited {_span(waited_s)} for it" if waited_s else ""
    return BoardBusy(
        f"{describe(device, holder)}{waited}.",
        next_step=f"Wait, ask them, or end it: `edgesmith devices release {device.name} --force`; a run that works "
        "there fails then.",
    )


def _holder(told: Mapping[str, Any]) -> LeaseHolder:
    kind: Literal["run", "hold"] = "hold" if told["kind"] == "hold" else "run"
    return LeaseHolder(
        kind=kind,
        owner=_readable(told["owner"]),
        run_id=_readable(told["run_id"]),
        held_s=float(told["held_s"]),
        expires_in_s=float(told["expires_in_s"]),
    )


def _who(holder: LeaseHolder) -> str:
    return f"{holder.owner} (run {holder.run_id})" if holder.run_id else holder.owner


def _readable(text: object) -> str:
    """What others wrote on a shared board: nothing of it steers a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))[:_LONGEST]


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
