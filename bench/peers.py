"""Against other tools: the same float networks and samples, made small by us and by them.

Claim, on MLPerf Tiny's ResNet-8 and a MobileNetV2 for CIFAR-10, for `.tflite` and `.onnx`:

1. Without training ours is as accurate as the most accurate peer, within noise; where that one scores above the float
   network, as accurate as the float network: above it is luck.
2. For every figure (size, gzip, p50) the table says who leads at equal accuracy, also where we do not.

Methods that only quantize are compared with our `int8` and our recipe `no-training`. TF-MOT's pipelines (quantization-
aware training; pruning; pruning, then clustering that keeps zeros) train, and are compared with `balanced`, `fastest`
and `smallest`: each on the same images, and as many epochs as the recipe of ours that stands beside it. Equal accuracy
is: within the 95 % interval of the paired difference to the most accurate of the same kind. Latency is taken on this
machine, one thread, the files of one format in turns.

    python bench/peers.py                     # everything; writes bench/results/peers.json and prints it as Markdown
    python bench/peers.py --table             # only prints the committed result as Markdown
    python bench/peers.py --models resnet8 --methods "edgesmith fastest" tfmot-prune    # some; writes nothing
    python bench/peers.py --quick             # the bundled example, nothing that trains, the peers that are installed;
                                              # under five minutes; writes nothing

Everything that a method made is kept in the cache folder (`--cache`) and not made again, unless `--again METHOD` asks
for it; the latencies of a format are taken anew whenever one of its files is new, or `--measure-again` asks for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray

from bench.compressors import table
from bench.compressors.latency import Latency, measured
from bench.compressors.making import CALIBRATION, FORMATS, TRAINED_ON, Made, Network, make, prepare
from bench.compressors.methods import METHODS, NOT_COMPARED, Method
from bench.int8.models import default_cache
from bench.int8.paired import difference
from bench.int8.peers import ChildFailed, python_of
from edgesmith.files import gzip_size, sha256_file, sha256_json, write_json
from targets.found import read_artifact

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "bench" / "results" / "peers.json"
MODELS: Final = ("resnet8", "mobilenet_v2")
QUICK: Final = ("bundled",)
SLOW: Final = ("nncf-accurate", "onnxruntime-entropy", "onnxruntime-percentile")
"""Variants of other methods that a quick run leaves out."""
FLOAT: Final = "float"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """A file, and on which samples it is right and says what the float network says."""

    method: str
    format: str
    ours: bool
    trained: bool
    path: Path
    told: Mapping[str, Any]
    right: NDArray[np.bool_]
    agrees: NDArray[np.bool_]


def judged(network: Network, method: Method | None, made: Made, reference: NDArray[np.int64]) -> list[Judged]:
    """All files of a method; of the float network where it is None.

    Raises:
        ChildFailed: a file cannot be run.
    """
    found = []
    for kind, path in made.files.items():
        classes = network.classes(path)
        found.append(
            Judged(
                method=method.name if method else FLOAT,
                format=kind,
                ours=bool(method and method.ours),
                trained=bool(method and method.trained),
                path=path,
                told=made.told,
                right=classes == network.evaluation.y,
                agrees=classes == reference,
            )
        )
    return found


def latencies(network: Network, files: Sequence[Judged], *, quick: bool, again: bool) -> dict[str, Any]:
    """Of all files of one format, by method; kept for just these files."""
    kept = network.folder / f"latency-{files[0].format}.json"
    key = sha256_json(sorted((each.method, sha256_file(each.path)) for each in files))
    if not again and kept.is_file() and (found := json.loads(kept.read_text()))["key"] == key:
        return dict(found)
    taken = datetime.now(UTC).isoformat(timespec="seconds")
    load = round(os.getloadavg()[0], 2)
    paths = {each.method: each.path for each in files}
    found = measured(paths, FLOAT, network.evaluation.x, quick=quick)
    by_method = {name: one.plain() if isinstance(one, Latency) else {"reason": one} for name, one in found.items()}
    record = {"key": key, "taken_at": taken, "load_1m": load, "methods": by_method}
    write_json(kept, record)
    return record


def row(one: Judged, files: Sequence[Judged], base: NDArray[np.bool_], latency: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a file.

    Args:
        files: of the same format and kind, this one among them.
        base: where the float network is right.
    """
    lost = difference(base, one.right)
    return {
        "method": one.method,
        "format": one.format,
        "ours": one.ours,
        "trained": one.trained,
        "accuracy": round(100 * float(one.right.mean()), 2),
        "drop_pp": round(lost.points, 2),
        "drop_pp_half_width_95": round(lost.half_width, 2),
        "agreement": round(100 * float(one.agrees.mean()), 2),
        "equal_accuracy": difference(_bar(files, base), one.right).within_noise,
        "equal_agreement": difference(max(files, key=lambda f: f.agrees.sum()).agrees, one.agrees).within_noise,
        "size_bytes": one.path.stat().st_size,
        "gzip_bytes": gzip_size(one.path),
        "packed_bytes": one.told.get("packed_bytes"),
        "sparsity": _rounded(read_artifact(one.path).sparsity),
        "p50_ms": None,
        "p50_ratio_to_float": None,
        **latency,
        "seconds": one.told.get("seconds", {}).get(one.format),
        "facts": {k: v for k, v in one.told.items() if k not in ("seconds", "packed_bytes")},
    }


def _bar(files: Sequence[Judged], base: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the most accurate one is right. Above the float network is luck where nothing was trained."""
    best = max(files, key=lambda one: one.right.sum()).right
    return base if not files[0].trained and best.sum() >= base.sum() else best


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def compared(name: str, methods: Sequence[Method], asked: argparse.Namespace) -> dict[str, Any]:
    """All methods on one network."""
    cache = asked.cache.resolve()
    network = prepare(name, cache, quick=asked.quick, trained_on=asked.trained_on)
    reference = network.classes(network.folder / "float.onnx")
    base = np.asarray(reference == network.evaluation.y)
    print(f"{name}: float {100 * base.mean():.2f} %", file=sys.stderr)
    floats = Made(files={kind: network.folder / f"float.{kind}" for kind in FORMATS}, told={})
    files, failed, absent = judged(network, None, floats, reference), {}, []
    for method in methods:
        python = python_of(method.environment, cache, make=not asked.quick)
        if python is None:
            absent.append(method.name)
            continue
        try:
            made = make(method, network, python, again=method.name in asked.again or (asked.quick and method.ours))
            new = judged(network, method, made, reference)
        except ChildFailed as error:
            failed[method.name] = str(error)
            print(f"  {method.name}: {error}", file=sys.stderr)
            continue
        for one in new:
            text = f"{100 * one.right.mean():6.2f} %, gzip {gzip_size(one.path):>8,}, {made.told['seconds']} s"
            print(f"  {one.method} {one.format}: {text}", file=sys.stderr, flush=True)
        files += new
    rows, taken = [], {}
    for kind in FORMATS:
        here = [one for one in files if one.format == kind]
        found = latencies(network, here, quick=asked.quick, again=asked.measure_again)
        taken[kind] = {"taken_at": found["taken_at"], "load_1m": found["load_1m"]}
        for one in here:
            alike = [each for each in here if each.trained == one.trained and each.method != FLOAT]
            alike = alike if one.method != FLOAT else [one]
            rows.append(row(one, alike, base, found["methods"][one.method]))
    return {
        **network.facts,
        "float_accuracy": round(100 * float(base.mean()), 2),
        "evaluated_on": len(network.evaluation.y),
        "trained_on": network.trained_on,
        "latencies": taken,
        "rows": rows,
        "verdicts": table.verdicts([each for each in rows if each["method"] != FLOAT]),
        "failed": failed,
        **({"not_installed": absent} if absent else {}),
    }


def broken(found: Mapping[str, Any]) -> list[str]:
    """What of the claim does not hold."""
    said = []
    for name, one in found.items():
        said += [f"{name}: {method}: {why}" for method, why in one["failed"].items()]
        said += [f"{name}: {r['method']} {r['format']}: no latency" for r in one["rows"] if r["p50_ms"] is None]
        for kind in FORMATS:
            ours = [r for r in one["rows"] if r["ours"] and not r["trained"] and r["format"] == kind]
            if ours and not any(r["equal_accuracy"] for r in ours):
                said.append(f"{name}: without training none of ours is as accurate as the best .{kind}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the bundled example, nothing trained; writes nothing")
    parser.add_argument("--table", action="store_true", help="prints the committed result as Markdown, runs nothing")
    parser.add_argument("--models", nargs="+", default=MODELS, help="only these; writes nothing")
    parser.add_argument("--methods", nargs="+", help="only these; writes nothing")
    parser.add_argument("--trained-on", type=int, default=TRAINED_ON, help="other than so many; writes nothing")
    parser.add_argument("--again", nargs="+", default=(), help="make the files of these methods anew")
    parser.add_argument("--measure-again", action="store_true", help="take all latencies anew")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="networks, environments, what was made")
    asked = parser.parse_args()
    if asked.table:
        print(table.markdown(json.loads(RESULT.read_text())), end="")
        return 0
    methods = [each for each in METHODS if asked.methods is None or each.name in asked.methods]
    if asked.quick:
        methods = [each for each in methods if not each.trained and each.name not in SLOW]
    found = {name: compared(name, methods, asked) for name in (QUICK if asked.quick else asked.models)}
    said = broken(found)
    figures = {
        "bench": "peers",
        "claim": "without training as accurate as the best peer, within noise; every column says who leads",
        "holds": not said,
        "broken": said,
        "leads": {
            name: f"{sum(v['ours_leads'] for v in one['verdicts'])} of {len(one['verdicts'])} verdicts"
            for name, one in found.items()
        },
        "models": found,
        "not_compared": dict(NOT_COMPARED),
        "calibration_samples": CALIBRATION,
        "command": " ".join(["python bench/peers.py", *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name)
                for name in ("ai-edge-litert", "keras", "numpy", "onnx", "onnxruntime", "tensorflow")
            },
        },
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    whole = asked.methods is None and tuple(asked.models) == MODELS and asked.trained_on == TRAINED_ON
    if whole and not asked.quick:
        write_json(RESULT, figures)
    print(table.markdown(figures))
    print(json.dumps(figures))
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
