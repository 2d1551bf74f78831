"""What a student is held to: the divergence by hand, logits that are exact, teachers that are asked once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgesmith.errors import DataError, ModelError
from edgesmith.frameworks import import_keras
from edgesmith.types import SampleSet
from optimizer import finetune as loop
from optimizer.base import Context
from optimizer.distillation import lesson
from optimizer.distillation.answers import Answers
from optimizer.distillation.settings import Distill
from optimizer.distillation.taps import before_activation, listening, output_of
from optimizer.distillation.terms import Kind, feature_term, from_probabilities, output_term
from optimizer.finetune import TrainingParams, finetune, training_needs, training_set
from optimizer.losses import choose_loss
from tests import zoo


def _train(y: Any = None, n: int = 32) -> SampleSet:
    x = np.random.default_rng(1).normal(size=(n, 5)).astype(np.float32)
    return SampleSet(role="train", x=x, y=y, sha256="a" * 64, source="made.npz")


def _net(units: int = 6, activation: str | None = "softmax", *, seed: int = 1) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(units, activation="relu", name="hidden", kernel_regularizer="l2"),
            layers.Dropout(0.3),
            layers.Dense(3, activation=activation, name="out"),
        ]
    )


def test_the_divergence_of_classes_by_hand():
    # T = 2: teacher softmax(1, 0) = (.7310586, .2689414), student softmax(0, 0) = (.5, .5); times T^2.
    divergence = 0.7310586 * math.log(0.7310586 / 0.5) + 0.2689414 * math.log(0.2689414 / 0.5)
    found = output_term(Kind.SOFTMAX, np.array([[2.0, 0.0]]), np.array([[0.0, 0.0]]), 2.0)
    assert float(found) == pytest.approx(4 * divergence, rel=1e-5)


def test_the_divergence_of_yes_or_no_by_hand():
    # The same numbers: yes with sigmoid(1) against sigmoid(0); the second score agrees, so the mean is half.
    divergence = 0.7310586 * math.log(0.7310586 / 0.5) + 0.2689414 * math.log(0.2689414 / 0.5)
    found = output_term(Kind.SIGMOID, np.array([[2.0, 1.0]]), np.array([[0.0, 1.0]]), 2.0)
    assert float(found) == pytest.approx(4 * divergence / 2, rel=1e-5)


def test_values_are_matched_by_their_squares():
    assert float(output_term(Kind.VALUES, np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]]), 4.0)) == 2.5
    # Features weigh alike at any scale: (1 + 4) / 2 over (1 + 9) / 2.
    assert float(feature_term(np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]]))) == pytest.approx(0.5)


@settings(max_examples=30)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3),
    st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3),
    st.sampled_from([0.5, 1.0, 4.0, 20.0]),
)
def test_no_divergence_is_negative_and_only_equal_answers_have_none(t: list[float], s: list[float], temperature: float):
    for kind in (Kind.SOFTMAX, Kind.SIGMOID):
        teacher = np.array([t])
        assert float(output_term(kind, teacher, np.array([s]), temperature)) >= -1e-4
        assert float(output_term(kind, teacher, teacher, temperature)) == pytest.approx(0, abs=1e-4)
        # Logits of classes mean the same after a shift.
        if kind is Kind.SOFTMAX:
            assert float(output_term(kind, teacher, teacher + 3.0, temperature)) == pytest.approx(0, abs=1e-3)


def test_t_squared_keeps_the_size_of_the_gradient():
    """For small logits the gradient is that of half the squared distance of centred logits, at every temperature."""
    import tensorflow as tf

    t, s = np.array([[0.02, -0.01, -0.01]], np.float32), np.array([[0.0, 0.01, -0.01]], np.float32)
    found = []
    for temperature in (1.0, 4.0, 16.0):
        with tf.GradientTape() as tape:
            x = tf.constant(s)
            tape.watch(x)
            loss = output_term(Kind.SOFTMAX, t, x, temperature)
        found.append(tape.gradient(loss, x).numpy())
    np.testing.assert_allclose(found, [(s - t) / 3] * 3, rtol=0.03, atol=1e-4)


def test_probabilities_give_their_logits_back():
    p = np.array([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(from_probabilities(Kind.SOFTMAX, p), np.log(p), rtol=1e-5)
    np.testing.assert_allclose(from_probabilities(Kind.SIGMOID, p), np.log(p / (1 - p)), rtol=1e-5)


@pytest.mark.parametrize("name", ["plain", "unet", "nested", "shared", "two_outputs"])
def test_logits_are_what_goes_into_the_last_activation(name: str):
    model = zoo.ZOO[name].network()
    samples = zoo.samples(model, 4)
    x = [samples.x[field] for field in samples.x.dtype.names] if samples.x.dtype.names else samples.x
    plain = model(x, training=False)
    tap = before_activation(model, 0)
    assert tap is not None
    with listening([tap]) as heard:
        outputs = model(x, training=False)
    first = outputs[0] if isinstance(outputs, list) else outputs
    ops = import_keras().ops
    turned = ops.sigmoid(heard[0]) if first.shape[-1] == 1 else ops.softmax(heard[0])
    np.testing.assert_array_equal(first, turned)
    np.testing.assert_array_equal(first, plain[0] if isinstance(plain, list) else plain)
    assert "call" not in vars(tap.layer), "nothing of it is left behind"


def test_a_softmax_layer_of_its_own_is_heard_and_others_are_not():
    keras = import_keras()
    layers = keras.layers
    x = keras.Input((4,))
    y = layers.Reshape((1, 3))(layers.Softmax(name="soft")(layers.Dense(3)(x)))
    tap = before_activation(keras.Model(x, y), 0)
    assert (tap.layer.name, tap.side) == ("soft", "input")
    steps = keras.Input((4, 2))
    timed = keras.Model(steps, layers.TimeDistributed(layers.Dense(3, activation="softmax"))(steps))
    assert before_activation(timed, 0) is None
    gated = keras.Model(steps, layers.LSTM(3, activation="sigmoid")(steps))
    assert before_activation(gated, 0) is None
    twice = layers.Dense(4, activation="softmax")
    assert before_activation(keras.Model(x, twice(twice(x))), 0) is None


def test_where_logits_cannot_be_had_the_report_says_so(tmp_path: Path):
    keras = import_keras()
    keras.utils.set_random_seed(0)
    steps = keras.Input((5, 2))
    timed = keras.Model(steps, keras.layers.TimeDistributed(keras.layers.Dense(3, activation="softmax"))(steps))
    x = np.random.default_rng(0).normal(size=(8, 5, 2)).astype(np.float32)
    found = lesson.Lesson(timed, keras.models.clone_model(timed), Distill(), x, None, "auto")
    assert found.notes[1:] == (
        *(
            f"logits of output 0 of {who} are the logarithms of its probabilities: its last layer cannot be split"
            for who in ("this model", "the original model")
        ),
    )


def test_the_loss_is_alpha_of_the_teacher_and_the_rest_of_the_labels():
    student, teacher = _net(), _net(9, seed=2)
    train = _train(np.random.default_rng(3).integers(0, 3, 32))
    loss = choose_loss(student, "auto", train.y)
    taught = lesson.Lesson(student, teacher, Distill(temperature=3.0, alpha=0.7), train.x, loss, loss.name)
    taught.compile(import_keras().optimizers.SGD())
    found = taught.trained.evaluate(train.x, taught.targets(np.arange(32)), batch_size=32, verbose=0)

    def logits(net: Any) -> Any:
        return np.asarray(net.layers[0](train.x)) @ net.layers[-1].kernel.numpy() + net.layers[-1].bias.numpy()

    t, s = logits(teacher) / 3.0, logits(student) / 3.0
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (t, s))
    divergence = 9.0 * np.mean(np.sum(p * np.log(p / q), axis=1))
    probabilities = np.exp(3.0 * s) / np.exp(3.0 * s).sum(1, keepdims=True)
    entropy = -np.mean(np.log(probabilities[np.arange(32), train.y]))
    weights = 0.01 * np.sum(student.layers[0].kernel.numpy() ** 2)
    assert found == pytest.approx(0.7 * divergence + 0.3 * entropy + weights, rel=1e-4)


def test_a_linear_output_is_what_the_labels_make_of_it():
    x = _train().x
    student, teacher = _net(activation=None), _net(activation=None, seed=2)
    for meaning, text in (
        ("sparse_categorical_crossentropy", "divergence from the teacher, T 4"),
        ("binary_crossentropy", "divergence from the teacher, T 4"),
        ("auto", "mean squared error to the teacher's values, T 4"),
    ):
        assert lesson.Lesson(student, teacher, Distill(), x, None, meaning).text == text
    assert lesson.Lesson(student, _net(), Distill(), x, None, "auto").text == "divergence from the teacher, T 4"


def test_answers_are_asked_once_where_they_fit(monkeypatch: pytest.MonkeyPatch):
    from edgesmith.progress import Silent

    teacher, x = _net(), _train().x
    asked = Answers(teacher, [output_of(teacher, "hidden")[0]], x, most_bytes=32 * 9 * 4)
    assert asked.keep(Silent(), "tune")
    some = np.array([3, 1, 30])
    kept = asked.of(some)
    teacher.layers[-1].kernel.assign(np.zeros((6, 3)))
    for one, other in zip(kept, asked.of(some), strict=True):
        np.testing.assert_array_equal(one, other)
    afresh = Answers(teacher, [], x, most_bytes=10)
    assert not afresh.keep(Silent(), "tune")
    np.testing.assert_allclose(afresh.of(some)[0], np.full((3, 3), 1 / 3), rtol=1e-6)


def test_a_student_learns_what_its_teacher_says_without_labels(tmp_path: Path):
    teacher = _net(9, seed=2)
    params = TrainingParams(epochs=12, batch_size=8, learning_rate=0.02, distill={}, early_stop=12)
    context = Context(workdir=tmp_path, train=_train(n=64), original=lambda: teacher)
    trained = finetune(_net(seed=3), params, context, label="tune")
    assert trained.losses[-1] < trained.losses[0] / 2
    assert "distilled without labels" in trained.notes[1]
    assert training_needs(params).labels is False
    assert training_needs(TrainingParams()).labels is True


def test_a_killed_distillation_ends_like_one_that_was_not(tmp_path: Path):
    """With a feature through an adapter, whose weights and slots are in the checkpoint, too."""
    from edgesmith.progress import Silent

    params = TrainingParams(epochs=3, batch_size=8, distill=Distill(features=("hidden",)), early_stop=3)

    def run(folder: str, epochs: int) -> tuple[Any, Any]:
        student = _net()
        context = Context(
            workdir=tmp_path / folder, train=_train(), original=lambda: _net(9, seed=2), progress=Silent(), seed=5
        )
        if epochs < 3:
            real = loop.checkpoint.save
            saved = []

            def save(path: Path, snapshot: Any) -> None:
                real(path, snapshot)
                saved.append(path)
                if len(saved) == epochs:
                    raise KeyboardInterrupt

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(loop.checkpoint, "save", save)
                with pytest.raises(KeyboardInterrupt):
                    finetune(student, params, context, label="tune")
            return None, None
        return student, finetune(student, params, context, label="tune")

    whole, expected = run("whole", 3)
    run("killed", 2)
    again, trained = run("killed", 3)
    assert trained.losses == expected.losses
    assert trained.notes == (*expected.notes, "resumed after epoch 2")
    for one, other in zip(again.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert "1 features matched, 1 of them through a trained 1x1 adapter that is then dropped" in trained.notes
    assert [v.name for v in again.trainable_variables] == ["kernel", "bias"] * 2, "no adapter is left in it"


def test_another_teacher_is_another_training(tmp_path: Path):
    params = TrainingParams(epochs=1, batch_size=8, distill={})
    losses = [
        finetune(
            _net(),
            params,
            Context(workdir=tmp_path, train=_train(), original=lambda seed=seed: _net(seed=seed)),
            label="tune",
        )
        for seed in (2, 3, 2)
    ]
    assert not any("resumed" in note for trained in losses for note in trained.notes)
    assert losses[0].losses != losses[1].losses


def test_refusals(tmp_path: Path):
    x = _train().x
    two = import_keras().Sequential([import_keras().Input((5,)), import_keras().layers.Dense(2, activation="softmax")])
    with pytest.raises(ModelError, match=r"different outputs: the original \[2\], this model \[3\]"):
        lesson.Lesson(_net(), two, Distill(), x, None, "auto")
    with pytest.raises(ModelError, match=r"has no layer 'hiden'.*\nDid you mean 'hidden'"):
        lesson.Lesson(_net(), _net(), Distill(features=("hiden",)), x, None, "auto")
    with pytest.raises(ModelError, match="'twin': layer twin is called 2 times"):
        output_of(zoo.ZOO["shared"].network(), "twin")
    unet = zoo.ZOO["unet"].network()
    with pytest.raises(ModelError, match=r"Feature down of this model is \[16, 16, 8\], and bottom .* \[8, 8, 12\]"):
        lesson.Lesson(unet, unet, Distill(features=("down=bottom",)), x, None, "auto")
    for features in ("a=b=c", "=b", ""):
        with pytest.raises(ValidationError, match="neither `name`"):
            Distill(features=(features,))
    assert output_of(zoo.ZOO["nested"].network(), "backbone/conv2")[1] == (4, 4, 12)
    with pytest.raises(ModelError, match="there is none"):
        training_set(TrainingParams(distill={}), Context(workdir=tmp_path, train=_train()), step="prune")
    with pytest.raises(DataError, match="no training data"):
        training_set(TrainingParams(distill={}), Context(workdir=tmp_path, original=_net), step="prune")
