"""Does taking channels out, by measured latency, make the shipped int8 network twice as fast at nearly its accuracy?

Claim, for a ResNet-20-like and a MobileNetV2-like network on CIFAR-10, each with three seeds:

1. `prune_channels: {budget: latency}` and fine-tuning lose at most 1.0 point of accuracy (mean of the seeds, on all
   10,000 test pictures), int8 against int8 of the network as it was.
2. The int8 TFLite file of every seed is at least 2.0 times as fast, measured on this machine with one thread.
3. It is more accurate than the uniform network of the same latency: as large a share of every layer, judged by L1, as
   many pictures, the same teacher. More than noise: beyond the 95 % interval of the paired difference.

The latency table is measured here first (`edgesmith latency-table`). Uniform widths come in large steps, so the uniform
network is chosen first, and the guided one may take what that one takes by the table; what both take in truth is
measured. All files of the bench take turns in one run; a ratio is the median over its rounds.

The float networks train for 16 epochs only, so they gain from any further training. The record says how much: the
float network trained on as long, on the same pictures and with the same teacher (`trained_on`).

    python bench/structured.py                        # everything; writes bench/results/structured.json
    python bench/structured.py --only resnet20 --seeds 1        # a part; writes nothing
    python bench/structured.py --unit mobilenet_v2/guided/0     # only trains that one, into the cache
    python bench/structured.py --only resnet20 --set keep=0.5 learning_rate=0.003   # tries other settings
    python bench/structured.py --quick                # MLPerf Tiny's ResNet-8, little training: 1.1 times as fast
                                                      # within 4 points; under five minutes; writes nothing

Tables and trained networks are kept in the cache folder (`--cache`); a training that was killed goes on from its last
epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray

from bench.cifar import data as cifar
from bench.cifar import measured, networks, pruned
from bench.cifar.pruned import Budget, Settings, Unit
from bench.int8 import data as int8_data
from bench.int8 import models
from bench.int8.data import Data
from bench.int8.paired import difference
from device_tests.inventory import load_inventory
from edgesmith import latency_tables
from edgesmith.files import write_json
from edgesmith.report.console import ConsoleProgress

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "bench" / "results" / "structured.json"
SEEDS: Final = (0, 1, 2)
SAME_LATENCY: Final = 1.05
"""How many times as long as the uniform network the guided one may take, measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What has to hold."""

    drop_pp: float
    ratio: float
    beats_uniform: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network of the bench.

    Attributes:
        points: widths of each kind of layer in its table.
    """

    name: str
    settings: Settings
    points: int


CLAIM: Final = Claim(drop_pp=1.0, ratio=2.0, beats_uniform=True)
QUICK_CLAIM: Final = Claim(drop_pp=4.0, ratio=1.1, beats_uniform=False)
FULL: Final = (
    Network(
        name="resnet20",
        settings=Settings(keep=0.48, criterion="taylor", steps=2, epochs=1, copies=2, learning_rate=1.5e-3),
        points=8,
    ),
    Network(
        name="mobilenet_v2",
        settings=Settings(keep=0.48, criterion="taylor", steps=2, epochs=1, copies=2, learning_rate=1.5e-3),
        points=6,
    ),
)
QUICK: Final = Network(
    name="resnet8",
    settings=Settings(keep=0.85, criterion="l1", steps=1, epochs=3, copies=0, learning_rate=1e-3, pictures=20_000),
    points=2,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """A float network with its data, its latency table, and what may be taken of that."""

    network: Network
    source: Path
    data: Data
    table: Path
    budget: Budget


def start(network: Network, cache: Path, *, quick: bool) -> Start:
    """Gets ready what all units of a network share; what is long is kept in the cache."""
    import keras

    if quick:
        data = int8_data.load("cifar-raw", cache, calibration=cifar.CALIBRATION, evaluation=10_000)
        source = models.model_file(network.name, cache, data)
    else:
        data = cifar.load(cache)
        source = networks.float_file(network.name, cache)
    table = cache / "structured" / f"{network.name}-table-{network.points}.json"
    if not table.is_file():
        table.parent.mkdir(parents=True, exist_ok=True)
        settings = latency_tables.Settings(points=network.points, seconds=0.3 if quick else 0.6)
        device = load_inventory(None).get("local")
        runs = cache / "structured" / "runs"
        latency_tables.make_table(source, device, table, settings, runs_dir=runs, progress=ConsoleProgress())
    model = keras.saving.load_model(source, compile=False)
    # Nothing is compared with a uniform network in the quick run.
    allowed = Budget(share=0.5, keep=network.settings.keep) if quick else pruned.budget(model, table, network.settings)
    return Start(network=network, source=source, data=data, table=table, budget=allowed)


def unit_file(unit: Unit, begun: Start, cache: Path) -> tuple[Path, Mapping[str, Any]]:
    """The network of a unit, and what it is."""
    began = time.monotonic()
    found = pruned.made(unit, begun.source, begun.table, begun.data, begun.network.settings, cache, begun.budget)
    print(f"{unit}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def units(name: str, seeds: Sequence[int], *, quick: bool) -> list[Unit]:
    """What is trained of a network."""
    both = [Unit(network=name, method=method, seed=seed) for seed in seeds for method in ("guided", "uniform")]
    if quick:
        return both[:1]
    return [*both, Unit(network=name, method="trained_on", seed=seeds[0])]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shipped:
    """An int8 file, and which of the test pictures it gets right."""

    key: str
    artifact: Any
    right: NDArray[np.bool_]
    facts: Mapping[str, Any]


def shipped(key: str, source: Path, facts: Mapping[str, Any], data: Data, cache: Path) -> Shipped:
    """Makes the int8 file of a network and judges it."""
    artifact = measured.int8_file(source, data.calibration, cache)
    right = measured.right(artifact, data.evaluation)
    print(f"{key}: int8 {100 * right.mean():.2f} %, {facts['macs']:,} MACs", file=sys.stderr, flush=True)
    return Shipped(key=key, artifact=artifact, right=right, facts=facts)


def files_of(begun: Start, seeds: Sequence[int], cache: Path, *, quick: bool) -> dict[str, Shipped]:
    """The int8 files of a network: as it was, and of all units."""
    import keras

    name = begun.network.name
    whole = pruned.told_of(keras.saving.load_model(begun.source, compile=False), begun.table)
    found = {"unpruned": shipped(f"{name}/unpruned", begun.source, whole, begun.data, cache)}
    for unit in units(name, seeds, quick=quick):
        path, facts = unit_file(unit, begun, cache)
        found[f"{unit.method}/{unit.seed}"] = shipped(str(unit), path, facts, begun.data, cache)
    return found


def row(begun: Start, files: Mapping[str, Shipped], timed: measured.Timed, claim: Claim) -> dict[str, Any]:
    """The figures of a network, and what of the claim holds on it."""
    plain = files["unpruned"]
    told = {key: _told(each, plain, timed) for key, each in files.items()}
    guided = [key for key in files if key.startswith("guided/")]
    seeds = [key.partition("/")[2] for key in guided]
    drop = float(np.mean([told[key]["drop_pp"] for key in guided]))
    least = min(told[key]["times_as_fast"]["median"] for key in guided)
    verdicts: dict[str, Any] = {
        "accuracy": {"mean_drop_pp": round(drop, 3), "at_most": claim.drop_pp, "holds": drop <= claim.drop_pp},
        "speed": {"least_ratio": least, "at_least": claim.ratio, "holds": least >= claim.ratio},
    }
    if claim.beats_uniform:
        ours, theirs = (np.concatenate([files[f"{m}/{seed}"].right for seed in seeds]) for m in ("guided", "uniform"))
        ahead = difference(ours, theirs)
        slower = [timed.ratio(files[f"guided/{s}"].key, files[f"uniform/{s}"].key).median for s in seeds]
        verdicts["against uniform L1"] = {
            "ahead_pp": round(ahead.points, 3),
            "half_width_95": round(ahead.half_width, 3),
            "guided_takes_times_uniform": [round(each, 3) for each in slower],
            "holds": ahead.points > ahead.half_width and float(np.mean(slower)) <= SAME_LATENCY,
        }
    return {
        "network": begun.network.name,
        "settings": asdict(begun.network.settings),
        "pictures": f"{begun.network.settings.pictures or len(begun.data.train.y)} and "
        f"{begun.network.settings.copies} moved copies of each",
        "budget": asdict(begun.budget),
        "evaluated_on": len(plain.right),
        "files": told,
        "verdicts": verdicts,
    }


def _told(each: Shipped, plain: Shipped, timed: measured.Timed) -> dict[str, Any]:
    lost = difference(plain.right, each.right)
    return {
        "accuracy": round(100 * float(each.right.mean()), 2),
        "drop_pp": round(lost.points, 2),
        "drop_pp_half_width_95": round(lost.half_width, 2),
        "latency_ms": round(timed.median_ms(each.key), 5),
        "times_as_fast": timed.ratio(plain.key, each.key).plain(),
        "size_bytes": each.artifact.size_bytes,
        **each.facts,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="ResNet-8, one seed, little training; writes nothing")
    parser.add_argument("--only", choices=[each.name for each in FULL], help="one network; writes nothing")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="fewer, to try; with less than 3 writes nothing")
    parser.add_argument("--unit", help="network/guided|uniform|trained_on/seed: only train this one")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings; writes nothing")
    parser.add_argument("--cache", type=Path, default=models.default_cache(), help="float and trained networks, tables")
    asked = parser.parse_args()
    cache = asked.cache.resolve()
    changes = {key: json.loads(value) for key, _, value in (each.partition("=") for each in asked.set)}
    full = [replace(each, settings=replace(each.settings, **changes)) for each in FULL]
    if asked.unit:
        known = {str(unit): (each, unit) for each in full for unit in units(each.name, SEEDS, quick=False)}
        if asked.unit not in known:
            parser.error(f"--unit is one of {', '.join(known)}")
        network, unit = known[asked.unit]
        print(unit_file(unit, start(network, cache, quick=False), cache)[0])
        return 0
    claim = QUICK_CLAIM if asked.quick else CLAIM
    chosen = [QUICK] if asked.quick else [each for each in full if asked.only in (None, each.name)]
    seeds = SEEDS[: 1 if asked.quick else asked.seeds]
    begun = [start(network, cache, quick=asked.quick) for network in chosen]
    files = [files_of(each, seeds, cache, quick=asked.quick) for each in begun]
    every = {one.key: one.artifact for group in files for one in group.values()}
    timed = measured.timed(
        every, begun[0].data.evaluation.x[:64], rounds=20 if asked.quick else 40, seconds=4.0 if asked.quick else 8.0
    )
    rows = [row(each, group, timed, claim) for each, group in zip(begun, files, strict=True)]
    broken = [
        f"{each['network']}: {what}: {verdict}"
        for each in rows
        for what, verdict in each["verdicts"].items()
        if not verdict["holds"]
    ]
    figures = {
        "bench": "structured",
        "claim": f"int8 at least {claim.ratio:g} times as fast at a drop of at most {claim.drop_pp:g} pp"
        + (", and more accurate than uniform L1 at equal latency" if claim.beats_uniform else ""),
        "holds": not broken,
        "broken": broken,
        "networks": rows,
        "run": timed.facts,
        "command": " ".join(["python bench/structured.py", *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("ai-edge-litert", "keras", "numpy", "tensorflow")},
        },
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not asked.quick and not asked.only and not changes and asked.seeds == len(SEEDS):
        write_json(RESULT, figures)
    print(json.dumps(figures))
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
