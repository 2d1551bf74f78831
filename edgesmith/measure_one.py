"""`edgesmith measure`: one compiled model on devices, without a config."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from edgesmith import power_rows, trtexec_rows
from edgesmith.config import DataSource, TensorRt
from edgesmith.errors import ConfigError, InfrastructureError, PowerModeRefused
from edgesmith.power_sweep import ModeSweep, Taken
from edgesmith.progress import Progress
from edgesmith.report.live import board_row
from edgesmith.result import AccuracyRecord, LatencyRecord, PowerModeRecord, PowerRecord
from edgesmith.types import (
    Artifact,
    Device,
    Finding,
    Measurement,
    MeasureProtocol,
    PowerRequest,
    RecoveryStep,
    SampleSet,
    Validity,
)
from targets import tensorrt_asked, tensorrt_ready
from targets.found import float_inputs, read_artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One device's figures, or why there are none.

    Attributes:
        asked_mode: the power mode that was asked for.
        skipped: why the board was not put into it, as a word for machines.
    """

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
    energy_mj: float | None = None
    energy_mj_reason: str | None = None
    power: PowerRecord | None = None
    power_mode: PowerModeRecord | None = None
    findings: tuple[Finding, ...] = ()
    asked_mode: str | None = None
    skipped: str | None = None

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
            "energy_mj": self.energy_mj,
            "energy_mj_reason": self.energy_mj_reason,
            "power": self.power and self.power.model_dump(mode="json"),
            "power_mode": self.power_mode and self.power_mode.model_dump(mode="json"),
            "power_mode_asked": self.asked_mode,
            "skipped": self.skipped,
            "findings": [asdict(finding) for finding in self.findings],
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
        if self.power is not None and self.energy_mj is not None:
            parts.append(
                f"{self.power.mean_mw / 1000:.2f} W, {self.energy_mj:.3g} mJ a run ({self.power.covers}; with idle)"
            )
        if self.power_mode is not None:
            parts.append(f"power mode {self.power_mode.mode}{', clocks held' if self.power_mode.clocks_locked else ''}")
        parts.append(self.runner or "")
        if self.fake:
            parts.append("FAKE: scripted figures")
        if self.emulated:
            parts.append("EMULATED: this latency is emulation time")
        return ", ".join(parts) + (f" [{self.note}]" if self.note else "")

    @property
    def note(self) -> str:
        """What speaks against the figures, or why there are none; empty where nothing does."""
        if self.latency_ms is None:
            why = " ".join(" ".join(self.reasons).split())  # an error's next step stands on a line of its own
            return f"skipped: {why}" if self.skipped else why
        against = [] if self.validity is Validity.VALID else [f"{self.validity}: {' '.join(self.reasons)}"]
        return "; ".join([*against, *(finding.text for finding in self.findings if finding.severity != "info")])


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
    power: PowerRequest | None = None,
    sweep: ModeSweep | None = None,
    tensorrt: TensorRt | None = None,
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
        power: what each device is put into meanwhile; with a sweep, only whether its clocks are held.
        sweep: the power modes to go through; None measures once.
        tensorrt: how the board is to build and run an .onnx by TensorRT, besides what the file says of itself; None:
            as it says, and one that says nothing is ONNX Runtime's.
        lease_wait_s: how long each board is waited for while somebody else holds it.

    Raises:
        InputError: the model, the data or a device's name.
        InfrastructureError: no device could be measured.
    """
    artifact = _asked(read_artifact(path), tensorrt)
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
    protocol = MeasureProtocol(threads=threads, power=power or PowerRequest())
    outcomes = _measure(fleet, boards, artifact, held.x, protocol, sweep)
    failures = [taken for many in outcomes.values() for _, taken in many if isinstance(taken, InfrastructureError)]
    if len(failures) == sum(map(len, outcomes.values())):
        raise failures[0]
    steps = fleet.steps()
    return tuple(
        replace(_failed(board, artifact, taken, steps), asked_mode=mode)
        if isinstance(taken, InfrastructureError)
        else replace(_row(taken, held, metric, steps), asked_mode=mode)
        for board in boards
        for mode, taken in outcomes[board.name]
    )


def _asked(artifact: Artifact, settings: TensorRt | None) -> Artifact:
    if settings is None:
        return artifact
    if artifact.format != "onnx":
        raise ConfigError(
            f"--tensorrt: {artifact.path.name} is no .onnx: TensorRT has no part in it.", next_step="Leave it out."
        )
    return tensorrt_asked.as_asked(tensorrt_ready.adopt(artifact), settings)


_Outcomes = tuple[tuple[str | None, Taken], ...]
"""By the power mode that was asked for."""


def _measure(
    fleet: Fleet,
    boards: Sequence[Device],
    artifact: Artifact,
    x: NDArray[Any],
    protocol: MeasureProtocol,
    sweep: ModeSweep | None,
) -> dict[str, _Outcomes]:
    """What each board gave, in their order."""
    outcomes: dict[str, _Outcomes] = {}
    ready = []
    for board in boards:
        try:
            fleet.check(board)
            ready.append(board)
        except InfrastructureError as error:
            outcomes[board.name] = ((protocol.power.mode, error),)

    def measure(session: BoardSession) -> _Outcomes:
        def in_mode(mode: str | None) -> Taken:
            (taken,) = session.measure([artifact], x, replace(protocol, power=replace(protocol.power, mode=mode)))
            return taken

        return (
            ((protocol.power.mode, in_mode(protocol.power.mode)),)
            if sweep is None
            else tuple(sweep.take(session, in_mode))
        )

    def done(ended: Outcome[_Outcomes]) -> None:
        if ended.error is not None:
            outcomes[ended.device.name] = ((protocol.power.mode, ended.error),)
        elif ended.value is not None:
            outcomes[ended.device.name] = ended.value

    fleet.each(ready, measure, done, leased=True)
    for board in boards:
        fleet.settle(board)
    return {board.name: outcomes[board.name] for board in boards}


def _row(measured: Measurement, held: SampleSet, metric: str, steps: Sequence[RecoveryStep]) -> Row:
    accuracy, why = None, measured.outputs_reason or "the data has no labels y"
    if held.y is not None and measured.outputs is not None:
        outputs = dequantize(measured.outputs, measured.output_quantization)
        found = evaluate(metric, outputs, held.y, root=Path.cwd())
        accuracy = AccuracyRecord(**asdict(found))
    return Row(
        device=measured.device,
        artifact_sha256=measured.artifact_sha256,
        latency_ms=summarise(measured.samples_ns),
        accuracy=accuracy,
        accuracy_reason=None if accuracy else why,
        peak_rss_bytes=measured.peak_rss_bytes,
        runner=measured.runner,
        emulated=measured.board.emulated,
        fake=measured.board.fake,
        validity=measured.validity,
        reasons=measured.validity_reasons,
        recovery=tuple(step for step in steps if step.device == measured.device),
        findings=(*power_rows.findings(measured), *trtexec_rows.alone(measured)),
        **power_rows.figures(measured),
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
        energy_mj_reason=error.what,
        skipped=error.code if isinstance(error, PowerModeRefused) else None,
    )
