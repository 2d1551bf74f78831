"""`prune` with every criterion, granularity, scope and schedule: what it promises, what it refuses, what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgesmith.config import load_config
from edgesmith.errors import DataError, ModelError
from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from edgesmith.types import SampleSet
from optimizer import masks, recipe
from optimizer.base import Context
from optimizer.kernels import prunable_kernels
from optimizer.saliency import fisher
from optimizer.saliency.layouts import layouts
from optimizer.saliency.patterns import NOfM
from optimizer.techniques import prune


def _net(activation: str | None = "softmax") -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(5)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(8, 3, use_bias=False, name="stem"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.Conv2D(8, 2, activation="relu", name="middle"),
            layers.Flatten(),
            layers.Dense(3, activation=activation, name="head"),
        ]
    )


def _samples(role: Any = "train", count: int = 96, *, labels: bool = True) -> SampleSet:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = (rng.normal(size=(count, 6, 6, 1)) + y[:, None, None, None]).astype(np.float32)
    return SampleSet(role=role, x=x, y=y if labels else None, sha256=f"{role}{labels}", source="made.npz")


def _zeros(model: Any) -> dict[str, int]:
    return {name: count.zeros for name, count in masks.zero_counts(model).items()}


def _params(**written: Any) -> prune.Params:
    """As a recipe passes them on: written out in full, and read again."""
    return prune.Params.model_validate(prune.Params(batch_size=16, **written).model_dump(mode="json"))


@pytest.mark.parametrize(
    "written",
    [
        {"schedule": "one_shot"},
        {"schedule": "iterative", "rounds": 2},
        {"criterion": "obd"},
        {"criterion": "obs"},
        {"criterion": "obs", "schedule": "iterative", "rounds": 2},
        {"granularity": "block", "block_size": [2, 1], "schedule": "constant"},
    ],
    ids=str,
)
def test_every_kernel_has_its_share_of_zeros(written: dict[str, Any], tmp_path: Path):
    params = _params(final_sparsity=0.75, epochs=1, saliency_samples=24, **written)
    context = Context(workdir=tmp_path, train=_samples())
    model = _net()
    prune.check(model, params, context)
    applied = prune.apply(model, params, context)
    # Of 72, 256 and 216 weights a quarter stays.
    assert _zeros(applied.model) == {"stem/kernel": 54, "middle/kernel": 192, "head/kernel": 162}
    assert applied.notes[-1] == "75.0% zeros in 3 of 3 prunable kernels"


@pytest.mark.parametrize("criterion", ["magnitude", "obd", "obs"])
def test_without_training_and_labels_on_all_kernels_together(criterion: str, tmp_path: Path):
    params = _params(criterion=criterion, scope="global", final_sparsity=0.6, epochs=0, saliency_samples=32)
    context = Context(workdir=tmp_path, calibration=_samples("calibration", labels=False))
    model = _net()
    before = {kernel.name: kernel.value() for kernel in prunable_kernels(model)}
    applied = prune.apply(model, params, context)
    zeros = _zeros(applied.model)
    assert sum(zeros.values()) == 544 - 218
    assert zeros != {"stem/kernel": 43, "middle/kernel": 154, "head/kernel": 130}  # the same share of each
    moved = any(
        not np.array_equal(kernel.value()[kernel.value() != 0], before[kernel.name][kernel.value() != 0])
        for kernel in prunable_kernels(applied.model)
    )
    assert moved == (criterion == "obs")


@pytest.mark.parametrize("criterion", ["magnitude", "obd", "obs"])
def test_two_of_four_stays_through_training(criterion: str, tmp_path: Path):
    params = _params(granularity="2:4", criterion=criterion, epochs=1, saliency_samples=16)
    assert (params.schedule, params.final_sparsity) == ("one_shot", 0.5)
    applied = prune.apply(_net(), params, Context(workdir=tmp_path, train=_samples()))
    assert _zeros(applied.model) == {"stem/kernel": 0, "middle/kernel": 128, "head/kernel": 108}
    kernels = prunable_kernels(applied.model)
    for name, layout in layouts(applied.model, kernels).items():
        (weights,) = (layout.matrices(kernel.value()) for kernel in kernels if kernel.name == name)
        assert NOfM(2, 4).broken(weights) == 0
    assert applied.notes[0] == "left dense: stem/kernel (it has 1 input channel)"
    assert applied.notes[-1] == "50.0% zeros in 2 of 3 prunable kernels"


def test_surgery_says_what_it_saved_and_does_less_harm(tmp_path: Path):
    context = Context(workdir=tmp_path, calibration=_samples("calibration", labels=False))
    x = _samples("calibration", 200).x
    wanted = _net(None)(x)
    harm = {}
    for criterion in ("magnitude", "obs"):
        # Biases and statistics stay, so that kernels alone make the difference.
        model = _net(None)
        model.get_layer("bn").trainable = False
        applied = prune.apply(model, _params(criterion=criterion, final_sparsity=0.6, epochs=0), context)
        harm[criterion] = float(np.square(applied.model(x) - wanted).mean())
    assert harm["obs"] < 0.7 * harm["magnitude"]
    assert applied.notes[0].startswith("surgery on 96 samples: layers' outputs change by ")
    assert "by magnitude without it), most in " in applied.notes[0]


def test_curvature_of_a_linear_layer_is_the_second_moment_of_its_inputs():
    keras = import_keras()
    x = np.tile(np.array([[1.0, 2.0, 0.0]], np.float32), (800, 1))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    kernels = prunable_kernels(model)
    found = fisher.curvature(model, kernels, x, "squared error", seed=0, progress=Silent())["d/kernel"]
    np.testing.assert_allclose(found, [[1, 1], [4, 4], [0, 0]], rtol=0.15)
    kernels[0].assign([[0.5, 0.5], [1.0, 3.0], [9.0, 9.0]])
    saliency = fisher.saliencies(model, kernels, x, "squared error", seed=0, progress=Silent())["d/kernel"]
    np.testing.assert_allclose(saliency, found * [[0.125, 0.125], [0.5, 4.5], [40.5, 40.5]])


@pytest.mark.parametrize("likelihood", ["softmax", "logits", "sigmoid", "binary logits"])
def test_curvature_of_classes_is_that_of_their_probabilities(likelihood: Any):
    keras = import_keras()
    activation = likelihood if likelihood in ("softmax", "sigmoid") else None
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation=activation, name="d")])
    kernels = prunable_kernels(model)
    kernels[0].assign([[1.0, 0.0]])
    x = np.ones((800, 1), np.float32)
    found = fisher.curvature(model, kernels, x, likelihood, seed=1, progress=Silent())["d/kernel"]
    # p (1 - p), with p = 1 / (1 + e^-1) for the first; of two yes-or-no answers the second has p = 1/2.
    expected = [0.1966, 0.25] if "i" in likelihood[:2] else [0.1966, 0.1966]
    np.testing.assert_allclose(found[0], expected, rtol=0.12)


def test_curvature_of_a_strided_1x1_convolution():
    """TensorFlow 2.21 corrupts the heap in the plain way."""
    keras = import_keras()
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((15, 15, 4)), layers.Conv2D(8, 1, strides=(2, 3), name="c"), layers.Flatten()]
    )
    x = np.zeros((40, 15, 15, 4), np.float32)
    x[:, ::2, ::3] = 1.0
    before = model(x[:1]).numpy()
    found = fisher.curvature(model, prunable_kernels(model), x, "squared error", seed=0, progress=Silent())["c/kernel"]
    # It reads 8 x 5 places, all of them ones.
    assert 0.8 * 40 < found.mean() < 1.25 * 40
    assert model.get_layer("c").strides == (2, 3)
    assert model(x[:1]).numpy().tolist() == before.tolist()


def test_obd_knows_what_outputs_mean(tmp_path: Path):
    context = Context(workdir=tmp_path, calibration=_samples("calibration", labels=False))

    def told(net: Any, context: Context = context, **written: Any) -> str:
        written = {"criterion": "obd", "epochs": 0, "saliency_samples": 2, **written}
        return " | ".join(prune.apply(net, _params(**written), context).notes)

    assert "second derivatives on 2 samples, outputs taken as softmax" in told(_net())
    assert "outputs taken as sigmoid" in told(_net("sigmoid"))
    assert "for there are no labels; where they are logits, name the loss" in told(_net(None))
    assert "outputs taken as logits" in told(_net(None), loss="sparse_categorical_crossentropy")
    assert "outputs taken as logits" in told(_net(None), replace(context, train=_samples()))
    assert "outputs taken as squared error" in told(_net(None), loss="mse")


def test_rounds_are_told_and_take_more_each_time(tmp_path: Path):
    params = _params(schedule="iterative", rounds=2, final_sparsity=0.75, epochs=1)
    applied = prune.apply(_net(), params, Context(workdir=tmp_path, train=_samples()))
    assert [note.split(": ")[0] for note in applied.notes[:2]] == ["round 1, 50.0%", "round 2, 75.0%"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prune-1.npz", "prune-2.npz"]


@pytest.mark.parametrize("schedule", ["polynomial", "one_shot"])
def test_zeros_of_layers_that_are_not_pruned_now_stay_through_its_training(schedule: str, tmp_path: Path):
    context = Context(workdir=tmp_path, train=_samples())
    model = prune.apply(_net(), _params(include=["head"], epochs=0), context).model
    before = masks.zero_pattern(model)
    params = _params(include=["middle"], schedule=schedule, epochs=1)
    masks.check_preserved(before, prune.apply(model, params, context).model, step="prune")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({"granularity": "4:2"}, "must be element, block, or n:m with n below m, such as 2:4"),
        ({"granularity": "2:4", "schedule": "polynomial"}, "2:4 has no ramp: as in TF-MOT its masks are made once"),
        ({"granularity": "2:4", "scope": "global"}, "scope global has nothing to decide"),
        ({"granularity": "2:4", "final_sparsity": 0.7}, "2:4 means a final_sparsity of 0.5, not 0.7; leave it out"),
        ({"granularity": "block"}, "`granularity: block` and a block_size belong together"),
        ({"block_size": [1, 4]}, "`granularity: block` and a block_size belong together"),
        ({"granularity": "block", "block_size": [0, 4]}, "must be two numbers of at least 1"),
        ({"granularity": "block", "block_size": [1, 4], "criterion": "obs"}, "cannot weigh whole blocks"),
        ({"criterion": "obs", "schedule": "constant"}, "obs works its scores out anew at every pruning"),
        ({"criterion": "obd", "loss": "mine:loss"}, "obd knows the second derivatives of the built-in losses only"),
        ({"schedule": "iterative", "epochs": 0}, "iterative fine-tunes after every round: it needs epochs"),
        ({"schedule": "one_shot", "rounds": 3}, "a one_shot schedule has no rounds"),
        ({"schedule": "iterative", "frequency": 9}, "iterative prunes before it trains, at no step: leave frequency"),
        ({"schedule": "one_shot", "initial_sparsity": 0.1}, "a one_shot schedule has no initial_sparsity"),
    ],
)
def test_what_cannot_go_together_is_refused_with_the_reason(written: dict[str, Any], text: str):
    with pytest.raises(ValidationError) as error:
        prune.Params(**written)
    assert text in str(error.value)


def test_two_of_four_needs_no_quotes(tmp_path: Path):
    path = tmp_path / "edgesmith.yaml"
    path.write_text(
        "model: m.keras\ntargets: [tflite]\ndata: {evaluation: x.npz}\nrecipe:\n"
        "  - prune: {granularity: 2:4, epochs: 0}\n  - prune: {granularity: '1:2', epochs: 0}\n",
        encoding="utf-8",
    )
    steps = recipe.parse_recipe(load_config(path)).steps
    assert [step.params["granularity"] for step in steps] == ["2:4", "1:2"]


def test_criteria_want_real_samples(tmp_path: Path):
    made_up = SampleSet(role="calibration", x=_samples().x, y=None, sha256="", source="", synthetic=True)
    for criterion in ("obd", "obs"):
        with pytest.raises(DataError) as error:
            prune.check(_net(), _params(criterion=criterion, epochs=0), Context(workdir=tmp_path, calibration=made_up))
        assert str(error.value) == (
            f"{criterion} looks at what real samples do in the network, and there are none.\n"
            "Give `data.calibration` (labels are not needed), or take `criterion: magnitude`."
        )


def test_layers_that_cannot_are_left_and_told_and_a_model_of_them_is_refused(tmp_path: Path):
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((8, 8, 4))
    x = layers.Conv2DTranspose(4, 2, name="up")(image)
    x = layers.Conv2D(4, 3, groups=2, name="grouped")(x)
    x = layers.Conv2D(2, 1, name="last")(x)
    model = keras.Model(image, x)
    noise = np.random.default_rng(0).normal(size=(8, 8, 8, 4)).astype(np.float32)
    context = Context(
        workdir=tmp_path, calibration=SampleSet(role="calibration", x=noise, y=None, sha256="", source="")
    )
    params = _params(criterion="obs", epochs=0)
    applied = prune.apply(model, params, context)
    assert applied.notes[0] == (
        "left dense: up/kernel (Conv2DTranspose does not multiply one matrix with its input); "
        "grouped/kernel (its channels are in groups)"
    )
    assert _zeros(applied.model) == {"up/kernel": 0, "grouped/kernel": 0, "last/kernel": 4}
    with pytest.raises(
        ModelError, match=r"No layer can be pruned by obs with granularity element: up/kernel \(Conv2DT"
    ):
        prune.check(model, _params(criterion="obs", epochs=0, exclude=["last", "grouped"]), context)
    words = keras.Sequential([keras.Input((4,)), layers.Embedding(9, 8, name="words")])
    with pytest.raises(ModelError, match=r"words/embeddings \(it is looked up, not summed over\)"):
        prune.check(words, _params(granularity="2:4", epochs=0), context)
    with pytest.raises(ModelError, match=r"words/embeddings \(its 9 x 8 weights are one block\)"):
        prune.check(words, _params(granularity="block", block_size=[16, 8], epochs=0), context)
