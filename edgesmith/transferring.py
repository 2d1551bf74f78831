"""`edgesmith transfer`: a trained network, data of a new task and a training budget -> a network for that task."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.binomial import wilson
from calibration.checks import check_overlap, check_samples
from calibration.samples import load_samples
from edgesmith.config import DataSource
from edgesmith.errors import ConfigError, DataError
from edgesmith.files import sha256_json, write_json
from edgesmith.progress import Progress
from edgesmith.types import SampleSet, TensorSpec

if TYPE_CHECKING:
    from optimizer.transfer.methods import Settings

# Of one source; as `edgesmith init` parts it, so that what is held out here is not trained on there.
_TRAIN, _HELD_OUT = (0.0, 0.7), (0.8, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What was made.

    Attributes:
        record: as in the JSON file beside the model.
        lines: for people.
    """

    record: dict[str, Any]
    lines: tuple[str, ...]


def bring(
    backbone: Path, data: Path, out: Path, *, classes: int | None, settings: Settings, progress: Progress
) -> Brought:
    """Trains within the budget, and writes the model and a record of what was spent beside it.

    Args:
        backbone: a Keras model.
        data: an .npz with x and y, a folder of classes, or a folder with train/ and test/.
        out: ends in .keras; the record is beside it, in .json.
        classes: of the new task; None: as many as the data has.
        settings: method and budget.
        progress: where it tells how far it is.

    Raises:
        InputError: the model, the data or the budget do not do.
    """
    from optimizer.base import Context
    from optimizer.load import load_model, open_keras, save_keras
    from optimizer.transfer import methods, probe

    if out.suffix != ".keras":
        raise ConfigError(f"{out} has to end in .keras, which is what Keras reads.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = load_model(backbone, workdir=folder)
        specs = loaded.signature.inputs
        train, held = _read(data, specs, settings.seed, progress)
        count = classes or _classes(train, held)
        for samples in (train, held):
            check_samples(samples, specs, n_classes=count)
        check_overlap(train, held)
        context = Context(workdir=folder, train=train, seed=settings.seed, progress=progress)
        brought = methods.transfer(open_keras(loaded), count, settings, context)
        right = int((probe.outputs(brought.model, held.x).argmax(axis=1) == held.y).sum())
        key = sha256_json([loaded.sha256, train.sha256, count, str(settings)])
        model = save_keras(brought.model, out, sha256=key, origin=f"{settings.method} transfer of {backbone}")
    low, high = wilson(right, len(held))
    record = {
        "model": out.name,
        "backbone": {"path": str(backbone), "sha256": loaded.sha256, "macs": loaded.macs},
        "data": {"path": str(data), "train_sha256": train.sha256, "training_samples": len(train)},
        "classes": count,
        "method": settings.method,
        "train_flops": {"budget": settings.train_flops, "spent": brought.total, "by": brought.spent},
        "keep": brought.keep,
        "steps": brought.steps,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
        "accuracy": {"top1": right / len(held), "samples": len(held), "low": low, "high": high},
        "macs": model.macs,
        "parameters": model.parameters,
        "notes": list(brought.notes),
    }
    write_json(out.with_suffix(".json"), record)
    lines = (
        *brought.notes,
        *(f"{flops:>10.3g} FLOPs  {what}" for what, flops in brought.spent.items()),
        f"{brought.total:>10.3g} FLOPs of {settings.train_flops:.3g} spent",
        f"{out}: top1 {right / len(held):.2%} on {len(held):,} samples that were not trained on",
        f"next: edgesmith init {out} {data}",
    )
    return Brought(record=record, lines=lines)


def _read(data: Path, specs: tuple[TensorSpec, ...], seed: int, progress: Progress) -> tuple[SampleSet, SampleSet]:
    """Samples to train on, and those that are held out."""
    whole = DataSource(source=str(data.resolve()))
    sources = [whole.model_copy(update={"part": part}) for part in (_TRAIN, _HELD_OUT)]
    if (data / "train").is_dir() and (data / "test").is_dir():
        sources = [DataSource(source=str((data / name).resolve())) for name in ("train", "test")]
    train = load_samples(sources[0], role="train", specs=specs, root=Path.cwd(), seed=seed, progress=progress)
    held = load_samples(sources[1], role="evaluation", specs=specs, root=Path.cwd(), seed=seed, progress=progress)
    for samples in (train, held):
        if samples.y is None or samples.y.ndim != 1 or samples.y.dtype.kind != "i":
            raise DataError(
                f"{samples.source}: transfer learns classes, and there is no whole number for each sample.",
                next_step="Give labels `y`, classes numbered from 0.",
            )
    return train, held


def _classes(train: SampleSet, held: SampleSet) -> int:
    highest = max(int(samples.y.max()) for samples in (train, held) if samples.y is not None)
    return max(highest + 1, len(train.class_names))
