"""The training loop: the same from a seed, the same after a kill, and clear about what went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith.errors import DataError, ModelError
from edgesmith.frameworks import import_keras
from edgesmith.types import SampleSet
from optimizer import finetune as loop
from optimizer.base import Context
from optimizer.finetune import Trained, TrainingParams, batches, finetune, split
from optimizer.kernels import prunable_kernels
from optimizer.magnitude import MagnitudePruner

PARAMS = TrainingParams(epochs=3, batch_size=8)


def _net(activation: str | None = "softmax", units: int = 3) -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(11)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((5,)),
            layers.Dense(8, name="hidden"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Dense(units, activation=activation, name="out"),
        ]
    )


def _train(y: np.ndarray | None = None, count: int = 40) -> SampleSet:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, count) if y is None else y
    x = rng.normal(size=(count, 5)).astype(np.float32)
    return SampleSet(role="train", x=x, y=labels, sha256="a" * 64, source="made.npz")


def _weights(model: Any) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


def _same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(_weights(one), _weights(other), strict=True))


class Interrupter:
    """A progress that presses Ctrl-C after so many steps, and otherwise notes what it is told."""

    def __init__(self, after: int) -> None:
        self.left, self.notes, self.total = after, [], None

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Any]:
        self.total = total
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.left -= int(amount)
        if self.left < 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


def _run(
    model: Any, folder: Path, params: TrainingParams = PARAMS, progress: Any = None, pruned: bool = True
) -> Trained:
    given = {} if progress is None else {"progress": progress}
    companions = [MagnitudePruner(prunable_kernels(model), lambda step: (step % 4 == 0, step / 40))] if pruned else []
    context = Context(workdir=folder, train=_train(), seed=3, **given)
    return finetune(model, params, context, label="tune", companions=companions)


@pytest.mark.parametrize("params", [PARAMS, PARAMS.model_copy(update={"early_stop": 3, "optimizer": "sgd"})])
def test_a_killed_training_ends_like_one_that_was_not(params: TrainingParams, tmp_path: Path):
    whole = _net()
    expected = _run(whole, tmp_path / "whole", params)
    killed = _net()
    with pytest.raises(KeyboardInterrupt):
        _run(killed, tmp_path / "killed", params, Interrupter(after=10))  # in the third epoch
    again, progress = _net(), Interrupter(after=100)
    trained = _run(again, tmp_path / "killed", params, progress)
    assert progress.notes == ["tune: going on after epoch 2 of 3"]
    assert trained.losses == expected.losses
    assert trained.notes == (*expected.notes, "resumed after epoch 2")
    assert _same(again, whole)


def test_a_finished_training_is_not_done_again(tmp_path: Path):
    first = _net()
    _run(first, tmp_path)
    again, progress = _net(), Interrupter(after=15)
    assert _run(again, tmp_path, progress=progress).losses
    assert progress.notes == ["tune: going on after epoch 3 of 3"]
    assert _same(again, first)


def test_a_checkpoint_of_another_training_is_not_used(tmp_path: Path):
    _run(_net(), tmp_path)
    progress = Interrupter(after=100)
    _run(_net(), tmp_path, PARAMS.model_copy(update={"learning_rate": 0.01}), progress)
    assert progress.notes == []


def test_a_checkpoint_that_is_half_there_is_not_used(tmp_path: Path):
    expected = _net()
    _run(expected, tmp_path)
    path = tmp_path / "tune.npz"
    path.write_bytes(path.read_bytes()[:1000])
    again, progress = _net(), Interrupter(after=100)
    _run(again, tmp_path, progress=progress)
    assert progress.notes == []
    assert _same(again, expected)


def test_the_seed_decides(tmp_path: Path):
    one, two, three = _net(), _net(), _net()
    _run(one, tmp_path / "1")
    _run(two, tmp_path / "2")
    _run(three, tmp_path / "3", PARAMS.model_copy(update={"seed": 4}))
    assert _same(one, two)
    assert not _same(one, three)


def test_progress_covers_every_step(tmp_path: Path):
    progress = Interrupter(after=100)
    _run(_net(), tmp_path, progress=progress)
    assert progress.total == 15  # 3 epochs of 40 // 8 steps
    assert progress.left == 85


def test_the_optimizer_is_not_left_in_the_model(tmp_path: Path):
    model = _net()
    _run(model, tmp_path, pruned=False)
    assert model.optimizer is None
    assert not model.compiled


def test_early_stopping_ends_and_keeps_the_best(tmp_path: Path):
    params = TrainingParams(epochs=40, batch_size=8, learning_rate=0.5, early_stop=2, learning_rate_schedule="constant")
    trained = _run(_net(), tmp_path, params, pruned=False)
    assert len(trained.losses) == trained.best_epoch + 2 < 40
    assert f"kept epoch {trained.best_epoch}, validation loss" in trained.notes[1]


def test_a_loss_that_is_no_number_names_epoch_and_rate(tmp_path: Path):
    params = TrainingParams(epochs=2, batch_size=8, learning_rate=1e30, optimizer="sgd", loss="mse")
    model = _net(activation=None, units=1)
    context = Context(workdir=tmp_path, train=_train(np.ones(40, np.float32)))
    with pytest.raises(ModelError) as error:
        finetune(model, params, context, label="tune")
    assert str(error.value).startswith("tune: the loss became ")
    assert " in epoch 1, step " in str(error.value)
    assert "Lower learning_rate (it is 1e+30), and see that the training data are scaled" in str(error.value)


def test_frozen_models_are_refused(tmp_path: Path):
    model = _net()
    model.trainable = False
    with pytest.raises(ModelError, match="tune: all layers of the model are frozen: there is nothing to train"):
        _run(model, tmp_path, pruned=False)


def test_a_label_beyond_the_classes_is_told_as_such(tmp_path: Path):
    context = Context(workdir=tmp_path, train=_train(np.full(40, 7)))
    with pytest.raises(ModelError) as error:
        finetune(_net(), PARAMS, context, label="tune")
    assert "tune: a training step failed with loss sparse_categorical_crossentropy (softmax output)" in str(error.value)
    assert "See that labels and loss fit the model's output." in str(error.value)


def test_no_training_data_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="tune fine-tunes, and there is no training data"):
        finetune(_net(), PARAMS, Context(workdir=tmp_path), label="tune")


def test_too_few_samples_to_hold_some_out():
    with pytest.raises(DataError, match="of 3 samples that leaves 0 to validate and 3 to train on"):
        split(PARAMS.model_copy(update={"early_stop": 1}), 3, seed=0)


def test_a_loss_of_the_users_own_is_found_beside_the_config(tmp_path: Path):
    (tmp_path / "my_losses.py").write_text(
        "from keras import ops\ndef absolute(y_true, y_pred):\n    return ops.mean(ops.abs(y_true - y_pred), axis=-1)\n"
    )
    params = PARAMS.model_copy(update={"loss": "my_losses:absolute", "learning_rate": 0.05})
    model = _net(activation=None, units=1)
    context = Context(workdir=tmp_path, train=_train(np.ones((40, 1), np.float32)), root=tmp_path)
    trained = finetune(model, params, context, label="tune")
    assert "loss my_losses:absolute" in trained.notes[0]
    assert trained.losses[-1] < trained.losses[0]


def test_an_error_in_the_users_loss_is_told_as_theirs(tmp_path: Path):
    (tmp_path / "bad_losses.py").write_text("def broken(y_true, y_pred):\n    return y_pred.nonsense\n")
    params = PARAMS.model_copy(update={"loss": "bad_losses:broken"})
    context = Context(workdir=tmp_path, train=_train(), root=tmp_path)
    with pytest.raises(DataError, match=r"bad_losses:broken raised AttributeError"):
        finetune(_net(), params, context, label="tune")


@given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 5), st.integers(0, 5))
def test_batches_are_whole_distinct_and_repeatable(samples: int, size: int, seed: int, epoch: int):
    params = TrainingParams(batch_size=size)
    indices = np.arange(samples)
    made = batches(params, indices, seed=seed, epoch=epoch)
    used = np.concatenate(made)
    assert {len(batch) for batch in made} == {min(size, samples)}
    assert len(made) == loop.steps_per_epoch(params, samples)
    assert len(set(used.tolist())) == len(used)
    assert samples - len(used) < size
    again = batches(params, indices, seed=seed, epoch=epoch)
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))


@given(st.integers(20, 300), st.integers(0, 9))
def test_held_out_samples_are_not_trained_on(samples: int, seed: int):
    parts = split(PARAMS.model_copy(update={"early_stop": 1}), samples, seed)
    assert sorted([*parts.train.tolist(), *parts.validation.tolist()]) == list(range(samples))
    assert len(parts.validation) == round(samples * 0.1)
