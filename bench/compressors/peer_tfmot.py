"""Child: TF-MOT's own pipelines, as its guides chain them, and the LiteRT converter's int8 behind.

    python peer_tfmot.py JOB.json    # {"keras2", "train", "samples", "out", "result", "prune", "cluster", "quantize"}

A stage is an object of settings, or null: not taken. Optimizer, batch and cosine-shaped rate are those of our own
trainings. Runs in TF-MOT's environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tf_keras

import tensorflow_model_optimization as tfmot  # isort: skip  # it must find tf_keras loaded
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster  # isort: skip

SEED = 0
FREQUENCY = 20
"""Steps from mask to mask."""


class Trainer:
    """Trains on the same samples for as long as it is told to."""

    def __init__(self, train: Path, batch: int) -> None:
        with np.load(train) as file:
            self._x, self._y = file["x"], file["y"]
        self._batch = batch

    def steps(self, epochs: int) -> int:
        """In so many epochs."""
        return epochs * (len(self._x) // self._batch)

    def fit(self, model: Any, epochs: int, rate: float, callbacks: Sequence[Any] = ()) -> None:
        """With labels; the rate falls to zero along a cosine."""
        cosine = tf_keras.optimizers.schedules.CosineDecay(rate, self.steps(epochs))
        # Its wrappers know the older optimizers only in part.
        model.compile(tf_keras.optimizers.legacy.Adam(cosine), "sparse_categorical_crossentropy")
        whole = self.steps(1) * self._batch
        draw = np.random.default_rng(SEED)
        for epoch in range(epochs):
            rows = draw.permutation(len(self._x))[:whole]
            model.fit(
                self._x[rows],
                self._y[rows],
                batch_size=self._batch,
                initial_epoch=epoch,
                epochs=epoch + 1,
                shuffle=False,
                verbose=2,
                callbacks=list(callbacks),
            )


def prune(model: Any, how: dict[str, Any], trainer: Trainer) -> Any:
    """Polynomial decay over the first half of the epochs; the rest is for recovery."""
    end = max(trainer.steps(how["epochs"]) // 2 // FREQUENCY, 1) * FREQUENCY
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        how["initial_sparsity"], how["final_sparsity"], 0, end, frequency=FREQUENCY
    )
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
    trainer.fit(wrapped, how["epochs"], how["learning_rate"], [tfmot.sparsity.keras.UpdatePruningStep()])
    return tfmot.sparsity.keras.strip_pruning(wrapped)


def share(model: Any, how: dict[str, Any], trainer: Trainer) -> Any:
    """Clustering that keeps zeros."""
    wrapped = cluster.cluster_weights(
        model,
        number_of_clusters=how["clusters"],
        cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=True,
    )
    trainer.fit(wrapped, how["epochs"], how["learning_rate"])
    return tfmot.clustering.keras.strip_clustering(wrapped)


def quantization_aware(model: Any, how: dict[str, Any], trainer: Trainer) -> Any:
    wrapped = tfmot.quantization.keras.quantize_model(model)
    trainer.fit(wrapped, how["epochs"], how["learning_rate"])
    return wrapped


def converted(model: Any, x: np.ndarray | None) -> bytes:
    """int8 throughout; with ranges from the samples, or those that the network was trained with."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if x is not None:
        converter.representative_dataset = lambda: ([row[None]] for row in x)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def kernels(model: Any) -> dict[str, Any]:
    """How many zeros and different values the kernels have."""
    weights = [weight.numpy() for weight in model.trainable_variables if len(weight.shape) > 1]
    zeros, total = sum(int((one == 0).sum()) for one in weights), sum(one.size for one in weights)
    return {"sparsity": round(zeros / total, 4), "most_values": max(len(np.unique(one)) for one in weights)}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    tf_keras.utils.set_random_seed(SEED)
    model = tf_keras.models.load_model(job["keras2"], compile=False)
    trainer = Trainer(Path(job["train"]), job["batch"])
    samples = np.load(job["samples"])
    start, busy = time.perf_counter(), time.process_time()
    facts: dict[str, Any] = {}
    if job["prune"]:
        model = prune(model, job["prune"], trainer)
        facts["pruned"] = kernels(model)
    if job["cluster"]:
        model = share(model, job["cluster"], trainer)
        facts["clustered"] = kernels(model)
    if job["quantize"]:
        model = quantization_aware(model, job["quantize"], trainer)
    content = converted(model, None if job["quantize"] else samples)
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - busy}
    Path(job["out"]).write_bytes(content)
    versions = {name: version(name) for name in ("tensorflow", "tensorflow-model-optimization", "tf_keras")}
    Path(job["result"]).write_text(json.dumps({"seconds": seconds, "versions": versions, "facts": facts}))


if __name__ == "__main__":
    main()
