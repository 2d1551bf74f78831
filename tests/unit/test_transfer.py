"""Transfer: what a head becomes, what training costs, and that nobody spends more than the budget."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.errors import ConfigError, DataError, InternalError, ModelError
from edgesmith.frameworks import import_keras
from edgesmith.types import SampleSet
from optimizer import cost
from optimizer.base import Context
from optimizer.transfer import budget, head, methods


def _backbone() -> Any:
    """A small residual network that tells five classes apart; 16 channels outside its block, 24 inside."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(image)
    y = layers.Conv2D(24, 3, padding="same", use_bias=False, name="wide")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    x = layers.Add()([x, layers.Conv2D(16, 3, padding="same", name="back")(y)])
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU()(x))
    return keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x), name="five")


def _samples(n: int = 200) -> SampleSet:
    """Three classes: bars across, bars down, and neither."""
    draw = np.random.default_rng(1)
    y = np.arange(n) % 3
    x = draw.normal(0, 0.3, (n, 8, 8, 1)).astype(np.float32)
    for i, kind in enumerate(y):
        at = int(draw.integers(8))
        if kind == 0:
            x[i, at] += 2
        elif kind == 1:
            x[i, :, at] += 2
    return SampleSet(role="train", x=x, y=y.astype(np.int64), sha256=str(n), source="bars")


def _with(*tail: Any, name: str = "m") -> Any:
    """A convolution and whatever follows it."""
    keras = import_keras()
    layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, name="conv"), *tail]
    return keras.Sequential(layers, name=name)


def test_heads_are_replaced_and_keep_their_form():
    layers = import_keras().layers
    heads = {
        "softmax": _with(layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax", name="out")),
        "logits": _with(layers.Flatten(), layers.Dense(5, name="out", use_bias=False)),
        "softmax behind": _with(layers.Flatten(), layers.Dropout(0.1), layers.Dense(5, name="out"), layers.Softmax()),
        "sigmoid": _with(layers.Flatten(), layers.Dense(5, activation="sigmoid", name="out")),
        "nested": _with(_inner(), name="outer"),
    }
    for kind, old in heads.items():
        made = head.with_classes(old, 3, seed=0)
        answers = np.asarray(made.model(np.ones((2, 8, 8, 1), np.float32)))
        assert answers.shape == (2, 3), kind
        assert np.allclose(answers.sum(axis=1), 1, atol=1e-5) == (kind != "logits"), kind
        assert head.layer(made.model, made.head).use_bias == (kind != "logits")
        assert np.array_equal(made.model.get_layer("conv").get_weights()[0], old.get_layer("conv").get_weights()[0])
        assert "replaced by 3" in made.note


def _inner() -> Any:
    keras = import_keras()
    return keras.Sequential(
        [keras.Input((6, 6, 4)), keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax", name="out")]
    )


def test_a_network_that_ends_in_features_gets_a_head():
    layers = import_keras().layers
    for old in (_with(), _with(layers.Flatten(), layers.Dense(6, activation="relu"))):
        made = head.with_classes(old, 3, seed=0)
        assert made.model.output_shape == (None, 3)
        assert "put on" in made.note


def test_heads_that_cannot_be_replaced_are_named():
    keras = import_keras()
    layers = keras.layers
    with pytest.raises(ModelError, match=r"out answers for every position of a map \(6, 6\)"):
        head.with_classes(_with(layers.Dense(5, activation="softmax", name="out")), 3, seed=0)
    with pytest.raises(ModelError, match=r"answers come from layer flat \(Flatten\)"):
        head.with_classes(_with(layers.Conv2D(5, 6), layers.Flatten(name="flat"), layers.Softmax()), 3, seed=0)
    with pytest.raises(ModelError, match="Layer yes behind the head"):
        head.with_classes(_with(layers.Flatten(), layers.Dense(5), layers.Activation("sigmoid", name="yes")), 3, seed=0)
    image = keras.Input((4,))
    two = keras.Model(image, [layers.Dense(2)(image), layers.Dense(2)(image)], name="two")
    with pytest.raises(ModelError, match="two has 2 outputs"):
        head.with_classes(two, 3, seed=0)
    with pytest.raises(DataError, match="nothing to tell apart"):
        head.with_classes(_backbone(), 1, seed=0)


def test_training_costs_three_passes_less_what_is_frozen():
    model = _backbone()
    stem, wide, back, last = 64 * 9 * 16, 64 * 9 * 16 * 24, 64 * 9 * 24 * 16, 16 * 5
    assert budget.forward_flops(model) == 2 * cost.count_macs(model) == 2 * (stem + wide + back + last)
    assert budget.training_flops(model) == 6 * (wide + back + last) + 4 * stem  # no gradient to the picture
    model.get_layer("stem").trainable = False
    assert budget.training_flops(model) == 6 * (back + last) + 4 * wide + 2 * stem
    model.trainable = False
    assert budget.training_flops(model) == budget.forward_flops(model)
    assert budget.training_flops(_nested(_backbone())) == budget.training_flops(_backbone())


def _nested(inner: Any) -> Any:
    keras = import_keras()
    image = keras.Input((8, 8, 1))
    return keras.Model(image, inner(image))


def test_a_ledger_does_not_go_below_zero():
    ledger = budget.Ledger(100.0)
    ledger.spend("one", 60)
    assert (ledger.left, ledger.affords(7), ledger.affords(7, share=0.5)) == (40, 5, 2)
    with pytest.raises(InternalError):
        ledger.spend("two", 41)


def test_steps_are_whole_epochs_within_what_is_paid_for():
    for steps in range(1, 90):
        epochs, samples = methods.schedule(steps, 200, 16)
        taken = epochs * (samples // 16)
        assert samples <= 200
        assert steps - epochs < taken <= steps


def _three() -> Any:
    return head.with_classes(_backbone(), 3, seed=0).model


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_stays_within_the_budget(method: methods.Method, tmp_path: Path):
    train = _samples()
    flops = 8e8
    settings = methods.Settings(method=method, train_flops=flops, learning_rate=3e-3)
    backbone = _backbone()
    before = [np.array(weight) for weight in backbone.weights]
    made = methods.transfer(backbone, 3, settings, Context(workdir=tmp_path, train=train))
    assert made.total <= flops
    assert f"pays for {flops / 200 / budget.training_flops(_three()):.2g} epochs" in made.notes[1]
    if method != "last-layer":
        assert made.total > 0.9 * flops
        assert made.spent["training steps"] == made.steps * 16 * budget.training_flops(made.model)
    ratio = cost.count_macs(made.model) / cost.count_macs(backbone)
    assert (ratio < 0.8) == (method in ("filters", "channels"))
    if method == "filters":
        assert made.model.get_layer("stem").filters == 16
        assert made.model.get_layer("wide").filters < 24
    answers = np.asarray(made.model(train.x, training=False))
    assert (answers.argmax(axis=1) == train.y).mean() > 0.5
    assert all(np.array_equal(old, new) for old, new in zip(before, backbone.weights, strict=True))


def test_what_cannot_be_learnt_is_refused(tmp_path: Path):
    def transfer(train: SampleSet | None, flops: float = 1e9) -> None:
        settings = methods.Settings(method="full", train_flops=flops)
        methods.transfer(_backbone(), 2, settings, Context(workdir=tmp_path, train=train))

    with pytest.raises(DataError, match="there are none"):
        transfer(None)
    with pytest.raises(DataError, match="labels run from 0 to 2, and the task has 2 classes"):
        transfer(_samples())
    with pytest.raises(ConfigError, match="--train-flops 1e\\+03 does not reach"):
        methods.transfer(_backbone(), 3, methods.Settings(train_flops=1e3), Context(workdir=tmp_path, train=_samples()))


@pytest.mark.slow
def test_the_command_writes_a_model_and_what_was_spent(tmp_path: Path):
    _backbone().save(tmp_path / "five.keras")
    samples = _samples(400)
    np.savez(tmp_path / "bars.npz", x=samples.x, y=samples.y)
    command = [sys.executable, "-m", "edgesmith", "transfer", "five.keras", "bars.npz", "--train-flops", "1e9"]
    done = subprocess.run(
        [*command, "-o", "bars.keras", "-q"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("next: edgesmith init bars.keras bars.npz\n")
    record = json.loads((tmp_path / "bars.json").read_text())
    assert record["classes"] == 3
    assert record["train_flops"]["spent"] == sum(record["train_flops"]["by"].values()) <= 1e9
    assert record["accuracy"]["top1"] > 0.5
    model = import_keras().saving.load_model(tmp_path / "bars.keras")
    assert model.output_shape == (None, 3)
