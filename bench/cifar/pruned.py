"""Narrowed networks of `bench/structured.py`: one training each, kept in the cache, resumable after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bench.cifar.data import copies
from bench.int8.data import Data, Split
from edgesmith.files import sha256_file, sha256_json
from edgesmith.types import SampleSet, StepSpec
from optimizer import cost, techniques
from optimizer.base import Context
from optimizer.channels import choice, groups, latency_table
from optimizer.channels.latency_price import LatencyPrice
from optimizer.finetune import TrainingParams, finetune
from optimizer.recipe import apply_step

Method = Literal["guided", "uniform", "trained_on"]
METHODS: Final[tuple[Method, ...]] = ("guided", "uniform", "trained_on")
VERSION: Final = 1
"""Raised where the same settings come to mean something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a network is narrowed and trained. Guided and uniform are trained alike, and both learn from the original.

    Attributes:
        keep: share of the latency by the table that is left, at most.
        criterion: of the guided selection; the uniform one takes l1.
        steps: parts that it is done in, each with `epochs` of training.
        copies: of the training pictures, each moved, that an epoch takes besides the pictures.
        pictures: that it is trained on; None: all.
    """

    keep: float
    criterion: str
    steps: int
    epochs: int
    copies: int
    learning_rate: float
    batch_size: int = 128
    temperature: float = 4.0
    alpha: float = 0.9
    pictures: int | None = None

    @property
    def training(self) -> dict[str, Any]:
        """As a step of a recipe has it."""
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "distill": {"temperature": self.temperature, "alpha": self.alpha},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What both selections may take: the uniform one comes in large steps, so the guided one takes what that takes.

    Attributes:
        share: of the channels of every group that goes in the uniform one.
        keep: share of the latency by the table that is left then.
    """

    share: float
    keep: float


def budget(model: Any, table: Path, settings: Settings) -> Budget:
    """The widest uniform network within `settings.keep`, by the table.

    Raises:
        ValueError: none is.
    """
    found: list[Budget] = []
    for percent in range(5, 90):
        share = percent / 100
        params = techniques.get("prune_channels").Params.model_validate({"selection": "uniform", "share": share})
        wanted = choice.Wanted.model_validate({key: getattr(params, key) for key in choice.Wanted.model_fields})
        chooser = choice.Chooser(model, wanted, Context(workdir=table.parent), seed=0)
        kept = chooser.choose(model).kept
        price = LatencyPrice(model, chooser.channels, latency_table.read(table))
        whole = price.total([len(group) for group in chooser.channels.groups])
        found.append(Budget(share=share, keep=price.total(kept) / whole))
    within = [each for each in found if each.keep <= settings.keep]
    if not within:
        raise ValueError(f"no uniform network takes at most {settings.keep:.0%} of the latency")
    return max(within, key=lambda each: each.keep)


def recipe(method: Method, settings: Settings, allowed: Budget, table: Path) -> dict[str, Any]:
    """The parameters of `prune_channels`."""
    shape: dict[str, Any] = {"selection": "uniform", "share": allowed.share, "criterion": "l1"}
    if method == "guided":
        # A hair more: the budget is met exactly or refused.
        shape = {"criterion": settings.criterion, "budget": "latency", "latency_table": str(table)}
        shape["keep"] = min(allowed.keep * 1.0001, 0.9999)
    return {**shape, "steps": settings.steps, **settings.training}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One network, narrowed in one way with one seed."""

    network: str
    method: Method
    seed: int

    def __str__(self) -> str:
        return f"{self.network}/{self.method}/{self.seed}"


def made(
    unit: Unit, source: Path, table: Path, data: Data, settings: Settings, cache: Path, allowed: Budget
) -> tuple[Path, Mapping[str, Any]]:
    """The network as a `.keras` file, and what it is; made where the cache does not hold it yet.

    Args:
        unit: which.
        source: the float network.
        table: of its latency.
        data: pictures.
        settings: how.
        cache: of the bench.
        allowed: what it may take.
    """
    import keras

    table_sha = sha256_file(table) if unit.method == "guided" else ""
    key = sha256_json([VERSION, str(unit), asdict(settings), asdict(allowed), sha256_file(source), table_sha])[:16]
    folder = cache / "structured" / f"{str(unit).replace('/', '-')}-{key}"
    path, facts = folder / "model.keras", folder / "facts.json"
    if facts.is_file():
        return path, json.loads(facts.read_text())
    folder.mkdir(parents=True, exist_ok=True)

    def original() -> Any:
        return keras.saving.load_model(source, compile=False)

    model = original()
    context = Context(
        workdir=folder,
        train=sample_set("train", _trained_on(data, settings, unit.seed), f"{settings} {unit.seed}"),
        calibration=sample_set("calibration", data.calibration, "calibration"),
        seed=unit.seed,
        original=original,
    )
    if unit.method == "trained_on":
        params = TrainingParams.model_validate({**settings.training, "epochs": settings.epochs * settings.steps})
        finetune(model, params, context, label="trained_on")
        notes: tuple[str, ...] = ()
    else:
        given = techniques.get("prune_channels").Params.model_validate(recipe(unit.method, settings, allowed, table))
        applied = apply_step(model, StepSpec(name="prune_channels", params=given.model_dump(mode="json")), context)
        model, notes = applied.model, applied.notes
    model.save(path)
    told = {**told_of(model, table), "notes": list(notes)}
    facts.with_suffix(".part").write_text(json.dumps(told))
    facts.with_suffix(".part").rename(facts)
    for checkpoint in folder.glob("*.npz"):
        checkpoint.unlink()
    return path, told


def told_of(model: Any, table: Path) -> dict[str, Any]:
    """Counts of a network, its latency by the table, and the widths of its layers."""
    channels = groups.find(model)
    price = LatencyPrice(model, channels, latency_table.read(table))
    widths = {
        layer.name: int(outputs[0][-1] or 0)
        for layer, _, outputs in cost.calls(model)
        if type(layer).__name__ == "Conv2D"
    }
    return {
        "macs": cost.count_macs(model),
        "parameters": cost.parameters(model),
        "table_ms": round(price.total([len(group) for group in channels.groups]), 5),
        "widths": widths,
    }


def sample_set(role: Literal["train", "calibration"], split: Split, source: str) -> SampleSet:
    """Samples as recipes take them; named by where they come from, which is seeded."""
    return SampleSet(role=role, x=split.x, y=split.y, sha256=sha256_json([role, source]), source=source)


def _trained_on(data: Data, settings: Settings, seed: int) -> Split:
    some = slice(settings.pictures)
    return copies(Split(x=data.train.x[some], y=data.train.y[some]), settings.copies, seed)
