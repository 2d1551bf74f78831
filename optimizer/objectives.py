"""What a training minimises: the loss on labels, or something around the model that a teacher's answers go into."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgesmith.progress import Progress
from optimizer.base import KerasModel
from optimizer.losses import ChosenLoss


class Objective(Protocol):
    """What the training loop needs to know of it.

    Attributes:
        trained: what is compiled and trained: the model itself, or one around it. Its variables are what a checkpoint
            holds.
        text: for people: "mse (linear output)".
        identity: joins the key of checkpoints.
        notes: one sentence each, for the report.
    """

    @property
    def trained(self) -> KerasModel: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def identity(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102

    def compile(self, optimizer: Any) -> None:
        """Prepares `trained`; builds the optimizer for it."""

    def prepare(self, progress: Progress, label: str) -> None:
        """Does what is done once, before the first epoch."""

    def targets(self, indices: NDArray[np.int64]) -> Any:
        """What `trained` is to be shown beside these samples: an array, or a dict of arrays and lists of them."""


class Labels:
    """The loss on labels."""

    def __init__(self, model: KerasModel, loss: ChosenLoss) -> None:
        self.trained = model
        self.text = loss.text
        self.identity: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._loss = loss

    def compile(self, optimizer: Any) -> None:
        """See `Objective.compile`."""
        self.trained.compile(optimizer=optimizer, loss=self._loss.function)
        optimizer.build(self.trained.trainable_variables)

    def prepare(self, progress: Progress, label: str) -> None:
        """See `Objective.prepare`: nothing."""

    def targets(self, indices: NDArray[np.int64]) -> Any:
        """See `Objective.targets`."""
        return self._loss.labels[indices]


def arrays(targets: Any) -> list[NDArray[Any]]:
    """The arrays of `Objective.targets`, in one list."""
    if isinstance(targets, dict):
        return [array for part in targets.values() for array in arrays(part)]
    if isinstance(targets, (list, tuple)):
        return [array for part in targets for array in arrays(part)]
    return [targets]
