"""Training of shared values, after each step of any optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras
from optimizer.clustering.shared import Clusters
from optimizer.kernels import Kernel

Assignments = Literal["trained", "fixed"]


class TrainedCentroids:
    """Holds weights to their shared values while those train.

    `fixed`: "Deep Compression" (Han, Mao & Dally, ICLR 2016, arXiv:1510.00149, section 3) gives a centroid the sum of
    its members' gradients. Here the optimizer steps as ever and the step is projected back: the centroid moves by the
    mean of its members' steps. For SGD that is the paper's rule with the sum divided by the number of members, so that
    one learning rate suits clusters of ten weights and of ten thousand (TF-MOT's `GradientAggregation.AVG`); and it
    needs no optimizer, layer or gradient of its own, so it goes with any model and any optimizer.

    `trained`: each weight keeps what its steps have added up to beside the shared value that the network computes with
    (a straight-through estimator, as in Courbariaux et al., "BinaryConnect", arXiv:1511.00363). After each step it goes
    to the nearest value, and the values to the means of their weights: a weight may come to share another value.

    Zeros stay zeros either way.

    Args:
        held: kernels and their clusters; the kernels hold their shared values.
        own: the weights from which those were made.
        assignments: as above.
    """

    def __init__(
        self, held: Sequence[tuple[Kernel, Clusters]], own: Sequence[NDArray[Any]], assignments: Assignments
    ) -> None:
        self._kernels = [kernel for kernel, _ in held]
        self._clusters = [clusters for _, clusters in held]
        self._trained = assignments == "trained"
        self._shared = [kernel.value() for kernel in self._kernels]
        self._own = [weights.astype(np.float64) for weights in own]

    @property
    def held(self) -> tuple[tuple[Kernel, Clusters], ...]:
        """The kernels and their clusters as they are now."""
        return tuple(zip(self._kernels, self._clusters, strict=True))

    def after_step(self) -> None:
        """Gives every cluster one value again."""
        for i, kernel in enumerate(self._kernels):
            stepped = kernel.value()
            if self._trained:
                self._own[i] += stepped - self._shared[i]
                self._clusters[i] = self._clusters[i].moved(self._own[i])
                stepped = self._own[i]
            self._shared[i] = self._clusters[i].projected(stepped)
            kernel.assign(self._shared[i])

    def callback(self) -> Any:
        """A `keras.callbacks.Callback` that projects after each step."""
        base: Any = import_keras().callbacks.Callback
        trained = self

        class Centroids(base):  # type: ignore[misc]  # keras has no types
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                del batch, logs
                trained.after_step()

        return Centroids()

    def state(self) -> dict[str, NDArray[Any]]:
        """What the weights have added up to, and which values they share."""
        state: dict[str, NDArray[Any]] = {}
        for i, clusters in enumerate(self._clusters):
            state |= {f"own/{i}": self._own[i].copy(), f"shared/{i}": self._shared[i]}
            state |= {f"labels/{i}": clusters.labels, f"centroids/{i}": clusters.centroids}
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes back to what `state` gave."""
        for i, clusters in enumerate(self._clusters):
            self._own[i], self._shared[i] = state[f"own/{i}"], state[f"shared/{i}"]
            labels, centroids = state[f"labels/{i}"], state[f"centroids/{i}"]
            self._clusters[i] = Clusters(labels=labels, books=clusters.books, zero=clusters.zero, centroids=centroids)
