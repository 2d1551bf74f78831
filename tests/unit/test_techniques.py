"""Every file in optimizer/techniques keeps the contract, and the two first ones do what they say."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.config import Section
from edgesmith.errors import ConfigError, DataError
from edgesmith.frameworks import import_keras
from edgesmith.types import SampleSet, Scheme
from optimizer import masks, techniques
from optimizer.base import Context, Needs, Property, Stage
from optimizer.techniques import prune, quantize

FOLDER = Path(techniques.__file__).parent


def test_every_file_is_found_by_its_name():
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert set(techniques.names()) == files >= {"prune", "quantize"}
    stages = [techniques.get(name).STAGE for name in techniques.names()]
    assert stages == sorted(stages)


def test_an_unknown_technique_is_refused():
    with pytest.raises(ConfigError, match="unknown technique 'quantise'; did you mean 'quantize'"):
        techniques.get("quantise")


@pytest.mark.parametrize("name", techniques.names())
def test_the_contract(name: str):
    technique = techniques.get(name)
    assert technique.SUMMARY
    assert "\n" not in technique.SUMMARY
    assert isinstance(technique.STAGE, Stage)
    assert isinstance(technique.COMPILE_TIME, bool)
    assert {*technique.MAKES, *technique.PRESERVES} <= set(Property)
    assert issubclass(technique.Params, Section)
    assert technique.Params.model_config["frozen"]
    assert technique.Params.model_config["extra"] == "forbid"
    params = technique.Params()
    assert technique.Params.model_validate(params.model_dump(mode="json")) == params
    assert isinstance(technique.needs(params), Needs)
    assert list(inspect.signature(technique.apply).parameters) == ["model", "params", "context"]
    assert list(inspect.signature(technique.check).parameters) == ["model", "params", "context"]


@pytest.mark.parametrize("name", techniques.names())
def test_every_parameter_is_described(name: str):
    properties = techniques.get(name).Params.model_json_schema()["properties"]
    assert [key for key, schema in properties.items() if not schema.get("description")] == []


def _net() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(5)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(4, 3, use_bias=False, name="stem"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )


def _train(count: int = 96, *, labels: bool = True) -> SampleSet:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = (rng.normal(size=(count, 6, 6, 1)) + y[:, None, None, None]).astype(np.float32)
    return SampleSet(role="train", x=x, y=y if labels else None, sha256=str(labels), source="made.npz")


def _zeros(model: Any) -> dict[str, int]:
    return {name: count.zeros for name, count in masks.zero_counts(model).items()}


@pytest.mark.parametrize("schedule", ["polynomial", "constant"])
def test_prune_gives_the_exact_count_of_zeros(schedule: str, tmp_path: Path):
    params = prune.Params(schedule=schedule, final_sparsity=0.7, epochs=2, batch_size=16)
    applied = prune.apply(_net(), params, Context(workdir=tmp_path, train=_train()))
    # 36 weights: 36 - round(10.8) = 25; 192 weights: 192 - round(57.6) = 134.
    assert _zeros(applied.model) == {"stem/kernel": 25, "head/kernel": 134}
    assert applied.notes[-1] == "69.7% zeros in 2 of 2 prunable kernels"
    assert (
        "fine-tuned for 2 epochs of 6 steps, loss sparse_categorical_crossentropy (softmax output)" in applied.notes[0]
    )
    assert "statistics of 1 batch-norm layer re-estimated on 96 train samples" in applied.notes


def test_prune_in_one_shot_needs_no_data_and_says_what_it_could_not_do(tmp_path: Path):
    model = _net()
    before = model.get_layer("head").kernel.numpy()
    applied = prune.apply(model, prune.Params(epochs=0, exclude=["stem"]), Context(workdir=tmp_path))
    after = applied.model.get_layer("head").kernel.numpy()
    assert _zeros(applied.model) == {"stem/kernel": 0, "head/kernel": 96}
    assert after.tolist() == np.where(masks.exact_mask(before, 0.5), before, 0).tolist()
    assert applied.notes == (
        "batch-norm statistics are the old ones: there are no real samples to re-estimate them on",
        "50.0% zeros in 1 of 2 prunable kernels",
    )
    assert list(tmp_path.iterdir()) == []


def test_prune_again_adds_zeros_and_gives_none_back(tmp_path: Path):
    context = Context(workdir=tmp_path, train=_train())
    model = prune.apply(_net(), prune.Params(epochs=0, final_sparsity=0.4), context).model
    first = masks.zero_pattern(model)
    model = prune.apply(model, prune.Params(epochs=1, final_sparsity=0.6, batch_size=16), context).model
    masks.check_preserved(first, model, step="prune")
    assert _zeros(model) == {"stem/kernel": 22, "head/kernel": 115}


def test_prune_with_early_stopping_keeps_an_epoch_at_full_sparsity(tmp_path: Path):
    params = prune.Params(final_sparsity=0.5, epochs=6, batch_size=16, early_stop=1, learning_rate=0.05)
    applied = prune.apply(_net(), params, Context(workdir=tmp_path, train=_train()))
    assert _zeros(applied.model) == {"stem/kernel": 18, "head/kernel": 96}
    # 86 training samples make 5 steps; the ramp ends at 3/4 of 30, within the fifth epoch.
    assert any(note.startswith(("kept epoch 5", "kept epoch 6")) for note in applied.notes), applied.notes


def test_prune_without_labels_is_refused(tmp_path: Path):
    with pytest.raises(DataError) as error:
        prune.check(_net(), prune.Params(), Context(workdir=tmp_path, train=_train(labels=False)))
    assert str(error.value) == (
        "prune fine-tunes, and the training data has no labels (made.npz).\n"
        "Give `data.train` with labels (`y`), set `distill: {}` to learn from the original model's answers instead, "
        "or set `epochs: 0`."
    )


def test_random_calibration_data_never_reach_batch_norm(tmp_path: Path):
    noise = np.full((64, 6, 6, 1), 100, np.float32)
    made_up = SampleSet(role="calibration", x=noise, y=None, sha256="", source="", synthetic=True)
    applied = prune.apply(_net(), prune.Params(epochs=0), Context(workdir=tmp_path, calibration=made_up))
    assert applied.notes[0].startswith("batch-norm statistics are the old ones")
    assert applied.model.get_layer("bn").moving_mean.numpy().tolist() == [0.0] * 4


def test_quantize_leaves_the_model_to_the_compilers(tmp_path: Path):
    model = object()
    applied = quantize.apply(model, quantize.Params(), Context(workdir=tmp_path))
    assert applied.model is model
    assert quantize.needs(quantize.Params()) == Needs(calibration_data=True)
    assert quantize.needs(quantize.Params(scheme=Scheme.FLOAT16)) == Needs()
