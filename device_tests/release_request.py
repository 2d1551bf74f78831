"""What is to be released, and the manifest and files that it becomes."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_tests.agent import runners
from device_tests.deploy import encode_inputs, meaning
from device_tests.release_manifest import (
    EnginePart,
    FilePart,
    Manifest,
    MeasuredPart,
    OutputPart,
    PreprocessingPart,
    SmokePart,
    TensorPart,
)
from edgesmith import __version__
from edgesmith.files import sha256_file
from edgesmith.types import Artifact, BoardInfo, Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEEP = 2
"""Releases kept besides the current one."""

_STAMP = "%Y%m%d-%H%M%S"
_INPUTS = "smoke-inputs.npy"
_RUNS = 30
_SLOWER = 5.0
_SLOWER_MS = 10.0
"""Sane is: no more than so many times the p50 of the run, or so many milliseconds more. The release before is still
answering while it is taken, maybe on the same core."""

ANOTHER_ENGINE = "another engine"
"""Instead of a precision: the engine is not the one that answered in the run."""

_STEPS = 1.0
_FLOAT32_SHARE = 1e-4
_COARSE_SHARE = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReleaseRequest:
    """A model that is to answer on a board.

    Attributes:
        name: what applications know it by.
        artifact: the compiled file.
        runner: the agent's runner for it.
        quantization: (scale, zero_point) or None, per input and then per output.
        preprocessing: how samples have to be prepared.
        threads: of the runtime, as measured.
        run_id: of the run that judged it.
        measured: the run's figures on this board.
        x: [N, ...] known inputs, as the float model takes them; several joined (`calibration.inputs`).
        outputs: what this board answered to them in the run, raw, [N, ...] each.
        keep: releases kept besides the current one; at least 1.
    """

    name: str
    artifact: Artifact
    runner: str
    quantization: tuple[tuple[float, int] | None, ...]
    preprocessing: PreprocessingPart
    threads: int
    run_id: str
    measured: MeasuredPart
    x: NDArray[Any]
    outputs: tuple[NDArray[Any], ...]
    keep: int = KEEP


def new_version(sha256: str, taken: Sequence[str] = (), now: dt.datetime | None = None) -> str:
    """A new release's version: time here, by UTC, and the start of the model's hash. Sorts after all that are there.

    Where another workstation's clock is ahead of ours, or the second is the same, it is the second after the newest.
    """
    moment = now or dt.datetime.now(dt.UTC)
    for version in taken:
        with contextlib.suppress(ValueError):
            stamp = dt.datetime.strptime(version[: len("20261122-071530")], _STAMP).replace(tzinfo=dt.UTC)
            moment = max(moment, stamp + dt.timedelta(seconds=1))
    return f"{moment.strftime(_STAMP)}-{sha256[:8]}"


def write_files(request: ReleaseRequest, folder: Path) -> dict[str, Path]:
    """The files of the release but for its manifest: name there -> file here, written to `folder` where new."""
    import numpy as np

    files = {_model_file(request.artifact): request.artifact.path, _INPUTS: encode_inputs(request.x, folder).path}
    for index, output in enumerate(request.outputs):
        place = files[_output_file(index)] = folder / _output_file(index)
        np.save(place, np.ascontiguousarray(output), allow_pickle=False)
    return files


def _model_file(artifact: Artifact) -> str:
    return f"model.{artifact.format}"


def _output_file(index: int) -> str:
    return f"smoke-outputs-{index}.npy"


def make_manifest(
    request: ReleaseRequest,
    files: Mapping[str, Path],
    *,
    version: str,
    previous: str | None,
    device: str,
    info: BoardInfo,
    engine: EnginePart | None = None,
    more: Sequence[FilePart] = (),
) -> Manifest:
    """The manifest of a release that is about to be sent.

    Args:
        request: what is to be released.
        files: as `write_files` gave them.
        version: of the release.
        previous: the version that is current on the board.
        device: the board's name.
        info: the board as it is now.
        engine: that it has for the artifact; None where it runs the artifact as it is.
        more: files that the board has already, and takes from where it keeps them.
    """
    artifact, p50_ms = request.artifact, request.measured.p50_ms
    ins, outs = artifact.signature.inputs, artifact.signature.outputs
    tensors = tuple(TensorPart.of(*pair) for pair in zip([*ins, *outs], request.quantization, strict=True))
    ours = request.runner in runners.names()
    # Another build of the same network adds its numbers up in another order, and may do so in TF32.
    precision = artifact.precision if engine is None or engine.is_measured else ANOTHER_ENGINE
    packages = runners.load(request.runner).PACKAGES if ours else tuple(info.runtimes)
    return Manifest(
        name=request.name,
        version=version,
        model=_model_file(artifact),
        files=(
            *(
                FilePart(file=name, sha256=sha256_file(path), size_bytes=path.stat().st_size)
                for name, path in files.items()
            ),
            *more,
        ),
        format=artifact.format,
        precision=artifact.precision,
        inputs=tensors[: len(ins)],
        outputs=tensors[len(ins) :],
        runner=request.runner,
        runtime={package: found for package, found in info.runtimes.items() if package in packages},
        threads=request.threads,
        build=dict(artifact.build),
        engine=engine,
        preprocessing=request.preprocessing,
        measured=request.measured,
        smoke=SmokePart(
            inputs=_INPUTS,
            inputs_dtype=meaning(request.x),
            outputs=tuple(
                OutputPart(file=_output_file(index), tolerance=tolerance(output, precision))
                for index, output in enumerate(request.outputs)
            ),
            runs=_RUNS,
            p50_limit_ms=max(_SLOWER * p50_ms, p50_ms + _SLOWER_MS),
        ),
        run_id=request.run_id,
        device=device,
        made_by=f"edgesmith {__version__}",
        deployed_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        previous=previous,
    )


def tolerance(expected: NDArray[Any], precision: str) -> float:
    """How far an output may be from what the same board answered in the run.

    The same file, runtime and processor give the same bits. Room is left for what is no fault: another number of
    cores at work in a float sum, or an update of the runtime. It is no accuracy test: the run was that.

    Args:
        expected: the answer in the run.
        precision: of the artifact, or `ANOTHER_ENGINE`.

    Returns:
        1 step for integers. For floats a share of the largest expected value: 1e-4 where the model computes in
        float32, 1e-2 where it is quantized or float16, or runs as another engine.
    """
    import numpy as np

    if expected.dtype.kind in "iub":
        return _STEPS
    largest = float(np.max(np.abs(expected))) if expected.size else 0.0
    return (_FLOAT32_SHARE if precision == Scheme.NONE.precision else _COARSE_SHARE) * (largest or 1.0)
