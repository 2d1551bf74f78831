"""Every technique on every kind of network: applied, or refused with a reason that names the layer.

A new file in `optimizer/techniques/` is covered by its existence. What it makes computes finite numbers of the same
shapes, trains a step, and answers the same after it was saved and loaded; so do, within their bounds, its TFLite and
ONNX files, float32 and int8. What it refuses stands in `REFUSED`.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import targets
from calibration import inputs
from edgesmith.errors import InputError, ModelError
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Model, SampleSet, Scheme, StepSpec
from optimizer import recipe as recipes
from optimizer import techniques
from optimizer.base import Context
from optimizer.load import open_keras, save_keras
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import plan_files
from targets.base import CompileRequest
from targets.divergence import sqnr_db
from targets.keras_model import one_or_list
from targets.plan_export import make_plan_graph
from tests import tiny_networks, zoo

PARAMS: dict[str, dict[str, Any]] = {
    "distill": {"width": 0.5},
    "low_rank": {"energy": 0.5, "multiple": 1},
    "prune_channels": {"keep": 0.7, "round_to": 1, "min_channels": 1},
}
"""What a technique needs to be told, and what suits networks this small; the rest are defaults, and no training."""

REFUSED: dict[tuple[str, str], str] = {}
"""(technique, network) -> the layer that the refusal names."""

NETWORKS = tuple(zoo.ZOO)
TECHNIQUES = techniques.names()
ALL = [(technique, network) for technique in TECHNIQUES for network in NETWORKS]

# Each technique on a few networks and each network with some technique, but for those that take long.
_QUICK = [network for network in NETWORKS if network not in ("resnet8", "resnet20", "lstm", "inception")]
DIAGONAL = {
    (technique, _QUICK[(place + shift) % len(_QUICK)])
    for place, technique in enumerate(TECHNIQUES)
    for shift in (0, len(TECHNIQUES))
}
CONVERTED = {(TECHNIQUES[place], network) for place, network in enumerate(("plain", "nested"))}
MIN_SQNR_DB = 60.0
MIN_INT8_SQNR_DB = 6.0
"""Random tiny networks with activations that cancel out: int8 is checked to be alive, not to be accurate."""


def _cases(pairs: list[tuple[str, str]], quick: set[tuple[str, str]]) -> list[Any]:
    return [pytest.param(*pair, id="-".join(pair), marks=() if pair in quick else pytest.mark.slow) for pair in pairs]


def _samples(network: str) -> SampleSet:
    return zoo.samples(_original(network), 16, labels=zoo.ZOO[network].labels)


@functools.cache
def _original(network: str) -> Any:
    return zoo.ZOO[network].network()


def _context(network: str, folder: Path) -> Context:
    samples = _samples(network)
    return Context(
        workdir=folder / "work",
        train=samples,
        calibration=replace(samples, role="calibration"),
        original=zoo.ZOO[network].network,
        root=folder,
    )


def _step(technique: str, **more: Any) -> StepSpec:
    params = techniques.get(technique).Params
    written = {"epochs": 0, **PARAMS.get(technique, {}), **more}
    known = {key: value for key, value in written.items() if key in params.model_fields}
    return StepSpec(name=technique, params=params.model_validate(known).model_dump(mode="json"))


def _applied(technique: str, network: str, folder: Path, **more: Any) -> Any:
    """What the technique makes of the network; None where it refuses as it should."""
    model = zoo.ZOO[network].network()
    step, context = _step(technique, **more), _context(network, folder)
    implementation = techniques.get(technique)
    try:
        implementation.check(model, implementation.Params.model_validate(step.params), context)
        applied = recipes.apply_step(model, step, context)
    except InputError as refusal:
        layer = REFUSED.get((technique, network))
        if layer is None or layer not in str(refusal):
            raise AssertionError(f"refused, and REFUSED does not say so: {refusal}") from refusal
        return None
    assert (technique, network) not in REFUSED, "it is applied now: take it out of REFUSED"
    assert applied.notes or implementation.COMPILE_TIME, "it tells nothing of what it did"
    return applied.model


def _saved(made: Any, folder: Path) -> Model:
    return save_keras(made, folder / "made.keras", sha256="0" * 64, origin="made")


def _answers(model: Any, x: NDArray[Any]) -> list[NDArray[np.float32]]:
    return tiny_networks.answers(model, one_or_list(inputs.split(x)))


@pytest.mark.parametrize(("technique", "network"), _cases(ALL, DIAGONAL))
def test_it_is_applied_or_says_which_layer_it_cannot(technique: str, network: str, tmp_path: Path):
    made = _applied(technique, network, tmp_path)
    if made is None:
        return
    x = _samples(network).x
    found, before = _answers(made, x), _answers(_original(network), x)
    for one, other in zip(found, before, strict=True):
        assert one.shape == other.shape
        assert np.isfinite(one).all()
    loaded = open_keras(_saved(made, tmp_path))
    for one, other in zip(_answers(loaded, x), found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    _train_a_step(loaded, x)
    changed = [not np.array_equal(one, other) for one, other in zip(_answers(loaded, x), found, strict=True)]
    assert all(changed), "a training step changes what it answers"


def _train_a_step(model: Any, x: NDArray[Any]) -> None:
    """Eagerly, which takes no time to compile."""
    keras = import_keras()
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", run_eagerly=True)
    wanted = [np.ones((len(x), *tensor.shape[1:]), np.float32) for tensor in model.outputs]
    with third_party_warnings():
        model.train_on_batch(one_or_list(inputs.split(x)), one_or_list(wanted))


@pytest.mark.parametrize(("technique", "network"), _cases(ALL, CONVERTED))
def test_what_it_makes_converts(technique: str, network: str, tmp_path: Path):
    made = _applied(technique, network, tmp_path)
    if made is None:
        return
    samples = _samples(network)
    model = _saved(made, tmp_path)
    expected = _answers(made, samples.x)
    for target in ("tflite", "onnxruntime"):
        _check_close(expected, _compiled(target, model, samples, None, tmp_path), MIN_SQNR_DB)
    if not zoo.ZOO[network].int8:
        with pytest.raises(ModelError, match="unroll=True"):
            _compiled("tflite", model, samples, _planned(model, samples, tmp_path), tmp_path)
        return
    plan = _planned(model, samples, tmp_path)
    for target in ("tflite", "onnxruntime"):
        _check_close(expected, _compiled(target, model, samples, plan, tmp_path), MIN_INT8_SQNR_DB)


def _planned(model: Model, samples: SampleSet, folder: Path) -> Path:
    plan = folder / "plan"
    plan.mkdir()
    graph = make_plan_graph(model, Silent())
    settings = PtqSettings(scheme="int8", observer="minmax", equalize=False, bias_correction=False)
    parts = inputs.split(samples.x)
    plan_files.write(make_plan(graph, parts[0] if len(parts) == 1 else parts, settings), plan)
    graph.write(plan / plan_files.ORIGINAL)
    return plan


def _compiled(name: str, model: Model, samples: SampleSet, plan: Path | None, folder: Path) -> tuple[Any, ...]:
    """What the file of one target answers: float32, or int8 by the plan."""
    target = targets.get(name)
    request = CompileRequest(
        scheme=Scheme.NONE if plan is None else Scheme.INT8_FLOAT_IO,
        calibration=replace(samples, role="calibration"),
        out_dir=folder / f"{name}-{'float' if plan is None else 'int8'}",
        name="net",
        board_isa="x86_64",
        plan=plan,
    )
    return target.outputs(target.compile(model, request, Silent()).path, samples.x)


def _check_close(expected: list[NDArray[np.float32]], found: tuple[Any, ...], least_db: float) -> None:
    for reference, answer in zip(expected, found, strict=True):
        assert answer.shape == reference.shape
        assert sqnr_db(reference, answer) >= least_db


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet20", "vit", "lstm", "two_outputs", "nested"])
@pytest.mark.parametrize("technique", [t for t in TECHNIQUES if "distill" in techniques.get(t).Params.model_fields])
def test_its_training_learns_from_the_original_model(technique: str, network: str, tmp_path: Path):
    """Every technique that fine-tunes does so without labels, when asked."""
    if (technique, network) in REFUSED:
        return
    made = _applied(technique, network, tmp_path, epochs=1, batch_size=8, distill={})
    assert all(np.isfinite(answer).all() for answer in _answers(made, _samples(network).x))
