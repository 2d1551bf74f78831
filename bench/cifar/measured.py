"""int8 files of Keras networks, which test pictures they get right, and how long they take, all in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import targets
from bench.cifar.pruned import sample_set
from bench.int8.data import Split
from device_tests.inventory import load_inventory
from device_tests.latency import interval_ns
from device_tests.session import BoardSession
from edgesmith.errors import BoardError
from edgesmith.files import sha256_file, sha256_json
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Measurement, MeasureProtocol, Scheme
from optimizer.load import load_model
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import plan_files
from targets.base import CompileRequest
from targets.found import read_artifact
from targets.plan_export import make_plan_graph

CALIBRATION: Final = 256
_SCALE: Final = 1_000_000


def int8_file(source: Path, calibration: Split, cache: Path) -> Artifact:
    """The int8 TFLite file of a Keras file by our plan, as `quantize` makes it; kept in the cache."""
    few = Split(x=calibration.x[:CALIBRATION], y=calibration.y[:CALIBRATION])
    key = sha256_json([sha256_file(source), CALIBRATION, asdict(PtqSettings())])[:24]
    kept = cache / "structured" / "int8" / f"{key}.tflite"
    if kept.is_file():
        return read_artifact(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = load_model(source, workdir=folder / "loaded")
        graph = make_plan_graph(model, Silent())
        planned = make_plan(graph, few.x, PtqSettings())
        plan_files.write(planned, folder / "plan")
        graph.write(folder / "plan" / plan_files.ORIGINAL)
        request = CompileRequest(
            scheme=Scheme.INT8,
            out_dir=folder,
            name=kept.stem,
            calibration=sample_set("calibration", few, "calibration"),
            plan=folder / "plan",
        )
        made = targets.get("tflite").compile(model, request, Silent())
        part = kept.with_suffix(".part")
        part.write_bytes(made.path.read_bytes())
        part.rename(kept)
    return read_artifact(kept)


def right(artifact: Artifact, samples: Split) -> NDArray[np.bool_]:
    """Which samples a file gets right, by its runtime on this machine."""
    (answers,) = targets.get(artifact.target).outputs(artifact.path, samples.x)
    return np.asarray(answers.argmax(axis=1) == samples.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times faster one file is than another: the median over the rounds, with its 95 % interval."""

    median: float
    low: float | None
    high: float | None

    def plain(self) -> dict[str, float | None]:
        """Rounded."""
        return {
            key: None if value is None else round(value, 3)
            for key, value in (("median", self.median), ("low", self.low), ("high", self.high))
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timed:
    """One interleaved run: every round takes each file in turn, with one thread.

    Attributes:
        rounds_ms: the median of each round, by file.
        facts: of the run.
    """

    rounds_ms: Mapping[str, NDArray[np.float64]]
    facts: Mapping[str, Any]

    def ratio(self, slow: str, fast: str) -> Ratio:
        """Of two files, round by round."""
        ratios = self.rounds_ms[slow] / self.rounds_ms[fast]
        low, high = interval_ns((ratios * _SCALE).astype(np.int64), 50)
        return Ratio(
            median=float(np.median(ratios)),
            low=None if low is None else low / _SCALE,
            high=None if high is None else high / _SCALE,
        )

    def median_ms(self, name: str) -> float:
        """Of a file, over the rounds."""
        return float(np.median(self.rounds_ms[name]))


def timed(artifacts: Mapping[str, Artifact], x: NDArray[np.float32], *, rounds: int, seconds: float) -> Timed:
    """Measures files side by side on this machine.

    Args:
        artifacts: by name; two names may share a file.
        x: samples to run.
        rounds: turns of each file.
        seconds: of each file, over all its rounds.

    Raises:
        BoardError: one of them could not be measured.
    """
    files = {artifact.sha256: artifact for artifact in artifacts.values()}
    protocol = MeasureProtocol(min_runs=5 * rounds, min_seconds=seconds, windows=rounds, timeout_seconds=1800.0)
    here = load_inventory(None).get("local")
    with (
        tempfile.TemporaryDirectory() as name,
        BoardSession(here, local_root=Path(name), progress=Silent()) as session,
    ):
        taken = session.measure(list(files.values()), x, protocol)
    found = {one.artifact_sha256: one for one in taken if isinstance(one, Measurement)}
    for one in taken:
        if isinstance(one, BoardError):
            raise one
    by_file = {sha: _rounds(one) for sha, one in found.items()}
    first = next(iter(found.values()))
    return Timed(
        rounds_ms={name: by_file[artifact.sha256] for name, artifact in artifacts.items()},
        facts={
            "runner": first.runner,
            "cpu": first.board.cpu,
            "threads": protocol.threads,
            "rounds": rounds,
            "validity": sorted({one.validity.value for one in found.values()}),
            "taken_at": first.taken_at,
        },
    )


def _rounds(one: Measurement) -> NDArray[np.float64]:
    turns: Sequence[int] = np.unique(one.windows).tolist()
    return np.array([np.median(one.samples_ns[one.windows == turn]) for turn in turns]) / 1e6
