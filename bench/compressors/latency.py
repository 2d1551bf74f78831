"""Files of one format take turns on this machine, A B C A B C, measured as edgesmith measures boards."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from device_tests.inventory import load_inventory
from device_tests.latency import summarise
from device_tests.session import BoardSession
from edgesmith.errors import EdgesmithError
from edgesmith.progress import Silent
from edgesmith.types import Measurement, MeasureProtocol
from targets.found import read_artifact

SAMPLES: Final = 64
PROTOCOL: Final = MeasureProtocol(threads=1, windows=10, min_runs=300, min_seconds=2.0)
QUICK_PROTOCOL: Final = MeasureProtocol(threads=1, windows=5, min_runs=100, min_seconds=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one file.

    Attributes:
        ratio: to the float file of the same runtime: the middle one of the windows' ratios.
        ratio_low: a quarter of the windows' ratios lie below.
        ratio_high: a quarter of them lie above.
    """

    p50_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    validity: str
    runner: str

    def plain(self) -> dict[str, Any]:
        """For the record."""
        return {
            "p50_ms": round(self.p50_ms, 4),
            "p50_ratio_to_float": round(self.ratio, 3),
            "p50_ratio_quartiles": [round(self.ratio_low, 3), round(self.ratio_high, 3)],
            "validity": self.validity,
            "runner": self.runner,
        }


def measured(
    files: Mapping[str, Path], against: str, x: NDArray[np.float32], *, quick: bool
) -> dict[str, Latency | str]:
    """Measures files that take turns; each in a process of its own, so that none disturbs another's memory.

    Args:
        files: by name, all of one format. Equal files are measured once.
        against: the name that ratios are to.
        x: float32 [N, ...], real samples.
        quick: fewer and shorter windows.

    Returns:
        Per name its latency, or why there is none.
    """
    artifacts = {name: read_artifact(path) for name, path in files.items()}
    different = {artifact.sha256: artifact for artifact in artifacts.values()}
    with tempfile.TemporaryDirectory() as folder:
        here = load_inventory(None).get("local")
        with BoardSession(here, local_root=Path(folder), progress=Silent()) as session:
            protocol = QUICK_PROTOCOL if quick else PROTOCOL
            found = session.measure(list(different.values()), x[:SAMPLES], protocol)
    by_file = dict(zip(different, found, strict=True))
    baseline = by_file[artifacts[against].sha256]
    if isinstance(baseline, EdgesmithError):
        raise baseline
    return {name: _latency(by_file[artifact.sha256], baseline) for name, artifact in artifacts.items()}


def _latency(one: Measurement | EdgesmithError, baseline: Measurement) -> Latency | str:
    if isinstance(one, EdgesmithError):
        return str(one)
    p50 = summarise(one.samples_ns).p50
    if p50 is None:
        return "too few runs"
    low, middle, high = np.percentile(_medians(one) / _medians(baseline), [25, 50, 75])
    return Latency(
        p50_ms=p50,
        ratio=float(middle),
        ratio_low=float(low),
        ratio_high=float(high),
        validity=one.validity.value,
        runner=one.runner or "",
    )


def _medians(one: Measurement) -> NDArray[np.float64]:
    """Of each window, in order."""
    return np.array([np.median(one.samples_ns[one.windows == number]) for number in np.unique(one.windows)])
