"""What the agent's answers about artifacts become: figures, raw outputs, or an error in an artifact's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import targets
from device_tests import measure, power
from device_tests.agent_client import Refused
from device_tests.connection import Connection
from device_tests.deadline import Deadline
from edgesmith.errors import BoardError
from edgesmith.files import sha256_file
from edgesmith.types import Artifact, BoardInfo, Device, Measurement, MeasureProtocol

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Inferred:
    """What a model answered.

    Attributes:
        outputs: as the runtime gave them, one array [N, ...] per model output.
        quantization: (scale, zero_point) per output; None where it is not quantized.
    """

    outputs: tuple[NDArray[Any], ...]
    quantization: tuple[tuple[float, int] | None, ...]


class Arrays:
    """`.npy` files of the agent's work folder."""

    def __init__(self, connection: Connection, folder: Path, deadline: Deadline) -> None:
        self._connection, self._folder, self._deadline = connection, folder, deadline

    def fetch(self, file: Mapping[str, str]) -> NDArray[Any]:
        """Copies one here; its content is checked.

        Raises:
            BoardError: it arrived damaged.
        """
        import numpy as np

        here = self._folder / f"{file['sha256']}.npy"
        self._connection.get(file["path"], here, self._deadline)
        if sha256_file(here) != file["sha256"]:
            raise BoardError(f"{self._connection.address}: {file['path']} arrived damaged.")
        array: NDArray[Any] = np.load(here, allow_pickle=False)
        return array


def asked(artifact: Artifact) -> dict[str, Any]:
    """An artifact as the agent is asked about it."""
    # Only a fake board's script goes by the precision: it cannot know the file by its hash.
    found: dict[str, Any] = {
        "sha256": artifact.sha256,
        "runner": runner(artifact),
        "precision": artifact.precision,
    }
    return {**found, "options": dict(artifact.build)} if artifact.build else found


def request(artifacts: Sequence[Artifact], inputs: Mapping[str, str], protocol: MeasureProtocol) -> dict[str, Any]:
    """The question "measure"; `inputs` are what was pushed."""
    found: dict[str, Any] = {
        "artifacts": [asked(artifact) for artifact in artifacts],
        "inputs": inputs,
        "protocol": {
            "min_runs": protocol.min_runs,
            "min_seconds": protocol.min_seconds,
            "windows": protocol.windows,
            "warmup_max_seconds": protocol.warmup_max_seconds,
            "threads": protocol.threads,
            "timeout_seconds": protocol.timeout_seconds,
        },
    }
    mode = power.asked(protocol.power)
    return found if mode is None else {**found, "power": mode}


def inferred(told: Mapping[str, Any], arrays: Arrays) -> Inferred:
    """The answer to "infer"."""
    outputs = tuple(arrays.fetch(file) for file in told["files"])
    return Inferred(outputs=outputs, quantization=_pairs(told["output_quantization"]))


def measurement(
    one: Mapping[str, Any],
    told: Mapping[str, Any],
    arrays: Arrays,
    *,
    device: str,
    board: BoardInfo,
    protocol: MeasureProtocol,
) -> Measurement:
    """One artifact's part of the answer to "measure".

    Args:
        one: that part.
        told: the whole answer.
        arrays: where its files come from.
        device: the board's name.
        board: what it is.
        protocol: what was asked for.
    """
    samples, windows = arrays.fetch(one["samples"]), arrays.fetch(one["windows"])
    outputs = None if one["outputs"] is None else tuple(arrays.fetch(file) for file in one["outputs"])
    before, after = measure.environment(told["before"]), measure.environment(told["after"])
    validity, reasons = measure.judge_validity(
        samples, windows, warmup_flat=one["warmup_flat"], before=before, after=after, board=board
    )
    return Measurement(
        device=device,
        artifact_sha256=one["sha256"],
        samples_ns=samples,
        warmup_ns=arrays.fetch(one["warmup"]),
        windows=windows,
        outputs=outputs,
        outputs_sha256=None if outputs is None else measure.outputs_sha256(outputs),
        outputs_reason=one.get("outputs_reason") or "",
        outputs_next_step=one.get("outputs_next_step") or "",
        output_quantization=_pairs(one["output_quantization"]),
        peak_rss_bytes=one["peak_rss_bytes"],
        peak_rss_reason=one["peak_rss_reason"],
        warmup_flat=one["warmup_flat"],
        timer_overhead_ns=one["timer_overhead_ns"],
        validity=validity,
        validity_reasons=reasons,
        environment_before=before,
        environment_after=after,
        board=board,
        runner=one["runner"],
        protocol=protocol,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        power=power.read_power(one["power"]),
        # A scripted board has none.
        power_state=power.read_state(told["power_state"]) if "power_state" in told else None,
    )


def artifact_error(artifact: Artifact, device: Device, refused: Refused) -> BoardError:
    """The agent's refusal of one artifact, for its place among the others."""
    where = f"{device.name}: {artifact.path.name} ({runner(artifact)})"
    if refused.code == "runtime-crashed":
        killed = refused.facts.get("signal") == "SIGKILL"
        memory = "; the board was probably out of memory" if killed else ""
        return BoardError(f"{where}: the runtime crashed: {refused.message}{memory}.", next_step=refused.next_step)
    if refused.code == "timeout":
        what = f"{where}: {refused.message}."
        return BoardError(what, next_step="Raise `measure.timeout_seconds`, or take fewer evaluation samples.")
    return BoardError(f"{where}: {refused.message}.", next_step=refused.next_step)


def runner(artifact: Artifact) -> str:
    """Key of the agent's runner that executes an artifact; one that no target knows is the agent's to refuse."""
    known = artifact.target in targets.names()
    return targets.get(artifact.target).capabilities().runner if known else artifact.target


def _pairs(told: Sequence[Sequence[Any] | None]) -> tuple[tuple[float, int] | None, ...]:
    return tuple(None if pair is None else (float(pair[0]), int(pair[1])) for pair in told)
