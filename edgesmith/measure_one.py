"""`edgesmith measure`: one compiled model on devices, without a config."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.checks import check_samples
from calibration.samples import load_samples
from device_tests.accuracy import dequantize, evaluate
from device_tests.fleet import Fleet, Outcome
from device_tests.inventory import find_inventory, load_inventory
from device_tests.latency import summarise
from device_tests.lease import owner
from device_tests.quarantine import BoardStates, boards_folder
from device_tests.session import BoardSession
from edgesmith.config import DataSource
from edgesmith.errors import BoardError, InfrastructureError
from edgesmith.progress import Progress
from edgesmith.report.live import board_row
from edgesmith.result import AccuracyRecord, LatencyRecord
from edgesmith.types import (
    Artifact,
    Device,
    Measurement,
    MeasureProtocol,
    RecoveryStep,
    SampleSet,
    Validity,
)
from targets.found import float_inputs, read_artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One device's figures, or why there are none."""

    device: str
    artifact_sha256: str
    latency_ms: LatencyRecord | None
    accuracy: AccuracyRecord | None
    accuracy_reason: str | None
    peak_rss_bytes: int | None
    runner: str | None
    emulated: bool | None
    fake: bool
    validity: Validity
    reasons: tuple[str, ...]
    recovery: tuple[RecoveryStep, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For --json; names as in `result.json`."""
        return {
            "device": self.device,
            "emulated": self.emulated,
            "fake": self.fake,
            "artifact": {"sha256": self.artifact_sha256},
            "latency_ms": self.latency_ms and self.latency_ms.model_dump(),
            "accuracy": self.accuracy and self.accuracy.model_dump(),
            "accuracy_reason": self.accuracy_reason,
            "peak_rss_bytes": self.peak_rss_bytes,
            "runner": self.runner,
            "validity": self.validity.value,
            "validity_reasons": list(self.reasons),
            "recovery": [asdict(step) for step in self.recovery],
        }

    @property
    def text(self) -> str:
        """One line for people."""
        if self.latency_ms is None or self.latency_ms.p50 is None:
            return f"{self.device}: no figures: {' '.join(self.reasons)}"
        parts = [f"{self.device}: p50 {self.latency_ms.p50:.3f} ms"]
        if self.latency_ms.p95 is not None:
            parts.append(f"p95 {self.latency_ms.p95:.3f} ms")
        parts.append(f"{self.latency_ms.n} runs")
        if self.accuracy is not None:
            parts.append(f"{self.accuracy.metric} {self.accuracy.value:.4g} over {self.accuracy.n} samples")
        if self.peak_rss_bytes is not None:
            parts.append(f"peak RSS {self.peak_rss_bytes / 1e6:.1f} MB")
        parts.append(self.runner or "")
        if self.fake:
            parts.append("FAKE: scripted figures")
        if self.emulated:
            parts.append("EMULATED: this latency is emulation time")
        note = "" if self.validity is Validity.VALID else f" [{self.validity}: {' '.join(self.reasons)}]"
        return ", ".join(parts) + note


def measure_artifact(
    path: Path,
    data: Path,
    *,
    devices: Sequence[str],
    inventory: Path | None,
    runs_dir: Path,
    metric: str,
    samples: int | None,
    threads: int,
    progress: Progress,
    lease_wait_s: float = 600.0,
) -> tuple[Row, ...]:
    """Measures a compiled model on each device; boards over a link side by side, this machine alone.

    Args:
        path: a .tflite or .onnx.
        data: an .npz or an image folder.
        devices: names of the inventory, or "local".
        metric: where the data has labels.
        samples: only so many, spread over the classes.
        threads: of the runtime.
        progress: where it tells how far it is.
        lease_wait_s: how long each board is waited for while somebody else holds it.

    Raises:
        InputError: the model, the data or a device's name.
        InfrastructureError: no device could be measured.
    """
    artifact = read_artifact(path)
    specs = float_inputs(artifact)
    known = load_inventory(inventory or find_inventory(None))
    boards = [known.get(name) for name in dict.fromkeys(devices)]
    source = DataSource(source=str(data.resolve()), samples=samples)
    held = load_samples(source, role="evaluation", specs=specs, root=Path.cwd(), seed=0, progress=progress)
    check_samples(held, specs, n_classes=None)
    fleet = Fleet(
        owner=owner(),
        run_id=f"measure-{secrets.token_hex(3)}",
        local_root=runs_dir / ".cache" / "local-board",
        states=BoardStates(boards_folder()),
        progress=progress,
        row=partial(board_row, progress),
        lease_wait_s=lease_wait_s,
    )
    outcomes = _measure(fleet, boards, artifact, held.x, MeasureProtocol(threads=threads))
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, InfrastructureError)]
    if len(failures) == len(boards):
        raise failures[0]
    steps = fleet.steps()
    return tuple(
        _failed(board, artifact, outcome, steps)
        if isinstance(outcome, InfrastructureError)
        else _row(outcome, held, metric, steps)
        for board in boards
        for outcome in (outcomes[board.name],)
    )


def _measure(
    fleet: Fleet, boards: Sequence[Device], artifact: Artifact, x: NDArray[Any], protocol: MeasureProtocol
) -> dict[str, Measurement | InfrastructureError]:
    """What each board gave, in their order."""
    outcomes: dict[str, Measurement | InfrastructureError] = {}
    ready = []
    for board in boards:
        try:
            fleet.check(board)
            ready.append(board)
        except InfrastructureError as error:
            outcomes[board.name] = error

    def measure(session: BoardSession) -> Measurement | BoardError:
        (outcome,) = session.measure([artifact], x, protocol)
        return outcome

    def done(ended: Outcome[Measurement | BoardError]) -> None:
        found = ended.error or ended.value
        if found is not None:
            outcomes[ended.device.name] = found

    fleet.each(ready, measure, done, leased=True)
    for board in boards:
        fleet.settle(board)
    return {board.name: outcomes[board.name] for board in boards}


def _row(measured: Measurement, held: SampleSet, metric: str, steps: Sequence[RecoveryStep]) -> Row:
    accuracy = None
    if held.y is not None:
        outputs = dequantize(measured.outputs, measured.output_quantization)
        found = evaluate(metric, outputs, held.y, root=Path.cwd())
        accuracy = AccuracyRecord(metric=found.metric, value=found.value, low=found.low, high=found.high, n=found.n)
    return Row(
        device=measured.device,
        artifact_sha256=measured.artifact_sha256,
        latency_ms=summarise(measured.samples_ns),
        accuracy=accuracy,
        accuracy_reason=None if accuracy else "the data has no labels y",
        peak_rss_bytes=measured.peak_rss_bytes,
        runner=measured.runner,
        emulated=measured.board.emulated,
        fake=measured.board.fake,
        validity=measured.validity,
        reasons=measured.validity_reasons,
        recovery=tuple(step for step in steps if step.device == measured.device),
    )


def _failed(board: Device, artifact: Artifact, error: InfrastructureError, steps: Sequence[RecoveryStep]) -> Row:
    return Row(
        device=board.name,
        artifact_sha256=artifact.sha256,
        latency_ms=None,
        accuracy=None,
        accuracy_reason=error.what,
        peak_rss_bytes=None,
        runner=None,
        emulated=None,
        fake=board.transport == "fake",
        validity=Validity.UNKNOWN,
        reasons=(str(error),),
        recovery=tuple(step for step in steps if step.device == board.name),
    )
