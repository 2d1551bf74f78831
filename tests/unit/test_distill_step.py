"""The step `distill`: a student by width or of the user's own, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgesmith.errors import ConfigError, ModelError
from edgesmith.frameworks import import_keras, third_party_warnings
from optimizer.base import Context
from optimizer.distillation.derived import derive
from optimizer.techniques import distill
from tests import zoo


def _context(tmp_path: Path, model: Any, **more: Any) -> Context:
    train = zoo.samples(model, 16, labels=False)
    return Context(workdir=tmp_path, train=train, root=tmp_path, original=zoo.ZOO["plain"].network, **more)


def test_half_the_width_keeps_the_strongest_of_every_layer():
    model = zoo.ZOO["plain"].network()
    student = derive(model, 0.5, "inherit", 0)
    conv1, conv2, hidden, head = (layer for layer in student.model.layers if layer.weights)
    assert [conv1.filters, conv2.filters, hidden.units, head.units] == [4, 4, 8, 4]
    kernel = model.get_layer("conv1").kernel.numpy()
    strongest = np.sort(np.argsort(-np.sqrt((kernel**2).sum((0, 1, 2))))[:4])
    np.testing.assert_array_equal(conv1.kernel.numpy(), kernel[..., strongest])
    assert student.notes[0] == (
        "student of width 0.5: 16 of 32 units in 3 groups, the strongest, with their weights; 2,044 to 592 parameters"
    )


def test_fresh_weights_come_from_the_seed_and_keep_what_was_not_trained():
    keras = import_keras()
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((5,)), layers.Normalization(mean=[1.0] * 5, variance=[4.0] * 5), layers.Dense(8), layers.Dense(2)]
    )
    frozen = zoo.ZOO["nested"].network()
    frozen.get_layer("backbone").trainable = False
    one, same, other = (derive(model, 0.5, "fresh", seed).model for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.layers[-1].kernel, same.layers[-1].kernel)
    assert not np.array_equal(one.layers[-1].kernel, other.layers[-1].kernel)
    x = np.ones((1, 5), np.float32)
    np.testing.assert_allclose(one.layers[0](x), 0.0, atol=1e-6)
    inherited, drawn = (derive(frozen, 0.5, init, 3).model for init in ("inherit", "fresh"))
    for name in ("conv1", "conv2"):
        kernels = [net.get_layer("backbone").get_layer(name).kernel.numpy() for net in (inherited, drawn)]
        np.testing.assert_array_equal(*kernels)
    assert not np.array_equal(*(net.get_layer("head").get_layer("hidden").kernel for net in (inherited, drawn)))


def test_a_student_by_width_is_trained_without_labels(tmp_path: Path):
    model = zoo.ZOO["plain"].network()
    params = distill.Params(width=0.5, epochs=2, batch_size=8)
    assert (distill.needs(params).training_data, distill.needs(params).labels) == (True, False)
    assert distill.needs(distill.Params(width=0.5, distill=None)).labels
    context = _context(tmp_path, model)
    distill.check(model, params, context)
    applied = distill.apply(model, params, context)
    assert applied.model.count_params() == 592
    assert applied.notes[2].startswith("fine-tuned for 2 epochs of 2 steps, loss divergence from the teacher, T 4: ")


def test_a_student_of_ones_own(tmp_path: Path):
    keras = import_keras()
    model = zoo.ZOO["plain"].network()
    layers = keras.layers
    own = keras.Sequential(
        [keras.Input((12, 12, 3)), layers.Flatten(), layers.Dense(6, name="few"), layers.Dense(4, name="scores")]
    )
    with third_party_warnings():
        own.save(tmp_path / "own.keras")
    params = distill.Params(student="own.keras", epochs=1, batch_size=8, distill={"features": ["few=hidden"]})
    context = _context(tmp_path, model)
    distill.check(model, params, context)
    applied = distill.apply(model, params, context)
    assert applied.notes[0] == "student own.keras, 2,626 parameters"
    assert [layer.name for layer in applied.model.layers][-2:] == ["few", "scores"]
    assert "1 features matched, 1 of them through a trained 1x1 adapter that is then dropped" in applied.notes


def test_refusals(tmp_path: Path):
    model = zoo.ZOO["plain"].network()
    context = _context(tmp_path, model)
    for given, text in (
        ({"width": 0.5, "student": "x.keras"}, "give either"),
        ({"student": "x.keras", "init": "fresh"}, "`init` goes with `width`"),
        ({"width": 0.5, "init": "fresh", "epochs": 0}, "answer nothing"),
    ):
        with pytest.raises(ValidationError, match=text):
            distill.Params(**given)
    with pytest.raises(ConfigError, match=r"student: there is no .*x\.keras"):
        distill.check(model, distill.Params(student="x.keras"), context)
    with pytest.raises(ModelError, match=r"At width 0\.99 every layer of plain keeps all"):
        distill.check(model, distill.Params(width=0.99), context)
    keras = import_keras()
    single = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="only")])
    with pytest.raises(ModelError, match=r"No layer of .* can be made narrower \(only: an output of the model\)"):
        distill.check(single, distill.Params(width=0.5), context)
    with third_party_warnings():
        single.save(tmp_path / "single.keras")
    with pytest.raises(ModelError, match=r"different outputs: the original \[4\], this model \[2\]"):
        distill.check(model, distill.Params(student="single.keras"), context)
