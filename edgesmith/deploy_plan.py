"""What of a finished run goes to which board: for each the fastest artifact that passed on that very board."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import targets
from device_tests.release_board import check_name
from device_tests.release_manifest import AccuracyPart, MeasuredEnginePart, MeasuredPart, PreprocessingPart
from device_tests.release_request import KEEP, ReleaseRequest
from edgesmith import known_answers
from edgesmith.config import load_config
from edgesmith.errors import GateFailed, InputError
from edgesmith.files import sha256_file
from edgesmith.result import ArtifactRecord, DeviceResult, Result, read_result
from edgesmith.types import Artifact, Device, Verdict
from edgesmith.types.boards import FAKE
from targets import tensorrt_build


class DeployPlan:
    """A run that can be released from.

    Attributes:
        result: of the run.
        name: what applications will know the model by.
    """

    def __init__(self, folder: Path, *, name: str = "", target: str = "", variant: str = "") -> None:
        """Reads the run.

        Args:
            folder: the run folder.
            name: of the release; empty: the model's file name.
            target: only artifacts of this target.
            variant: "float" or "compressed"; empty: compressed where the run has one.

        Raises:
            InputError: no finished run, or one that was never meant to ship.
        """
        self.result = read_result(folder / "result.json")
        self._config = load_config(folder / "config.yaml").config
        self._folder, self._target, self._variant = folder, target, variant
        _refuse_unfit(self.result, folder)
        self.name = check_name(name or default_name(self._config.model))

    @property
    def devices(self) -> tuple[str, ...]:
        """The boards of the run."""
        return tuple(dict.fromkeys(row.device for row in self.result.results))

    def requests(self, devices: Sequence[Device], keep: int = KEEP) -> Mapping[str, ReleaseRequest]:
        """What goes to each, by its name. All is decided before any board is touched.

        Raises:
            GateFailed: for a board, nothing passed in the run.
            InputError: a board that the run did not measure, or a file of the run is gone or changed.
        """
        return {device.name: self._request(self._choose(device), keep) for device in devices}

    def _choose(self, device: Device) -> DeviceResult:
        rows = [row for row in self.result.results if row.device == device.name]
        if not rows:
            raise InputError(
                f"{device.name}: not measured in run {self.result.run_id}, which knows {', '.join(self.devices)}.",
                next_step="Only what passed on a board is released to it: "
                f"`edgesmith run --device {device.name}` measures it there.",
            )
        # The float model is what the compressed one is judged by; it is released where it is all there is, or by name.
        variant = self._variant or ("compressed" if any(row.variant == "compressed" for row in rows) else "float")
        wanted = [row for row in rows if row.variant == variant and self._target in ("", row.target)]
        if device.transport == "fake" or any(row.fake and not _on_stand_in(row) for row in wanted):
            raise InputError(f"{device.name}: a scripted board: what passes there has run nowhere.")
        wanted = self._answered(device, wanted)
        passing = {p50: row for row in wanted if row.verdict is Verdict.PASS and (p50 := _p50(row)) is not None}
        if not passing:
            told = ", ".join(f"{row.target} {row.variant} {row.verdict}" for row in wanted)
            raise GateFailed(
                f"{device.name}: nothing to release: of run {self.result.run_id}, "
                f"{told or f'no artifact is {self._target} {variant}'}.",
                next_step=f"`edgesmith report {self._folder}` says why. To release to the other boards only, "
                "name them with --device.",
            )
        return passing[min(passing)]

    def _answered(self, device: Device, rows: Sequence[DeviceResult]) -> list[DeviceResult]:
        """Those whose engine has answered in the run, which is what a release is checked by; and what has no engine.

        Raises:
            InputError: there are only others.
        """
        found = [row for row in rows if row.engine is None or self._has_answers(row)]
        if rows and not found:
            raise InputError(
                f"{device.name}: the run has latencies of engines from there and no answers, so a release could not be "
                "checked: trtexec alone tells none.",
                next_step=f"Install TensorRT's Python binding there (`edgesmith doctor --device {device.name}` says "
                "how), leave `trtexec: only` out, and run again.",
            )
        return found

    def _has_answers(self, row: DeviceResult) -> bool:
        return known_answers.are_kept(self._folder, row.device, row.target, row.variant)

    def _request(self, row: DeviceResult, keep: int) -> ReleaseRequest:
        if row.artifact is None:  # a row that passed has one
            raise InputError(f"{self._folder}: the result names no artifact for {row.device}.")
        artifact = self._artifact(row, row.artifact)
        answers = known_answers.read(self._folder, row.device, row.target, row.variant)
        from calibration import inputs

        columns = inputs.split(answers.x)
        low, high = tuple(float(part.min()) for part in columns), tuple(float(part.max()) for part in columns)
        source = self._config.data.evaluation
        prepared = next(data.source for data in self.result.data if data.role == "evaluation")
        return ReleaseRequest(
            name=self.name,
            artifact=artifact,
            runner=targets.get(row.target).capabilities().runner,
            quantization=_quantization(artifact),
            preprocessing=PreprocessingPart(
                text=prepared,
                dtype=",".join(part.dtype.name for part in columns),
                low=low[0] if len(low) == 1 else low,
                high=high[0] if len(high) == 1 else high,
                resize=source.resize,
                color=source.color,
                scale=source.scale,
                offset=source.offset,
            ),
            threads=row.threads or 1,
            run_id=self.result.run_id,
            measured=_measured(row),
            x=answers.x,
            outputs=answers.outputs,
            keep=keep,
        )

    def _artifact(self, row: DeviceResult, record: ArtifactRecord) -> Artifact:
        path = self._folder / record.path
        if not path.is_file() or sha256_file(path) != record.sha256:
            raise InputError(
                f"{path}: gone, or no longer what the run judged (sha256).",
                next_step="Run again: what did not change is taken from the store.",
            )
        return Artifact(
            target=row.target,
            path=path,
            format=record.format,
            precision=record.precision,
            sha256=record.sha256,
            signature=targets.get(row.target).signature(path),
            toolchain=record.toolchain,
            made_from=self.result.model_sha256 or "",
            size_bytes=record.size_bytes,
            gzip_bytes=record.gzip_bytes,
            sparsity=record.sparsity,
            build=_build(row.target, path, record),
        )


def default_name(model: Path) -> str:
    """The model's file name without its suffix, fit to be a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.stem).strip("-._")[:100]


def _refuse_unfit(result: Result, folder: Path) -> None:
    if result.state != "finished":
        raise InputError(
            f"{folder}: the run is {result.state}, not finished.", next_step="`edgesmith run --resume` goes on in it."
        )
    made_up = [data for data in result.data if data.synthetic]
    if made_up:
        raise InputError(
            f"{folder}: the run was made with {made_up[0].role} samples of random numbers: it shows the tool chain, "
            "and is not to ship.",
            next_step=f"Give real samples as data.{made_up[0].role} and run again.",
        )


def _on_stand_in(row: DeviceResult) -> bool:
    """A board that answered, though a runtime of it is a stand-in that says so of itself."""
    return row.board is not None and FAKE in row.board.runtimes


def _build(target: str, path: Path, record: ArtifactRecord) -> Mapping[str, Any]:
    """How the board is asked to build and run it; runs of earlier versions left that to the file."""
    if record.build or target != "tensorrt":
        return record.build
    return tensorrt_build.read(path) or {}


def _p50(row: DeviceResult) -> float | None:
    return None if row.latency_ms is None else row.latency_ms.p50


def _measured(row: DeviceResult) -> MeasuredPart:
    accuracy, engine = row.accuracy, row.engine
    return MeasuredPart(
        p50_ms=_p50(row) or 0.0,
        p95_ms=None if row.latency_ms is None else row.latency_ms.p95,
        accuracy=accuracy and AccuracyPart(metric=accuracy.metric, value=accuracy.value, n=accuracy.n),
        measured_at=row.measured_at,
        runner=row.runner,
        emulated=bool(row.emulated),
        engine=engine
        and MeasuredEnginePart(
            key=engine.key, sha256=engine.sha256, size_bytes=engine.size_bytes, tensorrt=engine.tensorrt
        ),
    )


def _quantization(artifact: Artifact) -> tuple[tuple[float, int] | None, ...]:
    """Per input and output. An ONNX file quantizes inside its graph: its inputs and outputs are plain."""
    if artifact.format == "tflite":
        from targets.tflite_file import quantization

        return quantization(artifact.path)
    return (None,) * (len(artifact.signature.inputs) + len(artifact.signature.outputs))
