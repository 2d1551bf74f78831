"""Can a verdict on latency be believed? Real runs on this machine, with a neighbour that comes and goes.

Claim: of comparisons of an artifact with itself at most 1 % are called REGRESSION; of artifacts that are 5 % slower at
least 95 % of those that are judged are found, of those 10 % slower at least 99 %. How many are INCONCLUSIVE is told.

Beside it, on the same samples, the rule that most tools have: the mean of 20 runs each, and a threshold of 10 %.

    python bench/gate_power.py            # 300 comparisons with itself, 100 each with 5 % and 10 %: one to two hours;
                                          # writes bench/results/gate_power.json
    python bench/gate_power.py --quick    # 12, 6 and 6: within five minutes, by the same bounds where they can be held

The slow-down is exact: each run is made to last so much longer (`bench/gate/slower.py`). Windows, warm-up, processes
and the decision are the product's own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.gate.neighbour import neighbour
from bench.int8.data import shared_data
from device_tests.agent import measuring
from device_tests.paired_latency import Turns
from device_tests.regression import PROTOCOL, Change, Compared, Tolerance, compare
from edgesmith.files import sha256_file, write_json

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "bench" / "results" / "gate_power.json"
CHILD: Final = ROOT / "bench" / "gate" / "slower.py"
FILES: Final = ("pretrainedResnet_quant.tflite", "pretrainedResnet.tflite")
"""ResNet-8 of MLPerf Tiny: about 0.08 and 0.3 ms here."""
FULL: Final = {1.0: 300, 1.05: 100, 1.1: 100}
QUICK: Final = {1.0: 12, 1.05: 6, 1.1: 6}
FALSE_ALARMS: Final = 0.01
FOUND: Final = {1.05: 0.95, 1.1: 0.99}
NAIVE_RUNS: Final = 20
NAIVE_LIMIT: Final = 1.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One comparison.

    Attributes:
        factor: that the candidate is slower by.
        naive: the ratio of the means of the first runs, as peers judge it.
    """

    factor: float
    file: str
    compared: Compared
    naive: float
    seconds: float

    def plain(self) -> dict[str, Any]:
        """For the record."""
        first = self.compared.first
        return {
            "factor": self.factor,
            "file": self.file,
            "change": self.compared.change.value,
            "looks": self.compared.looks,
            "ratio": first and round(first.ratio, 4),
            "interval": first and [round(first.low, 4), round(first.high, 4)],
            "naive_ratio": round(self.naive, 4),
            "seconds": round(self.seconds, 1),
        }


class Pair:
    """The same file twice, the second slowed down; measured by the agent's own code."""

    def __init__(self, file: str, factor: float, folder: Path) -> None:
        self._folder, self._measured = folder, 0
        self.first_runs: tuple[Any, Any] | None = None
        source = shared_data() / "mlperf-tiny" / file
        self._asked = []
        for name in ("reference-x1", f"candidate-x{factor:g}"):
            path = folder / f"{name}.tflite"
            path.write_bytes(source.read_bytes())
            self._asked.append({"path": str(path), "runner": "tflite", "sha256": sha256_file(path)})
        values = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
        np.save(folder / "inputs.npy", values)

    def measure(self) -> tuple[Turns, Turns]:
        """One look: both in processes of their own that have just been started."""
        self._measured += 1
        folder = self._folder / str(self._measured)
        folder.mkdir()
        protocol = {name: getattr(PROTOCOL, name) for name in ("min_runs", "min_seconds", "windows", "threads")}
        protocol |= {"warmup_max_seconds": PROTOCOL.warmup_max_seconds, "timeout_seconds": PROTOCOL.timeout_seconds}
        inputs = {"path": str(self._folder / "inputs.npy"), "dtype": "float32"}
        told = measuring.measure(self._asked, inputs, protocol, str(folder), lambda **_: None)
        for one in told["artifacts"]:
            if "error" in one:
                raise RuntimeError(f"{one['error']}")
        arrays = [[np.load(one[kind]["path"]) for kind in ("samples", "windows")] for one in told["artifacts"]]
        reference, candidate = (Turns(samples, windows) for samples, windows in arrays)
        if self.first_runs is None:
            self.first_runs = tuple(turns.samples_ns[:NAIVE_RUNS] for turns in (reference, candidate))
        return reference, candidate


def trial(factor: float, file: str) -> Trial:
    """Compares a file with itself, slowed down."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgesmith-bench-") as folder:
        pair = Pair(file, factor, Path(folder))
        compared = compare(pair.measure, Tolerance())
    if pair.first_runs is None:
        raise RuntimeError("nothing was measured")
    naive = float(pair.first_runs[1].mean() / pair.first_runs[0].mean())
    return Trial(factor=factor, file=file, compared=compared, naive=naive, seconds=time.monotonic() - start)


def summary(trials: list[Trial], factor: float) -> dict[str, Any]:
    """How often each verdict was given at that slow-down."""
    these = [each for each in trials if each.factor == factor]
    told = Counter(each.compared.change for each in these)
    judged = len(these) - told[Change.INCONCLUSIVE]
    naive = sum(each.naive > NAIVE_LIMIT for each in these)
    return {
        "comparisons": len(these),
        **{change.value: told[change] for change in Change},
        "inconclusive_share": round(told[Change.INCONCLUSIVE] / len(these), 4),
        "regression_share": round(told[Change.REGRESSION] / len(these), 4),
        "regression_share_of_judged": round(told[Change.REGRESSION] / judged, 4) if judged else None,
        "naive_regression_share": round(naive / len(these), 4),
        "looks_mean": round(float(np.mean([each.compared.looks for each in these])), 2),
        "seconds_median": round(float(np.median([each.seconds for each in these])), 1),
    }


def held(found: dict[str, Any]) -> list[str]:
    """The parts of the claim that do not hold."""
    broken = []
    if found["1"]["regression_share"] > FALSE_ALARMS:
        broken.append(f"false alarms: {found['1']['regression_share']:.1%}")
    for factor, least in FOUND.items():
        share = found[f"{factor:g}"]["regression_share_of_judged"]
        if share is None or share < least:
            broken.append(f"{factor:g} found: {'nothing judged' if share is None else f'{share:.1%}'}")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="24 comparisons; nothing is written")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.argv[0] = str(CHILD)  # what the agent starts for its children
    os.environ["PYTHONPATH"] = str(ROOT)
    plan = [factor for factor, count in (QUICK if args.quick else FULL).items() for _ in range(count)]
    draw = random.Random(args.seed)  # noqa: S311 - no secret
    draw.shuffle(plan)
    trials: list[Trial] = []
    with neighbour(args.seed):
        for factor in plan:
            trials.append(trial(factor, draw.choice(FILES)))
            one = trials[-1]
            print(f"{len(trials)}/{len(plan)} x{factor:g} {one.seconds:.1f} s {one.compared.why}", file=sys.stderr)
    found = {f"{factor:g}": summary(trials, factor) for factor in FULL}
    broken = held(found)
    figures = {
        "bench": "gate_power",
        "claim": "false REGRESSION at most 1 %; 5 % slower found in 95 % of those judged, 10 % in 99 %",
        "holds": not broken,
        "broken": broken,
        "slower": found,
        "naive_rule": f"mean of {NAIVE_RUNS} runs each, threshold {NAIVE_LIMIT - 1:.0%}",
        "tolerance": {name: getattr(Tolerance(), name) for name in ("percent", "ms", "confidence", "looks")},
        "command": f"python bench/gate_power.py{' --quick' if args.quick else ''}",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("ai-edge-litert", "numpy")},
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not args.quick:
        write_json(RESULT, {**figures, "comparisons": [each.plain() for each in trials]})
    print(json.dumps(figures))
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
