"""The training loop that steps share: seeded, watched, and able to go on where it was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from calibration import inputs
from calibration.user_code import blaming, is_reference
from edgesmith import files
from edgesmith.config import Section
from edgesmith.errors import DataError, InfrastructureError, InternalError, ModelError
from edgesmith.frameworks import import_keras, import_tensorflow
from edgesmith.progress import Progress
from edgesmith.progress import Task as ProgressTask
from edgesmith.types import SampleSet
from optimizer import batchnorm, checkpoint, losses, objectives, strided
from optimizer.base import Context, KerasModel, Needs
from optimizer.checkpoint import Position, Snapshot
from optimizer.distillation.lesson import Lesson
from optimizer.distillation.settings import Distill
from optimizer.objectives import Labels, Objective
from targets.keras_model import one_or_list

# Enough to see batch-norm statistics settle, little enough to do after every epoch.
_VALIDATION_BATCH_NORM_SAMPLES = 512
_VALIDATION_PIECE = 1024


class TrainingParams(Section):
    """How a step fine-tunes. Techniques that train inherit these keys."""

    epochs: int = Field(default=2, ge=0, description="Passes over the training data; 0 = none.")
    batch_size: int = Field(default=64, ge=1, description="Samples per step; a rest that fills no batch is left out.")
    learning_rate: float = Field(default=5e-4, gt=0, description="At the start.")
    learning_rate_schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="cosine falls to zero at the end of training."
    )
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="sgd has a momentum of 0.9.")
    loss: str = Field(
        default="auto",
        description="auto (from labels and last activation), sparse_categorical_crossentropy, "
        "categorical_crossentropy, binary_crossentropy, mse, or package.module:function taking (y_true, y_pred).",
    )
    early_stop: int | None = Field(
        default=None, ge=1, description="Stop after so many epochs without a better validation loss; the best is kept."
    )
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the training data held out for early_stop; unused without it."
    )
    seed: int | None = Field(default=None, ge=0, description="Default: the seed of the run.")
    distill: Distill | None = Field(
        default=None, description="Learn from the answers of the original model, too; then labels are not needed."
    )

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        if not losses.is_loss(loss):
            raise ValueError(f"must be one of {', '.join(losses.NAMES)}, or package.module:function")
        return loss


class Companion(Protocol):
    """Something that acts during training and has to survive a kill with it, such as masks."""

    def callback(self) -> Any:
        """A `keras.callbacks.Callback`."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What a checkpoint has to hold."""

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes back to what `state` gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a training went.

    Attributes:
        losses: mean training loss per epoch.
        best_epoch: 1-based epoch whose weights were kept; 0 = the last, no early stopping was asked for.
        notes: one sentence each, for the report.
    """

    losses: tuple[float, ...]
    best_epoch: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Indices into the training set."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def training_needs(params: TrainingParams) -> Needs:
    """What a technique that fine-tunes cannot do without, where training is all it needs data for."""
    trains = params.epochs > 0
    return Needs(keras=True, training_data=trains, labels=trains and params.distill is None)


def training_set(params: TrainingParams, context: Context, *, step: str) -> SampleSet:
    """What `finetune` will train on; for `check`.

    Raises:
        DataError: there is none, or it has no labels and nothing to learn from but labels.
        ModelError: distillation is asked for, and there is no original model.
    """
    if params.distill is None:
        return labelled(context, step=step)[0]
    if context.train is None:
        raise DataError(f"{step} fine-tunes, and there is no training data.", next_step="Give `data.train`.")
    if context.original is None:
        raise ModelError(f"{step} is to learn from the original model, and there is none.", next_step="Drop `distill`.")
    return context.train


def labelled(context: Context, *, step: str) -> tuple[SampleSet, NDArray[Any]]:
    """The training set and its labels.

    Raises:
        DataError: there is none, it has no labels, or it is made up.
    """
    train = context.train
    if train is None:
        raise DataError(f"{step} fine-tunes, and there is no training data.", next_step="Give `data.train`.")
    if train.y is None:
        raise DataError(
            f"{step} fine-tunes, and the training data has no labels ({train.source}).",
            next_step="Give `data.train` with labels (`y`), set `distill: {}` to learn from the original model's "
            "answers instead, or set `epochs: 0`.",
        )
    return train, train.y


def split(params: TrainingParams, samples: int, seed: int) -> Split:
    """Holds samples out for early stopping; the same ones for the same seed.

    Raises:
        DataError: too few samples for both parts.
    """
    order = np.random.default_rng([seed, 1]).permutation(samples)
    held = round(samples * params.validation_fraction) if params.early_stop is not None else 0
    if params.early_stop is not None and not 0 < held < samples:
        raise DataError(
            f"early_stop holds out {params.validation_fraction:.0%} of the training data, "
            f"and of {samples} samples that leaves {held} to validate and {samples - held} to train on.",
            next_step="Give more training data, change validation_fraction, or leave early_stop out.",
        )
    return Split(train=np.sort(order[held:]), validation=np.sort(order[:held]))


def steps_per_epoch(params: TrainingParams, samples: int) -> int:
    """Whole batches in `samples`; one where there are fewer than a batch."""
    return max(samples // params.batch_size, 1)


def batches(params: TrainingParams, indices: NDArray[np.int64], *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The batches of one epoch, shuffled; they depend on nothing but the arguments, so a resumed epoch has the same.

    Args:
        params: for the batch size.
        indices: samples to train on.
        seed: of the step.
        epoch: from 0.
    """
    order = np.random.default_rng([seed, 2, epoch]).permutation(indices)
    size = min(params.batch_size, len(order))
    return [order[i * size : (i + 1) * size] for i in range(steps_per_epoch(params, len(order)))]


def finetune(
    model: KerasModel,
    params: TrainingParams,
    context: Context,
    *,
    label: str,
    companions: Sequence[Companion] = (),
    eligible_step: int = 0,
) -> Trained:
    """Trains a model in place.

    After every epoch the whole state goes to `<workdir>/<label>.npz`; a training with the same model, parameters, data
    and seed goes on from there. Early stopping looks at held-out training samples, never at the evaluation set, and
    re-estimates batch-norm statistics before it does, since lagging ones would make the loss mean nothing.

    Args:
        model: built.
        params: `epochs` at least 1.
        context: with labelled training data.
        label: of the step; names the checkpoint.
        companions: act on the model while it trains.
        eligible_step: early stopping neither stops nor keeps an epoch that ends before this training step.

    Raises:
        DataError: no labelled data, or labels that do not fit.
        ModelError: nothing to train, a loss that became NaN, or a first step that TensorFlow refuses.
    """
    loop = _Loop(model, params, context, label, companions, eligible_step)
    with strided.safe_gradients(model):
        return loop.run()


class _Loop:
    def __init__(
        self,
        model: KerasModel,
        params: TrainingParams,
        context: Context,
        label: str,
        companions: Sequence[Companion],
        eligible_step: int,
    ) -> None:
        self._keras = import_keras()
        self._model = model
        self._params = params
        self._label = label
        self._companions = companions
        self._eligible_step = eligible_step
        self._progress: Progress = context.progress
        self._seed = context.seed if params.seed is None else params.seed
        self._root = context.root
        self._path: Path = context.workdir / f"{label}.npz"
        train = training_set(params, context, step=label)
        if not model.trainable_variables:
            raise ModelError(
                f"{label}: all layers of the model are frozen: there is nothing to train.",
                next_step="Set `trainable = True` on the layers before saving the model, or set `epochs: 0`.",
            )
        self._x = train.x
        self._objective = _objective(model, params, train, context, self._seed)
        self._split = split(params, len(train), self._seed)
        self._steps = steps_per_epoch(params, len(self._split.train))
        self._key = files.sha256_json(
            [
                params.model_dump(mode="json"),
                train.sha256,
                self._seed,
                label,
                checkpoint.digest(model),
                eligible_step,
                *self._objective.identity,
            ]
        )
        self._best: checkpoint.Arrays = ()

    @property
    def _trained(self) -> KerasModel:
        return self._objective.trained

    def run(self) -> Trained:
        # Python's, NumPy's and TensorFlow's own generators: a loss or layer of the user's may draw from them.
        self._keras.utils.set_random_seed(self._seed)
        self._compile()
        position = self._resume()
        resumed = position.epochs_done
        epochs = self._params.epochs
        if resumed < epochs and not position.stopped:
            self._objective.prepare(self._progress, self._label)
        callbacks = self._keras.callbacks.CallbackList(
            [companion.callback() for companion in self._companions], model=self._model, epochs=epochs
        )
        with self._progress.task(f"{self._label}: fine-tuning", total=float(epochs * self._steps)) as task:
            task.advance(float(resumed * self._steps))
            callbacks.on_train_begin()
            for epoch in range(resumed, epochs):
                if position.stopped:
                    break
                position = self._epoch(position, epoch, callbacks, task)
                checkpoint.save(self._path, self._snapshot(position))
            callbacks.on_train_end()
        if self._best:
            checkpoint.assign(self._trained.variables, self._best)
        self._forget_compilation()
        return Trained(losses=position.losses, best_epoch=position.best_epoch, notes=self._notes(position, resumed))

    def _compile(self) -> None:
        optimizers = self._keras.optimizers
        rate: Any = self._params.learning_rate
        if self._params.learning_rate_schedule == "cosine":
            rate = optimizers.schedules.CosineDecay(rate, decay_steps=self._params.epochs * self._steps)
        if self._params.optimizer == "adam":
            optimizer = optimizers.Adam(learning_rate=rate)
        else:
            optimizer = optimizers.SGD(learning_rate=rate, momentum=0.9)
        self._objective.compile(optimizer)

    def _resume(self) -> Position:
        snapshot = checkpoint.load(self._path, self._key)
        if snapshot is None:
            _reseed(self._model, self._seed)
            return Position(key=self._key)
        checkpoint.assign(self._trained.variables, snapshot.model)
        checkpoint.assign(self._trained.optimizer.variables, snapshot.optimizer)
        for companion, state in zip(self._companions, snapshot.companions, strict=True):
            companion.restore(state)
        self._best = snapshot.best
        self._progress.note(
            f"{self._label}: going on after epoch {snapshot.position.epochs_done} of {self._params.epochs}"
        )
        return snapshot.position

    def _epoch(self, position: Position, epoch: int, callbacks: Any, task: ProgressTask) -> Position:
        callbacks.on_epoch_begin(epoch)
        total = 0.0
        for step, indices in enumerate(batches(self._params, self._split.train, seed=self._seed, epoch=epoch)):
            callbacks.on_train_batch_begin(step)
            loss = self._train_on(indices)
            if not np.isfinite(loss):
                raise ModelError(
                    f"{self._label}: the loss became {loss} in epoch {epoch + 1}, step {step + 1} of {self._steps}.",
                    next_step=f"Lower learning_rate (it is {self._params.learning_rate:g}), "
                    f"and see that the training data are scaled as the model wants them.",
                )
            callbacks.on_train_batch_end(step, {"loss": loss})
            total += loss
            task.advance(1.0, f"epoch {epoch + 1}/{self._params.epochs}, loss {total / (step + 1):.4f}")
        mean = total / self._steps
        callbacks.on_epoch_end(epoch, {"loss": mean})
        position = replace(position, epochs_done=epoch + 1, losses=(*position.losses, mean))
        if self._params.early_stop is not None and (epoch + 1) * self._steps >= self._eligible_step:
            return self._validate(position, patience=self._params.early_stop)
        return position

    def _train_on(self, indices: NDArray[np.int64]) -> float:
        x, y = self._x[indices], self._objective.targets(indices)
        own = self._params.loss if is_reference(self._params.loss) else None
        errors = import_tensorflow().errors
        try:
            with blaming(own, self._root) if own else contextlib.nullcontext():
                return float(self._trained.train_on_batch(self._fed(x), y, return_dict=True)["loss"])
        except errors.ResourceExhaustedError as error:
            raise InfrastructureError(
                f"{self._label}: out of memory in a training step: {_first_line(error)}",
                next_step=f"Lower batch_size (it is {self._params.batch_size}).",
            ) from error
        except (ValueError, TypeError, errors.InvalidArgumentError) as error:
            given, labels = (
                ", ".join(f"{part.dtype}{list(part.shape)}" for part in parts)
                for parts in (inputs.split(x), objectives.arrays(y))
            )
            raise ModelError(
                f"{self._label}: a training step failed with loss {self._objective.text}, "
                f"inputs {given} and labels {labels}: {_first_line(error)}",
                next_step="See that labels and loss fit the model's output.",
            ) from error

    @staticmethod
    def _fed(x: NDArray[Any]) -> Any:
        """Samples as Keras takes them."""
        return one_or_list(inputs.split(x))

    def _validate(self, position: Position, *, patience: int) -> Position:
        some = np.random.default_rng([self._seed, 3]).permutation(self._split.train)[:_VALIDATION_BATCH_NORM_SAMPLES]
        batchnorm.reestimate(self._model, self._x[some], seed=self._seed)
        held = self._split.validation
        # In pieces, since a teacher's answers may be computed for each and take much memory.
        pieces = np.array_split(held, -(-len(held) // _VALIDATION_PIECE))
        loss = sum(self._loss_on(piece) * len(piece) for piece in pieces) / len(held)
        if position.best_loss is None or loss < position.best_loss:
            self._best = checkpoint.values(self._trained.variables)
            return replace(position, best_epoch=position.epochs_done, best_loss=loss)
        return replace(position, stopped=position.epochs_done - position.best_epoch >= patience)

    def _loss_on(self, indices: NDArray[np.int64]) -> float:
        found = self._trained.evaluate(
            self._fed(self._x[indices]),
            self._objective.targets(indices),
            batch_size=self._params.batch_size,
            verbose=0,
            return_dict=True,
        )
        return float(found["loss"])

    def _snapshot(self, position: Position) -> Snapshot:
        return Snapshot(
            position=position,
            model=checkpoint.values(self._trained.variables),
            optimizer=checkpoint.values(self._trained.optimizer.variables),
            best=self._best,
            companions=tuple(companion.state() for companion in self._companions),
        )

    def _forget_compilation(self) -> None:
        """Without this the optimizer's slots, twice the weights, would be saved with the model."""
        self._trained.optimizer = None
        self._trained.compiled = False
        self._trained.train_function = None
        self._trained.test_function = None

    def _notes(self, position: Position, resumed: int) -> tuple[str, ...]:
        went = f"{position.losses[0]:.4f} to {position.losses[-1]:.4f}"
        notes = [
            f"fine-tuned for {position.epochs_done} epochs of {self._steps} steps, loss {self._objective.text}: {went}",
            *self._objective.notes,
        ]
        if position.best_epoch:
            held = len(self._split.validation)
            notes.append(
                f"kept epoch {position.best_epoch}, validation loss {position.best_loss:.4f} on {held} samples"
            )
        if resumed:
            notes.append(f"resumed after epoch {resumed}")
        return tuple(notes)


def _objective(model: KerasModel, params: TrainingParams, train: SampleSet, context: Context, seed: int) -> Objective:
    """The loss on labels, or a lesson from the original model."""
    if params.distill is None:
        if train.y is None:
            raise InternalError("a training without labels and without a teacher was begun")
        return Labels(model, losses.choose_loss(model, params.loss, train.y, context.root))
    if context.original is None:
        raise InternalError("a distillation without a teacher was begun")
    # Several outputs and one array of labels: nobody says which belong together.
    labels = train.y if len(model.outputs) == 1 else None
    loss = None if labels is None else losses.choose_loss(model, params.loss, labels, context.root)
    return Lesson(
        model,
        context.original(),
        params.distill,
        train.x,
        loss,
        meaning=params.loss if loss is None else loss.name,
        seed=seed,
    )


def _reseed(model: KerasModel, seed: int) -> None:
    """Puts the generators of dropout and the like, whose state a loaded model draws at random, on the seed."""
    states = [v for v in model.variables if v.name == "seed_generator_state"]
    for i, state in enumerate(states):
        state.assign(np.array([seed % 2**32, i], dtype=np.uint32))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
