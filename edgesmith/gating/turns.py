"""The accepted file and the new one on one board, in one lease, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_tests.paired_latency import Turns
from device_tests.regression import PROTOCOL, Compared, compare
from device_tests.session import BoardSession
from edgesmith.config import Gate
from edgesmith.errors import BoardError, UnstableMeasurement
from edgesmith.types import Artifact, Measurement, PowerRequest, Validity
from targets import tensorrt_ready
from targets.found import read_artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 64
"""Evaluation samples that are cycled through: those that a board times anyway."""
_SPOILT_LOOKS = 2
"""Looks that may be thrown away because the board throttled or was busy, before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What is measured: the accepted file, and the one that is to take its place."""

    accepted: Artifact
    candidate: Artifact


def artifact_at(path: Path, *, target: str, build: Mapping[str, Any]) -> Artifact:
    """A kept file as the board was asked to run it.

    Raises:
        ModelError: it cannot be read.
    """
    found = read_artifact(path)
    if target == tensorrt_ready.TARGET:
        found = tensorrt_ready.adopt(found)
    return replace(found, build=dict(build))


def compared(
    session: BoardSession, pair: Pair, x: NDArray[Any], gate: Gate, *, threads: int, power: PowerRequest
) -> Compared:
    """Measures both until it can be told whether the candidate is slower.

    Args:
        session: a board in a lease.
        pair: the two files.
        x: [N, ...] samples that both are timed on.
        gate: tolerance and percentile.
        threads, power: as the run measured.

    Raises:
        UnstableMeasurement: the board throttled or was busy in more looks than can be thrown away.
        BoardError: one of the two cannot be measured there.
        BoardBusy, ConnectionLost, DeadlineExceeded: as in `BoardSession.measure`.
    """
    protocol = replace(PROTOCOL, threads=threads, power=power)
    if gate.percentile == 95:
        protocol = replace(protocol, min_runs=protocol.windows * 40)
    spoilt: list[str] = []

    def measure() -> tuple[Turns, Turns]:
        while True:
            both = [_taken(one) for one in session.measure([pair.accepted, pair.candidate], x, protocol)]
            reasons = [
                reason
                for one in both
                if one.validity in (Validity.THROTTLED, Validity.BUSY)
                for reason in one.validity_reasons
            ]
            if not reasons:
                first, second = (Turns(one.samples_ns, one.windows) for one in both)
                return first, second
            spoilt.append("; ".join(dict.fromkeys(reasons)))
            if len(spoilt) > _SPOILT_LOOKS:
                raise UnstableMeasurement(
                    f"{session.device.name}: {len(spoilt)} measurements in turns were thrown away: {spoilt[-1]}.",
                    next_step="Let the board cool down, stop other work on it, then `edgesmith gate` again.",
                )

    return compare(measure, gate.tolerance(), float(gate.percentile))


def _taken(one: Measurement | BoardError) -> Measurement:
    if isinstance(one, BoardError):
        raise one
    return one
