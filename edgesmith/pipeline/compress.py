"""compress: the recipe's steps in order, each made once and kept under the hash of all it depends on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from calibration import user_code
from edgesmith.files import sha256_file
from edgesmith.pipeline.host import outputs_are_kept
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.store import Store
from edgesmith.pipeline.workspace import Workspace
from edgesmith.toolchain import versions
from edgesmith.types import Model, StepSpec
from optimizer import recipe as recipes
from optimizer import techniques
from optimizer.base import Context
from optimizer.load import open_keras, save_keras

_MODEL = TypeAdapter(Model)
_TOOLCHAIN = ("tensorflow", "keras", "tensorflow-model-optimization")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """A model on its way: the original, or what a step made.

    Attributes:
        label: "original", or the step's name.
        seconds: spent in this run; 0.0 where it was taken from the store.
        notes: what the technique had to say.
    """

    label: str
    params: Mapping[str, Any]
    model: Model
    seconds: float
    cached: bool
    notes: tuple[str, ...] = ()


def step_key(store: Store, spec: StepSpec, parent: Model, prepared: Prepared) -> str:
    """Hash of everything the step's outcome depends on."""
    return store.key(
        "step",
        {
            "parent": parent.sha256,
            "name": spec.name,
            "params": dict(spec.params),
            "train": prepared.train.sha256 if prepared.train else None,
            "calibration": prepared.calibration.sha256 if prepared.calibration else None,
            "seed": prepared.loaded.config.seed,
            "user_code": _user_code(spec, prepared),
            "files": _files(spec, prepared),
            "toolchain": versions(_TOOLCHAIN),
        },
    )


def _user_code(spec: StepSpec, prepared: Prepared) -> dict[str, str]:
    """Content of the user's own modules that the parameters name, e.g. a loss: editing one makes the step anew."""
    references = [v for v in spec.params.values() if isinstance(v, str) and user_code.is_reference(v)]
    files = {ref: prepared.loaded.root / (ref.split(":")[0].replace(".", "/") + ".py") for ref in references}
    return {ref: sha256_file(file) for ref, file in files.items() if file.is_file()}


def _files(spec: StepSpec, prepared: Prepared) -> dict[str, str]:
    """Content of the files that the parameters name, e.g. a student to distill into."""
    named = {v: prepared.loaded.resolve(v) for v in spec.params.values() if isinstance(v, str) and v}
    return {name: sha256_file(file) for name, file in named.items() if file.is_file()}


def steps_are_kept(prepared: Prepared, store: Store) -> bool:
    """Whether every step's outcome is in the store already: a step's key is its model's sha256, so keys chain."""
    parent = prepared.model
    for spec in prepared.recipe.steps:
        if techniques.get(spec.name).COMPILE_TIME:
            continue
        key = step_key(store, spec, parent, prepared)
        if store.find("step", key, label=spec.name) is None:
            return False
        parent = replace(parent, sha256=key)
    return True


def compress(prepared: Prepared, work: Workspace) -> tuple[StepOutcome, ...]:
    """Applies the steps that change the model; quantizing happens while compiling.

    Returns:
        The original first, then one outcome per step; the last one's model is the compressed model.
    """
    outcomes = [StepOutcome(label="original", params={}, model=prepared.model, seconds=0.0, cached=True)]
    for spec in prepared.recipe.steps:
        if techniques.get(spec.name).COMPILE_TIME:
            continue
        outcomes.append(_step(spec, outcomes[-1].model, prepared, work))
    return tuple(outcomes)


def refuse_early(prepared: Prepared, work: Workspace) -> None:
    """Lets every step look at the model before anything spends time; not where the answers are there already.

    Raises:
        InputError: a step cannot be done on this model or this data; names the step and its line.
    """
    if prepared.model.kind != "keras":
        return
    if outputs_are_kept(prepared.model, prepared.evaluation, work.store) and steps_are_kept(prepared, work.store):
        return
    network = open_keras(prepared.model)
    recipes.check_steps(prepared.recipe, network, _context(prepared, work, "checked"), _where(prepared))


def _where(prepared: Prepared) -> Callable[[int], str]:
    return lambda index: prepared.loaded.where("recipe", index)


def _context(prepared: Prepared, work: Workspace, key: str) -> Context:
    return Context(
        train=prepared.train,
        calibration=prepared.calibration,
        seed=prepared.loaded.config.seed,
        progress=work.progress,
        workdir=work.store.workdir("step", key),
        root=prepared.loaded.root,
        original=lambda: open_keras(prepared.model),
    )


def _step(spec: StepSpec, parent: Model, prepared: Prepared, work: Workspace) -> StepOutcome:
    store = work.store
    key = step_key(store, spec, parent, prepared)
    work.replay.step(spec.name, [f"model sha256 {parent.sha256}", f"step key {key}"])
    entry = store.find("step", key, label=spec.name)
    if entry is not None:
        model = _MODEL.validate_python(entry.record["model"])
        return StepOutcome(
            label=spec.name,
            params=spec.params,
            model=replace(model, path=entry.folder / "model.keras"),
            seconds=0.0,
            cached=True,
            notes=tuple(entry.record["notes"]),
        )
    started = time.monotonic()
    before = open_keras(parent)
    applied = recipes.apply_step(before, spec, _context(prepared, work, key))
    with store.making("step", key) as draft:
        model = save_keras(
            applied.model, draft.folder / "model.keras", sha256=key, origin=f"{parent.origin} > {spec.name}"
        )
        draft.record.update(model=_MODEL.dump_python(model, mode="json"), notes=list(applied.notes))
    store.drop_workdir("step", key)
    return StepOutcome(
        label=spec.name,
        params=spec.params,
        model=replace(model, path=store.path("step", key) / "model.keras"),
        seconds=time.monotonic() - started,
        cached=False,
        notes=applied.notes,
    )
