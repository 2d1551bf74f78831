"""The engines that a board keeps: what they are, which are of no use there any more, and how they are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from device_tests.agent_client import Refused
from device_tests.deadline import Deadline
from edgesmith.errors import BoardError, ConfigError

if TYPE_CHECKING:
    from device_tests.session import BoardSession

_ASK_S = 120.0
_SHOWN = 12
"""Characters of a hash that people are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEngine:
    """One engine on a board.

    Attributes:
        key: names it in the board's cache.
        onnx_sha256: of the network; None, like all that its record tells, where that cannot be read.
        precision: what the builder was allowed beside float32; from TensorRT 11 on the file's own types hold.
        dla_core: that it runs on; None for the GPU.
        size_bytes: of all its files.
        built_at: UTC, by the board's clock.
        age_s: by the same clock; None where that was put back since.
        stale: why it is of no use to the board as it is; empty where it is.
    """

    key: str
    onnx_sha256: str | None
    tensorrt: str | None
    compute: str | None
    precision: tuple[str, ...]
    dla_core: int | None
    size_bytes: int
    built_at: str | None
    age_s: float | None
    stale: str

    @property
    def short_key(self) -> str:
        """Enough of the key to remove it by."""
        return self.key[:_SHOWN]

    @property
    def network(self) -> str:
        """The network, for people."""
        return f"onnx {self.onnx_sha256[:_SHOWN]}" if self.onnx_sha256 else "unknown"

    @property
    def computes(self) -> str:
        """In what, and where, for people."""
        major = (self.tensorrt or "").split(".")[0]
        typed = major.isdigit() and int(major) >= 11
        precision = "+".join(self.precision) or ("as in the file" if typed else "float32")
        return precision if self.dla_core is None else f"{precision}, DLA core {self.dla_core}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEngines:
    """All engines on a board, oldest first.

    Attributes:
        tensorrt: version there; None where the board tells of none, and stale engines are then not known.
        size_bytes: of all of them.
        free_bytes: of the board's disk.
    """

    device: str
    tensorrt: str | None
    engines: tuple[KeptEngine, ...]
    size_bytes: int
    free_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What removing came to: what is left, which engines are gone, and what that freed."""

    left: KeptEngines
    gone: tuple[KeptEngine, ...] = field(default=())
    freed_bytes: int = 0


def list_engines(session: BoardSession) -> KeptEngines:
    """The engines of a board.

    Raises:
        BoardError, ConnectionLost, DeadlineExceeded: as `BoardSession.ask`.
    """
    runtimes = session.info.runtimes
    here, compute = runtimes.get("tensorrt"), runtimes.get("compute")
    told = _ask(session, "engines", {"tensorrt": here})
    found = tuple(_engine(one, told["utc"], compute) for one in told["engines"])
    return KeptEngines(
        device=session.device.name,
        tensorrt=here,
        engines=found,
        size_bytes=told["size_bytes"],
        free_bytes=told["free_bytes"],
    )


def chosen(
    kept: KeptEngines, keys: Sequence[str] = (), *, everything: bool = False, stale: bool = False
) -> tuple[KeptEngine, ...]:
    """The engines that are meant, each once.

    Args:
        kept: what there is.
        keys: keys, or beginnings of them that fit one engine only.
        everything: all of them.
        stale: those that are of no use to the board.

    Raises:
        ConfigError: a key fits none, or several; stale ones are asked for and not known.
    """
    if stale and kept.tensorrt is None:
        raise ConfigError(
            f"{kept.device}: the board tells of no TensorRT now, so which engines are stale is not known.",
            next_step=f"`edgesmith devices probe {kept.device}` says why. `--remove KEY` and `--remove-all` work.",
        )
    named = {_named(kept, key).key for key in keys}
    return tuple(one for one in kept.engines if everything or (stale and one.stale) or one.key in named)


def remove_engines(
    session: BoardSession, keys: Sequence[str] = (), *, everything: bool = False, stale: bool = False
) -> Removed:
    """Removes engines; arguments as in `chosen`. What is still needed is built again when it is measured.

    Args:
        session: open, with the lease: nobody runs what is removed.

    Raises:
        ConfigError: as in `chosen`; nothing was removed then.
        BoardError, ConnectionLost, DeadlineExceeded: as `BoardSession.ask`.
    """
    kept = list_engines(session)
    gone = chosen(kept, keys, everything=everything, stale=stale)
    if not gone:
        return Removed(left=kept)
    freed = _ask(session, "engines_remove", {"keys": [one.key for one in gone]})["freed_bytes"]
    return Removed(left=list_engines(session), gone=gone, freed_bytes=freed)


def _named(kept: KeptEngines, key: str) -> KeptEngine:
    found = [one for one in kept.engines if key and one.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    fits = f"fits {len(found)} engines: {', '.join(one.short_key for one in found)}" if found else "fits no engine"
    step = "Give more of it." if found else f"`edgesmith devices engines {kept.device}` lists them."
    raise ConfigError(f"--remove {key}: {kept.device}: this key {fits}.", next_step=step)


def _ask(session: BoardSession, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return session.ask(method, params, Deadline.after(_ASK_S))
    except Refused as refused:
        raise BoardError(f"{session.device.name}: {refused.message}.", next_step=refused.next_step) from None


def _engine(told: Mapping[str, Any], utc: str, compute: str | None) -> KeptEngine:
    identity = told["identity"] or {}
    return KeptEngine(
        key=told["key"],
        onnx_sha256=identity.get("onnx_sha256"),
        tensorrt=identity.get("tensorrt"),
        compute=identity.get("compute"),
        precision=tuple(identity.get("precision", ())),
        dla_core=identity.get("dla_core"),
        size_bytes=told["size_bytes"],
        built_at=told["built_at"],
        age_s=_age_s(told["built_at"], utc),
        stale=told["stale"] or _of_another_gpu(identity.get("compute"), compute),
    )


def _of_another_gpu(built_for: str | None, here: str | None) -> str:
    """Storage moves from board to board."""
    if built_for is None or here is None or built_for == here:
        return ""
    return f"built for compute capability {built_for}, {here} is here"


def _age_s(built_at: str | None, utc: str) -> float | None:
    if built_at is None:
        return None
    age_s = (datetime.fromisoformat(utc) - datetime.fromisoformat(built_at)).total_seconds()
    return age_s if age_s >= 0 else None
