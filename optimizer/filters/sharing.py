"""Keeps filters shared while a model trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError
from edgesmith.frameworks import import_keras
from optimizer.filters.bank import TransferredBank


class SharedFilters:
    """Puts kernels back to their banks after every training step.

    Which filter is which transform of which base stays as it was found, and so do scales; the bases learn. The step
    that the optimizer made is projected: each base moves by the mean of what its members, transformed back, moved by.
    That is training the bases by the mean of their members' gradients.

    Attributes:
        banks: by layer, as they are now.
    """

    def __init__(self, kernels: Mapping[str, Any], banks: Mapping[str, TransferredBank]) -> None:
        """Prepares.

        Args:
            kernels: Keras variables, by layer.
            banks: what each is to be.
        """
        self._kernels = dict(kernels)
        self.banks = dict(banks)

    def project(self) -> None:
        """Refits every bank to its kernel, and sets the kernel to it."""
        for layer, kernel in self._kernels.items():
            self.banks[layer] = self.banks[layer].fitted(np.asarray(kernel.numpy()))
            kernel.assign(self.banks[layer].expand())

    def check(self) -> None:
        """Asserts that every kernel is its bank, bit for bit.

        Raises:
            InternalError: names the layer where it is not.
        """
        for layer, kernel in self._kernels.items():
            if not np.array_equal(np.asarray(kernel.numpy()), self.banks[layer].expand()):
                raise InternalError(f"After transferred_filters, the filters of '{layer}' do not share their bases.")

    def callback(self) -> Any:
        """A `keras.callbacks.Callback` for `fit`."""
        base: Any = import_keras().callbacks.Callback
        shared = self

        class Sharing(base):  # type: ignore[misc]  # keras has no types
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                del batch, logs
                shared.project()

        return Sharing()

    def state(self) -> dict[str, NDArray[Any]]:
        """Who shares with whom; the bases are in the kernels."""
        state: dict[str, NDArray[Any]] = {}
        for index, bank in enumerate(self.banks.values()):
            state |= {f"{index}/members": bank.members, f"{index}/codes": bank.codes, f"{index}/scales": bank.scales}
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes back to what `state` gave."""
        for index, (layer, bank) in enumerate(list(self.banks.items())):
            restored = TransferredBank(
                bank.base, state[f"{index}/members"], state[f"{index}/codes"], state[f"{index}/scales"]
            )
            self.banks[layer] = restored.fitted(np.asarray(self._kernels[layer].numpy()))
