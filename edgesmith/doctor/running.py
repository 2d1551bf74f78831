"""One file on one board: measured, and its answers held against the expected ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from device_tests.accuracy import dequantize
from device_tests.session import BoardSession
from edgesmith.doctor.models import samples
from edgesmith.doctor.models.catalog import Specimen, tolerance
from edgesmith.doctor.trial import Outcome, Trial
from edgesmith.errors import BoardError, InfrastructureError
from edgesmith.types import Engine, Measurement, MeasureProtocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONG = MeasureProtocol(min_runs=100, min_seconds=1.0, windows=4, warmup_max_seconds=5.0, timeout_seconds=180.0)
SHORT = MeasureProtocol(min_runs=40, min_seconds=0.2, windows=2, warmup_max_seconds=2.0, timeout_seconds=180.0)
"""Where latency is told beside something else."""

_WRONG = (
    "Please report it with the bundle: the answers are in doctor.json. Heat, memory and power supply of the board can "
    "be the cause, too: `edgesmith devices health` tries those."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """How far answers are from the expected ones.

    Attributes:
        share: the largest error over the largest expected value; None where an answer is no number, or where there
            are not as many as expected.
        same_class: share of the samples whose largest answer is the expected one.
    """

    share: float | None
    same_class: float | None


def measured(session: BoardSession, specimen: Specimen, *, short: bool = False) -> Measurement:
    """Runs a file on a board; `short`: for its answers, the latency is by the way.

    Raises:
        BoardError: its runtime is missing, refused it or crashed, or no engine was built of it.
        BoardBusy, ConnectionLost, DeadlineExceeded: as `BoardSession.measure`.
    """
    (found,) = session.measure([specimen.artifact], samples(), SHORT if short else LONG)
    if isinstance(found, BoardError):
        raise found
    return found


def compared(session: BoardSession, name: str, precision: str, specimen: Specimen) -> Trial:
    """The trial of one file."""
    return judged(name, precision, specimen, measured(session, specimen), session.info.runtimes.get("compute", ""))


def judged(name: str, precision: str, specimen: Specimen, taken: Measurement, compute: str = "") -> Trial:
    """What a measurement says of its file.

    Args:
        name: of the trial.
        precision: "float32", "float16" or "int8".
        specimen: what ran.
        taken: how.
        compute: capability of the GPU that it ran on; empty for a processor.
    """
    on_gpu = compute if taken.engine is not None else ""
    kind, allowed = tolerance(precision, on_gpu)
    if taken.board.fake:
        text = f"FAKE: made up, as all that a scripted board says, so nothing is judged; {_latency(taken)}"
        return Trial(name=name, outcome=Outcome.OK, text=text, measurement=taken)
    if taken.outputs is None:
        text = f"its answers are not known: {taken.outputs_reason}; {_latency(taken)}"
        return Trial(name=name, outcome=Outcome.SKIPPED, text=text, measurement=taken)
    (found,) = dequantize(taken.outputs, taken.output_quantization)
    off = deviation(found, specimen.expected)
    right = off.share is not None and off.share <= allowed
    if off.share is None:
        answers = f"WRONG: answers of shape {list(found.shape)}, or some that are no numbers"
    else:
        answers = f"{'' if right else 'WRONG: '}error {off.share:.1e}, {allowed:.0e} allowed for {kind}"
    return Trial(
        name=name,
        outcome=Outcome.OK if right else Outcome.FAILED,
        text="; ".join(filter(None, (answers, engine_text(taken.engine), _latency(taken)))),
        next_step="" if right else _WRONG,
        largest_error=off.share,
        tolerance=allowed,
        same_class=off.same_class,
        measurement=taken,
    )


def deviation(found: NDArray[np.float32], expected: NDArray[np.float32]) -> Deviation:
    """How far `found` is from `expected`, both float32 [N, classes]."""
    import numpy as np

    if found.shape != expected.shape or not np.isfinite(found).all():
        return Deviation(share=None, same_class=None)
    share = float(np.abs(found - expected).max() / np.abs(expected).max())
    same = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
    return Deviation(share=share, same_class=same)


def engine_text(engine: Engine | None) -> str:
    """How an engine came to be there; empty where there is none."""
    if engine is None:
        return ""
    how = "was on the board" if engine.cached else f"built in {engine.seconds:.1f} s"
    layers = ", ".join(f"{count} {name}" for name, count in engine.layer_precisions)
    # TensorRT 8.0 has no inspector.
    count = f", {engine.layer_count} layers" if engine.layer_count else ""
    return how + count + (f" ({layers})" if layers else "")


def infrastructure_failure(name: str, error: InfrastructureError) -> Trial:
    """The trial that an error ended."""
    return Trial(name=name, outcome=Outcome.FAILED, text=error.what, next_step=error.next_step)


def _latency(taken: Measurement) -> str:
    """Told, never judged: what this board should take is not known."""
    import numpy as np

    text = f"median {float(np.median(taken.samples_ns)) / 1e6:.3f} ms"
    parts = taken.engine.parts if taken.engine is not None else None
    if parts is not None:
        shares = (parts.to_device, parts.compute, parts.to_host)
        text += " (in {:.3f}, compute {:.3f}, out {:.3f})".format(*(part.p50_ms for part in shares))
    return text + (", emulated" if taken.board.emulated else "")
