"""Boards: what they are, who holds them, and what is done about one that fails."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LEASE_DIR = "auto"
"""Where a board's lease lies: the board chooses, the same for all its users (`device_tests.agent.lease_file`). In
memory: neither a full disk nor a read-only home stands in its way, and it is gone after a restart, as its owner is."""

FAKE = "FAKE"
"""Among a board's runtimes: names the one that is a stand-in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A board as the inventory knows it. Holds no secret: keys are named by path.

    Attributes:
        name: what the user calls it; "local" is this machine.
        transport: how it is reached.
        board: profile name, or "auto".
        python: interpreter on the board.
        workdir: folder on the board, relative to the login folder or absolute; a cache, removable at any time.
        releases: folder on the board for what `deploy` puts there; stays.
        host_key: pinned fingerprint "SHA256:..."; empty = known_hosts decides.
        jump: reached by way of this host, "user@host:port", or another device of the inventory.
        power: command of this machine, as a list, that cuts and restores the board's power; empty: there is none.
        reboot: command of the board, as a list, that restarts it; empty: not allowed.
        lease_dir: absolute folder on the board where its one lease lies, the same for all who share it; or "auto".
        script: what a fake board does; None for real ones.
    """

    name: str
    transport: Literal["local", "ssh", "fake"]
    board: str = "auto"
    host: str = ""
    port: int = 22
    user: str = ""
    identity_file: Path | None = None
    known_hosts: Path | None = None
    host_key: str = ""
    python: str = "python3"
    workdir: str = ".cache/edgesmith"
    releases: str = ".local/share/edgesmith/releases"
    jump: Device | str = ""
    power: tuple[str, ...] = ()
    reboot: tuple[str, ...] = ()
    lease_dir: str = LEASE_DIR
    script: Path | None = None
    labels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """Who wants a board, and how long they would wait for it.

    Attributes:
        owner: for people: "ann@workstation".
        run_id: of the run that needs it; for people, too.
        token: secret-free random word that names this one claim: the same token may come back after a lost link.
        ttl_s: the lease lapses when nobody has renewed it for so long.
        wait_s: patience while somebody else holds the board.
    """

    owner: str
    run_id: str
    token: str
    ttl_s: float = 60.0
    wait_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """Who holds a board, as the board itself tells it. Times are by the board's own uptime, never by a wall clock.

    Attributes:
        kind: "run" for a run's lease, which needs a heartbeat; "hold" for a person's reservation, which does not.
        held_s: for how long.
        expires_in_s: until it lapses; 0.0 where it has.
    """

    kind: Literal["run", "hold"]
    owner: str
    run_id: str
    held_s: float
    expires_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A board that is ours.

    Attributes:
        taken_over: the holder whose lapsed lease was taken over; None where the board was free.
        waited_s: for the holder before us.
    """

    device: str
    owner: str
    run_id: str
    token: str
    ttl_s: float
    taken_over: LeaseHolder | None
    waited_s: float


class Rung(enum.StrEnum):
    """What is done about a board that fails, in this order, each at most once in a run."""

    RECONNECT = "reconnect"
    KILL_AGENT = "kill the stale agent"
    REBOOT = "reboot"
    POWER = "power command"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryStep:
    """One rung that was climbed.

    Attributes:
        reason: the error that made it necessary.
        outcome: "helped", "did not help", or "not possible: ..."; of a quarantine, until when.
        seconds: until the board answered again, or it was known that it does not; the work after it is not counted.
    """

    device: str
    rung: Rung
    reason: str
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The board's state at one moment. None: the board has no such sensor, or it could not be read.

    Attributes:
        throttled: a Raspberry Pi firmware's bits.
        throttling: what holds clocks down because of heat just now, as the kernel names it; empty where nothing does.
        over_current: events since the board started, by the hardware's name of them; of a Jetson.
        power_mode: of a Jetson, by nvpmodel's name.
    """

    taken_at: str
    load_1m: float | None
    governor: str | None
    clock_khz: int | None
    temperature_c: float | None
    throttled: str | None
    memory_available_bytes: int | None
    throttling: tuple[str, ...] = ()
    over_current: Mapping[str, int] | None = None
    gpu_clock_khz: int | None = None
    power_mode: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardInfo:
    """What the agent found on the board.

    Attributes:
        runtimes: package -> version, of the runtimes that import there; also "compute", the capability of its GPU
            where a runtime told it, and `FAKE`.
        runners: keys of the agent's runners that have their runtime there, e.g. ("tflite", "onnxruntime").
        emulated: runs under an emulator: its latency is emulation time and is never judged.
        cpu_features: those that decide which int8 kernels run, e.g. ("avx2", "avx512_vnni"); empty where not told.
        fake: a scripted board: its latency is made up, judged all the same, and every report says so.
        power_mode: the one it was found in, by nvpmodel's name; None where it has none.
    """

    machine: str
    system: str
    kernel: str
    python: str
    numpy: str | None
    model: str | None
    cpu: str | None
    cores: int
    memory_bytes: int | None
    runtimes: Mapping[str, str]
    emulated: bool
    agent_sha256: str
    runners: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    fake: bool = False
    power_mode: str | None = None

    @property
    def stand_in(self) -> bool:
        """One of its runtimes is a stand-in that says so of itself, as the fake TensorRT."""
        return FAKE in self.runtimes
