"""Four ways to bring a trained network to a new task, each within the same number of training FLOPs.

`filters` and `channels` make the network narrower first, so that each training step costs less and the budget pays for
more of them; `full` trains all of the network as it is; `last-layer` trains the head alone. All four begin and end
alike: batch-norm statistics of the new task, a head fitted on kept features, and statistics taken anew at the end. All
of that is paid out of the budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from calibration.samples import some
from edgesmith.errors import DataError, InternalError, ModelError
from edgesmith.types import SampleSet
from optimizer import batchnorm, rewrite
from optimizer.base import Context, KerasModel
from optimizer.finetune import TrainingParams, finetune, steps_per_epoch
from optimizer.transfer import head, narrow, probe
from optimizer.transfer.budget import Ledger, forward_flops, too_small, training_flops

Method = Literal["filters", "channels", "full", "last-layer"]
METHODS: Final[tuple[Method, ...]] = ("filters", "channels", "full", "last-layer")

# Shares of what is left at the time, and bounds: more gains nothing.
_STATISTICS_SHARE, _STATISTICS = 0.03, (32, 512)
_PROBE_SHARE = 0.2
_FEWEST_PROBED = 32
# In epochs of the network as it is. Below the first the head alone was best in a trial; the second is a guess.
_LITTLE, _MUCH = 0.25, 5.0
_KEEPS = (0.65, 0.75, 0.85, 0.95)
_BEFORE, _AFTER = "batch-norm statistics before training", "batch-norm statistics after training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a network is brought to a new task.

    Attributes:
        method: one of `METHODS`.
        train_flops: the most that may be spent.
        keep: share of the multiply-accumulates that `filters` and `channels` leave at most; None: by the budget.
        criterion: how channels are judged: by weights, or "taylor", by gradients on the new task.
        batch_size: samples in a training step.
        learning_rate: of Adam at the start; it falls to zero along a cosine over the steps that are paid for.
        seed: of all that is drawn.
    """

    method: Method = "filters"
    train_flops: float
    keep: float | None = None
    criterion: narrow.Criterion = "l1"
    batch_size: int = 16
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transferred:
    """What came of it.

    Attributes:
        model: for the new task.
        spent: FLOPs, by what they were spent on.
        keep: what was asked for of `filters` and `channels`; None for the others.
        steps: training steps of the whole network.
        notes: one sentence each.
    """

    model: KerasModel
    spent: dict[str, int]
    keep: float | None
    steps: int
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """FLOPs spent."""
        return sum(self.spent.values())


def transfer(backbone: KerasModel, classes: int, settings: Settings, context: Context) -> Transferred:
    """Brings a network to a new task.

    Args:
        backbone: trained on another task; stays as it is.
        classes: of the new one.
        settings: method and budget.
        context: with labelled training samples of the new task, classes from 0.

    Raises:
        ConfigError: the budget is too small for anything.
        DataError: no labelled samples, or labels that are no classes of this task.
        ModelError: no head that can be replaced, costs that cannot be counted, or channels that cannot go.
    """
    train = _labelled(context, classes)
    return _Transfer(backbone, classes, settings, context, train).run()


class _Transfer:
    def __init__(
        self, backbone: KerasModel, classes: int, settings: Settings, context: Context, train: SampleSet
    ) -> None:
        self._settings, self._context, self._train = settings, context, train
        headed = head.with_classes(backbone, classes, seed=settings.seed)
        self._model, self._head, self._classes = headed.model, headed.head, classes
        self._ledger = Ledger(settings.train_flops)
        self._notes = [headed.note, *_advice(headed.model, settings, len(train))]
        self._keep: float | None = None

    def run(self) -> Transferred:
        method = self._settings.method
        if method == "last-layer":
            self._statistics(_BEFORE)
            self._fit_head(share=1.0)
            return self._done(steps=0)
        if method == "full":
            self._begin()
        else:
            self._begin_narrow(method)
        return self._done(steps=self._fine_tune())

    def _done(self, *, steps: int) -> Transferred:
        spent, notes = dict(self._ledger.spent), tuple(self._notes)
        return Transferred(model=self._model, spent=spent, keep=self._keep, steps=steps, notes=notes)

    def _begin(self) -> None:
        """Statistics and a head for the new task."""
        self._statistics(_BEFORE)
        self._fit_head(share=_PROBE_SHARE)

    def _begin_narrow(self, scope: Literal["filters", "channels"]) -> None:
        by_gradients = self._settings.criterion == "taylor"
        if by_gradients:  # of a loss that means something: the head comes first
            self._begin()
        wanted = self._wanted(scope)
        self._keep = wanted.keep
        self._model, notes = narrow.narrowed(self._model, wanted, self._context, self._train, self._ledger)
        self._notes += notes
        if by_gradients:
            self._statistics(_BEFORE)
        else:
            self._begin()

    def _wanted(self, scope: Literal["filters", "channels"]) -> narrow.Wanted:
        """With the share to keep: as asked for, or the least of a few that the network allows."""
        asked = self._settings.keep
        tried = (asked,) if asked is not None else _KEEPS
        for keep in tried:
            wanted = narrow.Wanted(scope=scope, keep=keep, criterion=self._settings.criterion, seed=self._settings.seed)
            try:
                narrow.check(self._model, replace(wanted, criterion="l1"), self._context)
            except ModelError:
                if keep == tried[-1]:
                    raise
            else:
                return wanted
        raise InternalError("no share to keep was tried")

    def _statistics_samples(self) -> int:
        """How many samples batch-norm statistics are taken on: as many before training as after it."""
        if not any(type(layer).__name__ == "BatchNormalization" for layer in rewrite.layers(self._model).values()):
            return 0
        fewest, most = _STATISTICS
        affordable = int(self._settings.train_flops * _STATISTICS_SHARE) // forward_flops(self._model)
        return min(len(self._train), max(fewest, min(most, affordable)))

    def _statistics(self, what: str) -> None:
        """Batch-norm statistics of the new task."""
        if not (samples := self._statistics_samples()):
            return
        self._pay(what, samples, forward_flops(self._model))
        chosen = some(self._train, samples, self._settings.seed)
        batchnorm.reestimate(self._model, chosen.x, seed=self._settings.seed)

    def _fit_head(self, *, share: float) -> None:
        """The head by itself, on features that are computed once.

        Raises:
            ModelError: the method trains nothing else, and the features cannot be had.
        """
        if "/" in self._head and self._settings.method != "last-layer":
            self._notes.append(f"head {self._head} is inside a nested model: it starts at random")
            return
        features = head.features_of(self._model, self._head)
        width = int(features.outputs[0].shape[-1])
        each = forward_flops(features) + probe.flops(width, self._classes)
        samples = min(len(self._train), max(_FEWEST_PROBED, self._ledger.affords(each, share=share)))
        self._pay("features, and the head on them", samples, each)
        chosen = some(self._train, samples, self._settings.seed)
        probe.fit(head.layer(self._model, self._head), probe.outputs(features, chosen.x), np.asarray(chosen.y))
        self._notes.append(f"head fitted on the features of {samples:,} samples")

    def _pay(self, what: str, samples: int, each: int) -> None:
        """Enters samples at so many FLOPs each.

        Raises:
            ConfigError: that is more than is left.
        """
        if samples * each > self._ledger.left:
            raise too_small(self._settings.train_flops, what, self._ledger.total + samples * each)
        self._ledger.spend(what, samples * each)

    def _fine_tune(self) -> int:
        """Training steps, as many as are left; the statistics of what comes of it are set aside first."""
        settings, train = self._settings, self._train
        each, after = training_flops(self._model), self._statistics_samples() * forward_flops(self._model)
        batch = min(settings.batch_size, len(train))
        steps = max(self._ledger.left - after, 0) // (each * batch)
        if not steps:
            self._notes.append("nothing is left for training steps: the network has a new head and is not trained")
            return 0
        epochs, samples = schedule(steps, len(train), batch)
        params = TrainingParams(
            epochs=epochs, batch_size=batch, learning_rate=settings.learning_rate, seed=settings.seed
        )
        taken = epochs * steps_per_epoch(params, samples)
        self._ledger.spend("training steps", taken * batch * each)
        context = replace(self._context, train=some(train, samples, settings.seed), calibration=None)
        self._notes += finetune(self._model, params, context, label=f"transfer-{settings.method}").notes
        self._statistics(_AFTER)
        return taken


def schedule(steps: int, samples: int, batch: int) -> tuple[int, int]:
    """Whole epochs over as many samples as make at most so many steps.

    Args:
        steps: that are paid for; at least 1.
        samples: there are.
        batch: samples in a step, at most `samples`.

    Returns:
        Epochs, and samples in each.
    """
    epochs = -(-steps // (samples // batch))
    return epochs, batch * (steps // epochs)


def _advice(model: KerasModel, settings: Settings, samples: int) -> tuple[str, ...]:
    """What the budget comes to, and what else is worth a try."""
    epochs = settings.train_flops / (samples * training_flops(model))
    said = f"the budget pays for {epochs:.2g} epochs of the network as it is"
    if epochs < _LITTLE and settings.method != "last-layer":
        return (f"{said}: with so little, the method last-layer is worth a try",)
    if epochs > _MUCH and settings.method != "full":
        return (f"{said}: with so much, the method full is worth a try",)
    return (said,)


def _labelled(context: Context, classes: int) -> SampleSet:
    """The training samples.

    Raises:
        DataError: there are none, or their labels are no classes of the task.
    """
    train = context.train
    if train is None or train.y is None or not len(train):
        raise DataError("Transfer learns from labelled samples of the new task, and there are none.")
    if train.y.ndim != 1 or train.y.dtype.kind not in "iu":
        raise DataError(
            f"The labels are {train.y.dtype}{list(train.y.shape)}, and transfer is for classes: one whole number each."
        )
    low, high = int(train.y.min()), int(train.y.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"The labels run from {low} to {high}, and the task has {classes} classes.",
            next_step="Number the classes from 0, and give as many as there are.",
        )
    return train
