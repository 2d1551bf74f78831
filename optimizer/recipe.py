"""Recipe steps: checked against the techniques, their order, the data and the model before any work is done."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from edgesmith.config import Config, LoadedConfig
from edgesmith.errors import ConfigError, InputError, ModelError
from edgesmith.types import Model, Recipe, Scheme, StepSpec
from optimizer import masks, recipes, techniques
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage
from optimizer.clustering import shared
from optimizer.ptq.settings import PtqScheme, PtqSettings
from optimizer.techniques import quantize

if TYPE_CHECKING:
    from optimizer.base import Technique


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantRequest:
    """What a recipe asks of the compilers."""

    scheme: Scheme = Scheme.NONE
    per_channel: bool = True
    plan: PlanRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What a recipe asks of the one plan that all targets follow.

    Attributes:
        settings: how ranges are found and what is repaired.
        search: keep layers in float32 where the accuracy budget asks for it.
        max_trials: most plans tried for that.
        deadline_s: longest time for that.
    """

    settings: PtqSettings
    search: bool
    max_trials: int
    deadline_s: float


Where = Callable[[int], str]
"""Index of a step -> "file:line", for messages."""


def parse_recipe(loaded: LoadedConfig) -> Recipe:
    """Checks the recipe of a config as far as that goes without model and data.

    Args:
        loaded: the config and its lines.

    Returns:
        Steps with every parameter filled in, as plain JSON values.

    Raises:
        ConfigError: an unknown technique or key, a wrong value, an order that cannot work, missing data; each with
            file and line.
    """
    steps: list[StepSpec] = []
    known: list[Technique] = []
    for index, step in enumerate(recipes.expanded(loaded.config.recipe)):
        ((name, written),) = step.items()
        technique = _technique(name, loaded.where("recipe", index, name))
        params = loaded.check(technique.Params, written, at=("recipe", index, name))
        spec = StepSpec(name=name, params=params.model_dump(mode="json"))
        _check_order(steps, known, spec, technique, loaded.where("recipe", index, name))
        _check_needs(loaded.config, spec, loaded.where("recipe", index, name))
        steps.append(spec)
        known.append(technique)
    return Recipe(steps=tuple(steps))


def _technique(name: str, where: str) -> Technique:
    if name in recipes.READY:
        raise ConfigError(
            f"{where}: '{name}' is a ready recipe: it stands alone, and takes no parameters.",
            next_step=f"`edgesmith recipes {name}` shows its steps: write them out, and change them.",
        )
    try:
        return techniques.get(name)
    except ConfigError as error:
        close = difflib.get_close_matches(name, recipes.READY, n=1)
        what = f"unknown recipe '{name}'; did you mean '{close[0]}'?" if close else error.what
        next_step = "`edgesmith recipes` lists them." if close else error.next_step
        raise ConfigError(f"{where}: {what}", next_step=next_step) from None


def check_against_model(recipe: Recipe, model: Model, where: Where | None = None) -> None:
    """Refuses steps that change weights where the model is no Keras model, and any step on a quantized model.

    Raises:
        ModelError: names the step, and what to give instead.
    """
    if model.kind == "keras":
        return
    if model.quantized and recipe.steps:
        raise ModelError(
            f"{_title(0, recipe.steps[0], where)}: {model.origin} is quantized already ({model.quantized}): its "
            "numbers are decided, and rounding them again would only lose accuracy.",
            next_step="Leave the recipe empty to measure it as it is, or give the float model it was made from.",
        )
    for index, spec in enumerate(recipe.steps):
        if _needs(spec).keras:
            raise ModelError(
                f"{_title(index, spec, where)} changes and trains weights, "
                f"and {model.path.name} is an ONNX model, which cannot be trained here.",
                next_step="Give the Keras model that the ONNX file was exported from, or take the step out "
                "(quantize works on ONNX).",
            )


def check_steps(recipe: Recipe, model: KerasModel, context: Context, where: Where | None = None) -> None:
    """Lets every technique refuse what cannot work on this model and this data, before the first one runs.

    Raises:
        InputError: as the technique's `check`, with the step and its place in front.
    """
    for index, spec in enumerate(recipe.steps):
        technique = techniques.get(spec.name)
        try:
            technique.check(model, technique.Params.model_validate(spec.params), context)
        except InputError as error:
            raise type(error)(f"{_title(index, spec, where)}: {error.what}", next_step=error.next_step) from None


def apply_step(model: KerasModel, spec: StepSpec, context: Context) -> Applied:
    """Applies one step, and asserts that zeros and shared values of earlier steps are still there.

    Args:
        model: a built Keras 3 model, given away: it is changed and returned, or dropped.
        spec: from `parse_recipe`.
        context: data, seed, progress, and the step's own folder.

    Raises:
        InputError: the step cannot be done on this model or data.
        InternalError: the step broke what it, or an earlier one, had promised.
    """
    technique = techniques.get(spec.name)
    before = masks.zero_pattern(model)
    values = shared.distinct_values(model) if Property.SHARED_VALUES in technique.PRESERVES else {}
    applied = technique.apply(model, technique.Params.model_validate(spec.params), context)
    if Property.ZEROS in technique.PRESERVES:  # else no step before made any, and those of the model given may go
        masks.check_preserved(before, applied.model, step=spec.name)
    if Property.SHARED_VALUES in technique.PRESERVES:
        shared.check_preserved(values, applied.model, step=spec.name)
    return applied


def needs_training(recipe: Recipe, *, calibration: bool = True) -> bool:
    """Whether training data have to be loaded: a step fine-tunes, or looks at samples and there are no others.

    Args:
        recipe: checked.
        calibration: whether there are samples for calibration.
    """
    needs = [_needs(spec) for spec in recipe.steps if not techniques.get(spec.name).COMPILE_TIME]
    return any(each.training_data or (each.calibration_data and not calibration) for each in needs)


def quant_request(recipe: Recipe) -> QuantRequest:
    """What a checked recipe asks of the compilers; float32 where it has no `quantize` step."""
    for spec in recipe.steps:
        if spec.name == "quantize":
            return _quant_request(quantize.Params.model_validate(spec.params))
    return QuantRequest()


def _quant_request(params: quantize.Params) -> QuantRequest:
    if not params.scheme.needs_calibration or params.plan == "runtime":
        return QuantRequest(scheme=params.scheme, per_channel=params.per_channel)
    settings = PtqSettings(
        scheme=cast("PtqScheme", params.scheme.value),
        observer=params.observer,
        equalize=params.equalize,
        smooth=params.smooth,
        bias_correction=params.bias_correction,
        rounding=params.rounding,
        per_channel=params.per_channel,
        keep_float=params.keep_float,
    )
    plan = PlanRequest(
        settings=settings, search=params.search, max_trials=params.max_trials, deadline_s=60.0 * params.minutes
    )
    return QuantRequest(scheme=params.scheme, per_channel=params.per_channel, plan=plan)


def _needs(spec: StepSpec) -> Needs:
    technique = techniques.get(spec.name)
    return technique.needs(technique.Params.model_validate(spec.params))


def _title(index: int, spec: StepSpec, where: Where | None) -> str:
    title = f"recipe step {index + 1} ({spec.name})"
    return title if where is None else f"{where(index)}: {title}"


def _check_order(
    steps: list[StepSpec], known: list[Technique], spec: StepSpec, technique: Technique, where: str
) -> None:
    for earlier, before in zip(steps, known, strict=True):
        if before.STAGE is Stage.QUANTIZE and technique.STAGE is Stage.QUANTIZE:
            raise ConfigError(f"{where}: '{spec.name}' comes twice; an artifact has one kind of numbers.")
        if before.STAGE > technique.STAGE:
            raise ConfigError(
                f"{where}: '{spec.name}' cannot come after '{earlier.name}': {_reason(before, technique)}.",
                next_step=f"Put '{spec.name}' before '{earlier.name}'.",
            )
        if lost := _makes(before, earlier) - technique.PRESERVES:
            raise ConfigError(
                f"{where}: '{spec.name}' would destroy the {', '.join(sorted(lost))} that '{earlier.name}' made.",
                next_step=f"Put '{spec.name}' before '{earlier.name}', or leave one of them out.",
            )


def _makes(technique: Technique, spec: StepSpec) -> frozenset[Property]:
    """What a step leaves to be kept. Where its parameters decide, the technique has a function `makes` of them."""
    decided: Callable[[object], frozenset[Property]] | None = getattr(technique, "makes", None)
    return technique.MAKES if decided is None else decided(technique.Params.model_validate(spec.params))


def _reason(before: Technique, technique: Technique) -> str:
    """Quantize is last whatever follows; else it is what the later, lower stage would do."""
    return (before if before.STAGE is Stage.QUANTIZE else technique).STAGE.reason


def _check_needs(config: Config, spec: StepSpec, where: str) -> None:
    needs = _needs(spec)
    compiled = techniques.get(spec.name).COMPILE_TIME  # ranges can be tried on random numbers: `--allow-synthetic`
    if needs.calibration_data and not compiled and config.data.calibration is None and config.data.train is None:
        raise ConfigError(
            f"{where}: '{spec.name}' needs calibration samples, and the config has no 'data.calibration'.",
            next_step="Give data.calibration (labels are not needed), or data.train.",
        )
    if needs.training_data and config.data.train is None:
        labelled = " with labels" if needs.labels else ""
        raise ConfigError(
            f"{where}: '{spec.name}' fine-tunes and needs training data{labelled}, and the config has no 'data.train'.",
            next_step=(
                "Give data.train, or set `epochs: 0` to do it in one shot."
                if recipes.expanded(config.recipe) is config.recipe
                else "Give data.train, or take `recipe: no-training`."
            ),
        )
