"""load: the model, the samples and the recipe, read and checked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from calibration import checks
from calibration.samples import load_samples, some, synthetic_samples
from edgesmith.config import DataSource, LoadedConfig
from edgesmith.errors import DataError, ModelError
from edgesmith.pipeline.ready import find_ready
from edgesmith.pipeline.store import Store
from edgesmith.progress import Progress
from edgesmith.types import Artifact, Finding, Model, Recipe, SampleSet, Scheme, TensorSpec
from optimizer import recipe as recipes
from optimizer.load import load_model

_SYNTHETIC_SAMPLES = 128
_TUNING_SAMPLES = 2000
"""Enough to see a point of accuracy; more would make every trial of the search slower."""

Role = Literal["train", "calibration", "evaluation"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """What every later stage works from.

    Attributes:
        tuning: samples that choices about quantization are made on: of the training set, else the calibration samples;
            never of the evaluation. None where nothing has to be chosen.
        n_classes: of a classifier; None where the output is no list of class scores.
        findings: what the checks noticed without refusing.
        ready: the model is compiled already and is measured as it is; else None.
        reference: the float version of a ready model, to compare it with; None where none was named.
    """

    loaded: LoadedConfig
    model: Model
    recipe: Recipe
    evaluation: SampleSet
    train: SampleSet | None
    calibration: SampleSet | None
    tuning: SampleSet | None
    n_classes: int | None
    findings: tuple[Finding, ...]
    ready: Artifact | None = None
    reference: Artifact | None = None

    @property
    def compares(self) -> bool:
        """A float and a compressed artifact are set against each other; else there is only one, and it is judged."""
        return bool(self.recipe.steps) or self.reference is not None


def prepare(loaded: LoadedConfig, store: Store, progress: Progress, *, allow_synthetic: bool = False) -> Prepared:
    """Reads everything the config names and refuses what cannot work.

    Raises:
        ConfigError: the recipe is not legal.
        ModelError: the model cannot be read, or does not go with the recipe or the data.
        DataError: samples do not fit the model, overlap, or are missing.
    """
    config = loaded.config
    recipe = recipes.parse_recipe(loaded)
    with progress.task(f"load {config.model.name}"):
        ready = find_ready(loaded)
        model = (
            ready.model
            if ready is not None
            else load_model(
                loaded.resolve(config.model), workdir=store.root / "models", allow_lambda=config.allow_lambda
            )
        )
    _refuse_fixed_batch(model)
    recipes.check_against_model(recipe, model, lambda index: loaded.where("recipe", index))
    specs = model.signature.inputs
    n_classes = _class_count(model) if config.task.metric in ("top1", "top5") else None

    def load(source: DataSource, role: Role) -> SampleSet:
        return load_samples(source, role=role, specs=specs, root=loaded.root, seed=config.seed, progress=progress)

    evaluation = load(config.data.evaluation, "evaluation")
    calibration = None if ready else _calibration(loaded, recipe, specs, load, allow_synthetic=allow_synthetic)
    trains = recipes.needs_training(recipe, calibration=calibration is not None and not calibration.synthetic)
    train = load(config.data.train, "train") if config.data.train and trains else None

    findings: list[Finding] = [*_quantized_already(model)]
    for samples in (evaluation, calibration, train):
        if samples is not None:
            findings += checks.check_samples(samples, specs, n_classes=n_classes)
    if evaluation.y is None and config.task.metric != "agreement":
        raise DataError(
            f"{evaluation.source}: the evaluation set has no labels, and the metric '{config.task.metric}' needs them.",
            next_step="Add an array y, or set task: {metric: agreement} to compare with the original model instead.",
        )
    for other in (calibration, train):
        if other is not None and not other.synthetic:
            checks.check_overlap(other, evaluation)
    return Prepared(
        loaded=loaded,
        model=model,
        recipe=recipe,
        evaluation=evaluation,
        train=train,
        calibration=calibration,
        tuning=_tuning(loaded, recipe, train, calibration, evaluation, load, specs, n_classes),
        n_classes=n_classes,
        findings=tuple(findings),
        ready=None if ready is None else ready.artifact,
        reference=None if ready is None else ready.reference,
    )


def _tuning(
    loaded: LoadedConfig,
    recipe: Recipe,
    train: SampleSet | None,
    calibration: SampleSet | None,
    evaluation: SampleSet,
    load: Callable[[DataSource, Role], SampleSet],
    specs: Sequence[TensorSpec],
    n_classes: int | None,
) -> SampleSet | None:
    """What the choice of layers kept in float32 is made on."""
    plan = recipes.quant_request(recipe).plan
    if plan is None or not plan.search or loaded.config.budget.accuracy_drop_pp is None or calibration is None:
        return None
    source = loaded.config.data.train
    if source is None or calibration.synthetic:
        return calibration
    whole = train or load(source, "train")
    tuning = some(checks.without_shared(whole, calibration), _TUNING_SAMPLES, loaded.config.seed)
    checks.check_samples(tuning, specs, n_classes=n_classes)
    checks.check_overlap(tuning, evaluation)
    return tuning


def scheme_of(recipe: Recipe) -> Scheme:
    """The scheme the compressed artifact is compiled with."""
    return recipes.quant_request(recipe).scheme


def _calibration(
    loaded: LoadedConfig,
    recipe: Recipe,
    specs: Sequence[TensorSpec],
    load: Callable[[DataSource, Role], SampleSet],
    *,
    allow_synthetic: bool,
) -> SampleSet | None:
    source = loaded.config.data.calibration
    if source is not None:
        return load(source, "calibration")
    if not scheme_of(recipe).needs_calibration:
        return None
    if allow_synthetic:
        return synthetic_samples(specs, n=_SYNTHETIC_SAMPLES, seed=loaded.config.seed, role="calibration")
    raise DataError(
        f"{loaded.where('data')}: int8 needs calibration samples, and data.calibration is missing. Ranges observed on "
        "random numbers give a model that is wrong on real ones.",
        next_step="Give 100 to 500 real samples as data.calibration. To try the tool chain only: --allow-synthetic.",
    )


def _refuse_fixed_batch(model: Model) -> None:
    """Samples are measured one at a time, and an ONNX graph with another batch written into it takes no single one."""
    for spec in model.signature.inputs if model.kind == "onnx" else ():
        batch = spec.shape[0] if spec.shape else None
        if not spec.shape or (isinstance(batch, int) and batch != 1):
            raise ModelError(
                f"{model.origin}: the batch of input {spec} is fixed, and samples are measured one at a time.",
                next_step="Export the model with batch 1 or an open batch (dynamic_axes).",
            )


def _quantized_already(model: Model) -> tuple[Finding, ...]:
    if not model.quantized:
        return ()
    text = f"{model.origin} is quantized already ({model.quantized}): it is measured as it is, in the rows 'float'."
    return (Finding(severity="info", code="quantized_already", text=text),)


def _class_count(model: Model) -> int | None:
    shape = model.signature.outputs[0].shape
    last = shape[-1] if len(shape) == 2 else None
    if not isinstance(last, int):
        return None
    return 2 if last == 1 else last
