"""What the ready recipes make of one network: accuracy, bytes, multiply-accumulates, and how long the int8 file takes.

Claim: each name holds. Of all recipes `fastest` leaves the fewest multiply-accumulates, `smallest` the smallest int8
file after gzip, `deep-compression` the smallest packed file; and each int8 file takes no longer than plain int8 by more
than a tenth. All of them are timed in one interleaved run.

    python bench/recipes.py            # MLPerf's ResNet-8 on CIFAR-10; writes bench/results/recipes.json
    python bench/recipes.py --quick    # the bundled example: a few minutes; writes nothing
    python bench/recipes.py --only no-training --quick     # one of them, to try; claims nothing
    python bench/recipes.py --table    # the kept result, as the table of docs/compression.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from bench.cifar import measured
from bench.cifar.pruned import sample_set
from bench.int8 import data, models
from edgesmith.files import gzip_size, replacing, sha256_file, sha256_json, write_json
from edgesmith.types import StepSpec
from optimizer import cost, techniques
from optimizer.base import Context
from optimizer.packing.packed import save_packed
from optimizer.recipe import apply_step
from optimizer.recipes import READY

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "bench" / "results" / "recipes.json"
VERSION: Final = 1
_CALIBRATION: Final = 500
_SLOWER: Final = 1.1


def made(name: str, source: Path, samples: data.Data, cache: Path) -> Path:
    """The Keras model that a recipe makes, and beside it what it is; made where the cache does not hold it yet.

    A training that was killed goes on from its last whole epoch.
    """
    import keras

    steps = READY[name].steps if name in READY else ()
    given = [float(samples.train.x.sum()), len(samples.train.x), len(samples.calibration.x)]
    folder = cache / "recipes" / sha256_json([VERSION, steps, sha256_file(source), given])[:16]
    if (folder / "facts.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)

    def original() -> Any:
        return keras.saving.load_model(source, compile=False)

    model = original()
    train = sample_set("train", samples.train, f"{source.name} {given}")
    calibration = sample_set("calibration", samples.calibration, f"{source.name} {given}")
    for number, step in enumerate(steps):
        ((technique, params),) = step.items()
        found = techniques.get(technique)
        if found.COMPILE_TIME:
            continue
        spec = StepSpec(name=technique, params=found.Params.model_validate(params).model_dump(mode="json"))
        workdir = folder / f"{number}-{technique}"
        workdir.mkdir(exist_ok=True)
        context = Context(workdir=workdir, train=train, calibration=calibration, original=original)
        model = apply_step(model, spec, context).model
    model.save(folder / "model.keras")
    facts = {
        "macs": cost.count_macs(model),
        "parameters": cost.parameters(model),
        "packed_bytes": save_packed(model, folder / "model.esm").size_bytes,
    }
    with replacing(folder / "facts.json") as part:
        part.write_text(json.dumps(facts))
    return folder


def rows(names: Sequence[str], source: Path, samples: data.Data, cache: Path, *, quick: bool) -> list[dict[str, Any]]:
    """A row for each recipe, and one for int8 alone."""
    folders = {name: made(name, source, samples, cache) for name in ("int8 alone", *names)}
    artifacts = {
        name: measured.int8_file(folder / "model.keras", samples.calibration, cache) for name, folder in folders.items()
    }
    timed = measured.timed(
        artifacts, samples.evaluation.x[:64], rounds=20 if quick else 40, seconds=4.0 if quick else 8.0
    )
    floats = _float_top1(source, samples)
    found = []
    for name, folder in folders.items():
        artifact = artifacts[name]
        top1 = float(np.mean(measured.right(artifact, samples.evaluation)))
        found.append(
            {
                "recipe": name,
                "top1": round(top1, 4),
                "drop_pp": round(100 * (floats - top1), 2),
                "size_bytes": artifact.path.stat().st_size,
                "gzip_bytes": gzip_size(artifact.path),
                **json.loads((folder / "facts.json").read_text()),
                "p50_ms": round(timed.median_ms(name), 4),
                "faster": timed.ratio("int8 alone", name).plain(),
                "run": dict(timed.facts),
            }
        )
    return found


def _float_top1(source: Path, samples: data.Data) -> float:
    import keras

    model = keras.saving.load_model(source, compile=False)
    answers = model.predict(samples.evaluation.x, batch_size=250, verbose=0)
    return float(np.mean(answers.argmax(axis=1) == samples.evaluation.y))


def broken(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the names promise and does not hold."""
    said = []
    for name, key in (("fastest", "macs"), ("smallest", "gzip_bytes"), ("deep-compression", "packed_bytes")):
        least = min(found, key=lambda row: float(row[key]))
        if least["recipe"] != name:
            said.append(f"{least['recipe']} has fewer {key} than {name}")
    slow = [row["recipe"] for row in found if row["faster"]["median"] * _SLOWER < 1.0]
    return [*said, *(f"{name} is slower than int8 alone" for name in slow)]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """For docs/compression.md."""
    lines = [
        "| recipe | int8 top-1 | drop pp | int8 file | gzip | packed Keras model | MACs | times as fast |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        ratio = row["faster"]
        spread = "" if ratio["low"] is None else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
        lines.append(
            f"| `{row['recipe']}` | {row['top1']:.2%} | {row['drop_pp']:.2f} | {row['size_bytes']:,} | "
            f"{row['gzip_bytes']:,} | {row['packed_bytes']:,} | {row['macs']:,} | {ratio['median']:.2f}{spread} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the bundled example; writes nothing")
    parser.add_argument("--only", choices=list(READY), help="one recipe; claims and writes nothing")
    parser.add_argument("--table", action="store_true", help="only print the kept result as a table")
    parser.add_argument("--cache", type=Path, default=models.default_cache(), help="networks and what is made of them")
    asked = parser.parse_args()
    if asked.table:
        print(table(json.loads(RESULT.read_text())["recipes"]))
        return 0
    cache = asked.cache.resolve()
    name, kind = ("bundled", "bundled") if asked.quick else ("resnet8", "cifar-raw")
    samples = data.load(kind, cache, calibration=_CALIBRATION, evaluation=2_000 if asked.quick else 10_000)
    source = data.EXAMPLE / "model.keras" if asked.quick else models.model_file(name, cache, samples)
    if asked.quick:
        with np.load(data.EXAMPLE / "data" / "train.npz") as file:
            train = data.Split(x=file["x"].astype(np.float32), y=file["y"].astype(np.int64))
        samples = data.Data(train=train, calibration=samples.calibration, evaluation=samples.evaluation)
    found = rows([asked.only] if asked.only else list(READY), source, samples, cache, quick=asked.quick)
    wrong = [] if asked.only else broken(found)
    figures = {
        "bench": "recipes",
        "network": name,
        "holds": not wrong,
        "broken": wrong,
        "recipes": found,
        "command": " ".join(["python bench/recipes.py", *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            **{each: version(each) for each in ("ai-edge-litert", "keras", "numpy", "tensorflow")},
        },
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not asked.quick and not asked.only:
        write_json(RESULT, figures)
    print(table(found))
    print(json.dumps(figures))
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
