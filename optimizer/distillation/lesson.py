"""A training objective that a teacher's answers go into (`optimizer.objectives.Objective`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras
from edgesmith.progress import Progress
from optimizer import checkpoint, losses
from optimizer.base import KerasModel
from optimizer.distillation import answers
from optimizer.distillation.settings import Distill
from optimizer.distillation.taps import Tap, before_activation, listening, output_of
from optimizer.distillation.terms import Kind, feature_term, from_probabilities, output_term

_ACTIVATIONS = {Kind.SOFTMAX: "softmax", Kind.SIGMOID: "sigmoid"}


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """How to get at the logits or values of one output.

    Attributes:
        index: of the output.
        kind: of its numbers.
        tap: number of the tap that hears the logits; None = they are computed from the output itself.
        split: the output is a probability, and its logits are not to be had.
    """

    index: int
    kind: Kind
    tap: int | None
    split: bool

    def of(self, outputs: Sequence[Any], heard: Sequence[Any]) -> Any:
        if self.tap is not None:
            return heard[self.tap]
        return from_probabilities(self.kind, outputs[self.index]) if self.split else outputs[self.index]


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One of the two networks: its taps, and how its scores come out of them. Features are the last taps."""

    model: KerasModel
    taps: tuple[Tap, ...]
    scores: tuple[_Scores, ...]

    def read(self, outputs: Sequence[Any], heard: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Scores by output, and features."""
        count = sum(score.tap is not None for score in self.scores)
        return [score.of(outputs, heard) for score in self.scores], list(heard[count:])


class Lesson:
    """Learning from a teacher, with labels or without."""

    def __init__(
        self,
        student: KerasModel,
        teacher: KerasModel,
        settings: Distill,
        x: NDArray[Any],
        loss: losses.ChosenLoss | None,
        meaning: str,
        *,
        seed: int = 0,
        most_bytes: int = answers.MOST_KEPT_BYTES,
    ) -> None:
        """Fits the two together.

        Args:
            student: is trained.
            teacher: is not changed.
            settings: how.
            x: the training samples.
            loss: on labels; None where there are none, or none are wanted.
            meaning: name of a loss that tells what a linear output is: logits of classes, of yes or no, or values.
            seed: of the adapters.
            most_bytes: for keeping answers.

        Raises:
            ModelError: outputs or features do not fit each other; names them.
        """
        check_outputs(student, teacher)
        pairs = settings.pairs()
        kinds = [_kind(student, teacher, index, meaning) for index in range(len(student.outputs))]
        learned = [output_of(student, mine) for mine, _ in pairs]
        taught = [output_of(teacher, other) for _, other in pairs]
        self._settings = settings
        self._loss = loss
        self._alpha = settings.alpha if loss is not None else 1.0
        self._kinds = kinds
        self._student = _side(student, kinds, [tap for tap, _ in learned])
        self._teacher = _side(teacher, kinds, [tap for tap, _ in taught])
        self._answers = answers.Answers(teacher, self._teacher.taps, x, most_bytes)
        adapters = [
            _adapter(pair, mine, other, seed)
            for pair, (_, mine), (_, other) in zip(pairs, learned, taught, strict=True)
        ]
        self.trained = _trainee(student, self._student.taps, adapters, self._total)
        self.notes = self._notes(sum(adapter is not None for adapter in adapters))
        self.text = self._text()
        self.identity = ("distilled", self.text, checkpoint.digest(teacher))

    def prepare(self, progress: Progress, label: str) -> None:
        """See `Objective.prepare`: asks the teacher for all of its answers, where they fit into memory."""
        self._answers.keep(progress, label)

    def compile(self, optimizer: Any) -> None:
        """See `Objective.compile`."""
        self.trained.compile(optimizer=optimizer)
        optimizer.build(self.trained.trainable_variables)

    def targets(self, indices: NDArray[np.int64]) -> Any:
        """See `Objective.targets`."""
        known: dict[str, Any] = {"teacher": list(self._answers.of(indices))}
        return known if self._loss is None else {**known, "labels": self._loss.labels[indices]}

    def _total(self, targets: Any, outputs: Sequence[Any], heard: Sequence[Any], features: Sequence[Any]) -> Any:
        """The loss: alpha * the teacher's + (1 - alpha) * the labels'."""
        ops = import_keras().ops
        count = len(self._kinds)
        wanted, hints = self._teacher.read(targets["teacher"][:count], targets["teacher"][count:])
        given, _ = self._student.read(outputs, heard)
        terms = [
            output_term(kind, teacher, student, self._settings.temperature)
            for kind, teacher, student in zip(self._kinds, wanted, given, strict=True)
        ]
        total = sum(terms[1:], start=terms[0]) / len(terms)
        for hint, feature in zip(hints, features, strict=True):
            total += self._settings.feature_weight * feature_term(hint, feature)
        if self._loss is None or self._alpha == 1.0:
            return total
        labels = ops.mean(self._loss.function(targets["labels"], outputs[0]))
        return self._alpha * total + (1.0 - self._alpha) * labels

    def _text(self) -> str:
        kinds = dict.fromkeys(
            "mean squared error to the teacher's values" if kind is Kind.VALUES else "divergence from the teacher"
            for kind in self._kinds
        )
        teacher = f"{' and '.join(kinds)}, T {self._settings.temperature:g}"
        if self._loss is None or self._alpha == 1.0:
            return teacher
        return f"{self._alpha:g} * ({teacher}) + {1 - self._alpha:g} * {self._loss.text}"

    def _notes(self, adapters: int) -> tuple[str, ...]:
        notes = []
        if self._loss is None and self._settings.alpha < 1.0:
            notes.append("distilled without labels: the answers of the original model are all it learns from")
        for side, who in ((self._student, "this model"), (self._teacher, "the original model")):
            notes += [
                f"logits of output {score.index} of {who} are the logarithms of its probabilities: "
                "its last layer cannot be split"
                for score in side.scores
                if score.split
            ]
        if self._settings.features:
            beside = f", {adapters} of them through a trained 1x1 adapter that is then dropped" if adapters else ""
            notes.append(f"{len(self._settings.features)} features matched{beside}")
        return tuple(notes)


def check_outputs(student: KerasModel, teacher: KerasModel) -> None:
    """Refuses networks of which one cannot learn from the other.

    Raises:
        ModelError: other inputs or outputs.
    """
    mine = [tuple(tensor.shape[1:]) for tensor in student.outputs]
    other = [tuple(tensor.shape[1:]) for tensor in teacher.outputs]
    if mine != other:
        raise ModelError(
            f"Teacher and student give different outputs: the original {_shapes(other)}, this model {_shapes(mine)}.",
            next_step="Take a student with the outputs of the original model.",
        )
    takes = [[tuple(tensor.shape[1:]) for tensor in model.inputs] for model in (teacher, student)]
    if takes[0] != takes[1]:
        raise ModelError(
            f"Teacher and student take different inputs: the original {_shapes(takes[0])}, "
            f"this model {_shapes(takes[1])}.",
            next_step="Take a student with the inputs of the original model.",
        )


def _shapes(shapes: Sequence[tuple[int | None, ...]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


def _kind(student: KerasModel, teacher: KerasModel, index: int, meaning: str) -> Kind:
    """By the last activation of either; a linear output is what the loss on labels takes it for."""
    found = {losses.last_activation(model, index) for model in (teacher, student)}
    if found >= {"softmax", "sigmoid"}:
        return Kind.VALUES
    for kind, activation in _ACTIVATIONS.items():
        if activation in found:
            return kind
    if found == {"linear"}:
        if meaning in ("sparse_categorical_crossentropy", "categorical_crossentropy"):
            return Kind.SOFTMAX
        if meaning == "binary_crossentropy":
            return Kind.SIGMOID
    return Kind.VALUES


def _side(model: KerasModel, kinds: Sequence[Kind], features: Sequence[Tap]) -> _Side:
    taps: list[Tap] = []
    scores = []
    for index, kind in enumerate(kinds):
        probability = losses.last_activation(model, index) == _ACTIVATIONS.get(kind)
        tap = before_activation(model, index) if probability else None
        scores.append(_Scores(index, kind, None if tap is None else len(taps), probability and tap is None))
        if tap is not None:
            taps.append(tap)
    return _Side(model, (*taps, *features), tuple(scores))


def _adapter(pair: tuple[str, str], mine: tuple[int | None, ...], other: tuple[int | None, ...], seed: int) -> Any:
    """A linear map from the student's width to the teacher's; None where they are the same.

    Raises:
        ModelError: more than the width differs.
    """
    if mine == other:
        return None
    if not mine or not other or mine[:-1] != other[:-1] or mine[-1] is None or other[-1] is None:
        raise ModelError(
            f"Feature {pair[0]} of this model is {list(mine)}, and {pair[1]} of the original is {list(other)}: "
            "only their last axis, the width, may differ.",
            next_step="Name layers at the same place of both networks.",
        )
    keras = import_keras()
    start = keras.initializers.GlorotUniform(seed=seed)
    adapter = keras.layers.Dense(other[-1], use_bias=False, kernel_initializer=start)  # on the last axis: a 1x1 kernel
    adapter.build((None, *mine))
    return adapter


def _trainee(
    network: KerasModel, taps: Sequence[Tap], adapters: Sequence[Any], total: Callable[[Any, Any, Any, Any], Any]
) -> Any:
    """The student with its adapters, as one model whose loss is `total`."""
    keras = import_keras()

    class Trainee(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(name="trainee")
            self.network = network
            self.adapters = [adapter for adapter in adapters if adapter is not None]
            self.built = True  # the parts are

        def call(self, x: Any, training: bool | None = None) -> Any:
            with listening(taps) as heard:
                outputs = keras.tree.flatten(self.network(x, training=training))
            features = heard[len(heard) - len(adapters) :] if adapters else []
            fitted = [
                feature if adapter is None else adapter(feature)
                for feature, adapter in zip(features, adapters, strict=True)
            ]
            return {"outputs": outputs, "heard": heard, "features": fitted}

        def compute_loss(
            self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
        ) -> Any:
            del x, sample_weight, training
            loss = total(y, y_pred["outputs"], y_pred["heard"], y_pred["features"])
            return loss + sum(self.losses) if self.losses else loss

    return Trainee()
