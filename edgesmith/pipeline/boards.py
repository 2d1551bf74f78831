"""deploy and measure: every artifact of a device in one lease, taken in turns, kept under the hash of what it was.

A measurement is reused only where nothing at all changed: artifacts, how the board is to build and run them, samples,
protocol, board address, agent, and the board's power mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from device_tests.agent_zip import build_agent
from device_tests.session import BoardSession
from edgesmith.errors import InfrastructureError
from edgesmith.files import sha256_file
from edgesmith.pipeline import engines
from edgesmith.pipeline.build import Built
from edgesmith.pipeline.engines import ThisMachine
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.store import Store
from edgesmith.pipeline.workspace import Workspace
from edgesmith.types import (
    Artifact,
    BoardInfo,
    Device,
    Engine,
    Environment,
    Lease,
    Measurement,
    MeasureProtocol,
    Power,
    PowerState,
    Validity,
)
from targets import tensorrt_asked

_INFO = TypeAdapter(BoardInfo)
_ENVIRONMENT = TypeAdapter(Environment)
_PROTOCOL = TypeAdapter(MeasureProtocol)
_POWER: TypeAdapter[Power | None] = TypeAdapter(Power | None)
_STATE: TypeAdapter[PowerState | None] = TypeAdapter(PowerState | None)
_ENGINE: TypeAdapter[Engine | None] = TypeAdapter(Engine | None)

Outcome = Measurement | InfrastructureError


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardOutcome:
    """What one device gave.

    Attributes:
        outcomes: one per artifact, in their order: a measurement, or why there is none.
        reused: nothing was measured now: an identical measurement was there.
        lease: under which it was measured.
    """

    device: Device
    info: BoardInfo | None
    built: tuple[Built, ...]
    outcomes: tuple[Outcome, ...]
    reused: bool = False
    lease: Lease | None = None


def board_key(device: Device) -> dict[str, object]:
    """What makes a device the same device: its address and the place on it."""
    return {
        "name": device.name,
        "transport": device.transport,
        "host": device.host,
        "port": device.port,
        "user": device.user,
        "host_key": device.host_key,
        "python": device.python,
        "agent": build_agent().sha256,
        "script": sha256_file(device.script) if device.script and device.script.is_file() else None,
    }


def remembered_info(device: Device, store: Store) -> BoardInfo | None:
    """What the board said of itself the last time it was reached."""
    entry = store.find("board", store.key("board", board_key(device)))
    return _INFO.validate_python(entry.record) if entry else None


def remember_info(device: Device, info: BoardInfo, store: Store) -> None:
    """Keeps what the board said of itself."""
    with store.making("board", store.key("board", board_key(device))) as draft:
        draft.record.update(_INFO.dump_python(info, mode="json"))


def measurement_key(device: Device, artifacts: Sequence[Artifact], prepared: Prepared, store: Store) -> str:
    """Hash of everything a device's measurements depend on; the artifacts in their order."""
    return store.key(
        "measurement",
        {
            "device": board_key(device),
            "artifacts": [[one.sha256, tensorrt_asked.counted(one.build)] for one in artifacts],
            "samples": prepared.evaluation.sha256,
            "protocol": asdict(prepared.loaded.config.measure.protocol()),
        },
    )


def own_mode_counts(info: BoardInfo, prepared: Prepared) -> bool:
    """Whether a board is measured in the power mode it happens to be in: no key holds that, only the board tells it."""
    return info.power_mode is not None and prepared.loaded.config.measure.power_mode is None


def find_measured(
    device: Device, built: tuple[Built, ...], prepared: Prepared, store: Store, now: BoardInfo
) -> BoardOutcome | None:
    """The identical earlier measurement of a device, or None.

    Args:
        now: what the board is; where it is in another power mode than it was measured in, or has another version of
            what builds its engines, it is measured anew.
    """
    key = measurement_key(device, [item.artifact for item in built], prepared, store)
    entry = store.find("measurement", key, label=f"measure-{device.name}")
    if entry is None:
        return None
    outcomes = tuple(
        _read(entry.folder / str(index), record) for index, record in enumerate(entry.record["measurements"])
    )
    if any(_other_engine(item, outcome) for item, outcome in zip(built, outcomes, strict=True)):
        return None
    if own_mode_counts(now, prepared) and any(_mode(outcome) != now.power_mode for outcome in outcomes):
        return None
    return BoardOutcome(device=device, info=outcomes[0].board, built=built, outcomes=outcomes, reused=True)


def measure_board(
    session: BoardSession,
    built: tuple[Built, ...],
    prepared: Prepared,
    work: Workspace,
    this_machine: ThisMachine,
) -> BoardOutcome:
    """Pushes what the board lacks and measures all artifacts in turns; for the board's own thread.

    Args:
        this_machine: opens a process here that a file is checked in, where the board makes us make another one.

    Returns:
        One outcome per artifact: a crash of one loses no other.
    """
    device, store = session.device, work.store
    built = tuple(engines.fitted(session, item, prepared, work, this_machine) for item in built)
    for item in built:
        session.push(item.artifact.path, item.artifact.sha256)
    protocol = prepared.loaded.config.measure.protocol()
    outcomes = tuple(session.measure([item.artifact for item in built], prepared.evaluation.x, protocol))
    if all(isinstance(outcome, Measurement) and is_final(outcome) for outcome in outcomes):
        _keep(device, built, [o for o in outcomes if isinstance(o, Measurement)], prepared, store)
    remember_info(device, session.info, store)
    return BoardOutcome(device=device, info=session.info, built=built, outcomes=outcomes, lease=session.lease)


def is_final(measured: Measurement) -> bool:
    """Whether taking it again could not make it better: it is valid, or never will be, as an emulator's."""
    return measured.validity is Validity.VALID or measured.board.emulated


def unreachable(device: Device, built: tuple[Built, ...], error: InfrastructureError) -> BoardOutcome:
    """The outcome of a board that could not be worked with at all."""
    return BoardOutcome(device=device, info=None, built=built, outcomes=tuple(error for _ in built))


def _other_engine(item: Built, measured: Measurement) -> bool:
    """Whether an engine that was measured is not the one that would be built now: of another runtime, or GPU."""
    runtime, engine = item.wanted.runtime, measured.engine
    if runtime is None or engine is None:
        return False
    version = runtime.version
    if engine.builder:
        # trtexec tells three numbers of its version, the binding four.
        version = ".".join(version.split(".")[:3])
    return (engine.tensorrt, engine.compute) != (version, runtime.compute or engine.compute)


def _mode(measured: Measurement) -> str | None:
    return measured.environment_before.power_mode


_ARRAYS = ("samples_ns", "warmup_ns", "windows")


def _keep(
    device: Device, built: tuple[Built, ...], measured: Sequence[Measurement], prepared: Prepared, store: Store
) -> None:
    key = measurement_key(device, [item.artifact for item in built], prepared, store)
    with store.making("measurement", key) as draft:
        draft.record["measurements"] = [
            _write(draft.folder / str(index), measurement) for index, measurement in enumerate(measured)
        ]


def _write(folder: Path, measurement: Measurement) -> dict[str, Any]:
    folder.mkdir()
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(measurement, name))
    for index, array in enumerate(measurement.outputs or ()):
        np.save(folder / f"output-{index}.npy", array)
    return {
        "device": measurement.device,
        "artifact_sha256": measurement.artifact_sha256,
        "outputs": None if measurement.outputs is None else len(measurement.outputs),
        "outputs_reason": measurement.outputs_reason,
        "outputs_next_step": measurement.outputs_next_step,
        "outputs_sha256": measurement.outputs_sha256,
        "output_quantization": measurement.output_quantization,
        "peak_rss_bytes": measurement.peak_rss_bytes,
        "peak_rss_reason": measurement.peak_rss_reason,
        "warmup_flat": measurement.warmup_flat,
        "timer_overhead_ns": measurement.timer_overhead_ns,
        "validity": measurement.validity.value,
        "validity_reasons": measurement.validity_reasons,
        "environment_before": asdict(measurement.environment_before),
        "environment_after": asdict(measurement.environment_after),
        "board": _INFO.dump_python(measurement.board, mode="json"),
        "runner": measurement.runner,
        "protocol": asdict(measurement.protocol),
        "taken_at": measurement.taken_at,
        "power": _POWER.dump_python(measurement.power, mode="json"),
        "power_state": _STATE.dump_python(measurement.power_state, mode="json"),
        "engine": _ENGINE.dump_python(measurement.engine, mode="json"),
    }


def _read(folder: Path, record: dict[str, Any]) -> Measurement:
    arrays = {name: np.load(folder / f"{name}.npy") for name in _ARRAYS}
    count = record["outputs"]
    outputs = None if count is None else tuple(np.load(folder / f"output-{index}.npy") for index in range(count))
    quantization = tuple(
        None if item is None else (float(item[0]), int(item[1])) for item in record["output_quantization"]
    )
    return Measurement(
        device=record["device"],
        artifact_sha256=record["artifact_sha256"],
        outputs=outputs,
        outputs_sha256=record["outputs_sha256"],
        # Records of earlier versions have neither.
        outputs_reason=record.get("outputs_reason", ""),
        outputs_next_step=record.get("outputs_next_step", ""),
        output_quantization=quantization,
        peak_rss_bytes=record["peak_rss_bytes"],
        peak_rss_reason=record["peak_rss_reason"],
        warmup_flat=record["warmup_flat"],
        timer_overhead_ns=record["timer_overhead_ns"],
        validity=Validity(record["validity"]),
        validity_reasons=tuple(record["validity_reasons"]),
        environment_before=_ENVIRONMENT.validate_python(record["environment_before"]),
        environment_after=_ENVIRONMENT.validate_python(record["environment_after"]),
        board=_INFO.validate_python(record["board"]),
        runner=record["runner"],
        protocol=_PROTOCOL.validate_python(record["protocol"]),
        taken_at=record["taken_at"],
        power=_POWER.validate_python(record["power"]),
        power_state=_STATE.validate_python(record["power_state"]),
        engine=_ENGINE.validate_python(record["engine"]),
        **arrays,
    )
