"""Bridge, run as a process of its own: TF-MOT's prune_low_magnitude on a Keras 2 net, recorded after every step.

usage: tfmot_twin.py INPUT.npz OUTPUT.npz

INPUT holds `schedules` (JSON: name -> class and arguments, `wrapper` arguments and the `layers` to prune; none = all),
`batch_size`, `learning_rate`, `x{epoch}` and `y{epoch}` in the order to train in, and `weight/<layer>/<i>` to start
from. OUTPUT gets, under the schedule's name, the prunable kernels as the optimizer left them, `mask/<layer>/<step>` and
`weight/<layer>/<step>`, and `final/<layer>/<i>`. For the i-th of `masks` (JSON: `sparsity` and `wrapper` arguments) and
`kernel/<i>` it gets the `mask/<i>` that TF-MOT makes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def main(source: str, target: str) -> None:
    arrays = dict(np.load(source))
    recorded: dict[str, np.ndarray] = {}
    for name, schedule in json.loads(str(arrays["schedules"])).items():
        recorded |= {f"{name}/{key}": value for key, value in train(arrays, schedule).items()}
    for i, wanted in enumerate(json.loads(str(arrays["masks"]))):
        recorded[f"mask/{i}"] = mask(arrays[f"kernel/{i}"], wanted)
    np.savez(target, **recorded)


def train(arrays: dict[str, np.ndarray], wanted: dict[str, Any]) -> dict[str, np.ndarray]:
    import tf_keras
    import tensorflow_model_optimization as tfmot  # isort: skip  # it must find tf_keras loaded

    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(6, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.SeparableConv2D(8, 2, activation="relu", name="separable"),
            layers.Conv2DTranspose(4, 2, strides=2, activation="relu", name="transpose"),
            layers.Flatten(),
            layers.Dense(5, activation="softmax", name="dense"),
        ]
    )
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([arrays[f"weight/{layer.name}/{i}"] for i in range(len(layer.weights))])
    schedule = getattr(tfmot.sparsity.keras, wanted["class"])(**wanted["arguments"])

    class Policy:
        def ensure_model_supports_pruning(self, model: Any) -> None:
            assert model.built

        def allow_pruning(self, layer: Any) -> bool:
            return layer.name in wanted.get("layers", [layer.name])

    pruned = tfmot.sparsity.keras.prune_low_magnitude(
        model, pruning_schedule=schedule, pruning_policy=Policy(), **wanted.get("wrapper", {})
    )
    recorded: dict[str, np.ndarray] = {}

    class Recorder(tf_keras.callbacks.Callback):
        step = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.step += 1
            for wrapper in self.model.layers:
                for weight, mask, _ in getattr(wrapper, "pruning_vars", ()):
                    recorded[f"mask/{wrapper.layer.name}/{self.step}"] = mask.numpy()
                    recorded[f"weight/{wrapper.layer.name}/{self.step}"] = weight.numpy()

    callbacks = [tfmot.sparsity.keras.UpdatePruningStep(), Recorder()]
    optimizer = tf_keras.optimizers.SGD(float(arrays["learning_rate"]), momentum=0.9)
    pruned.compile(optimizer, "sparse_categorical_crossentropy")
    for epoch in range(sum(name.startswith("x") for name in arrays)):
        x, y, size = arrays[f"x{epoch}"], arrays[f"y{epoch}"], int(arrays["batch_size"])
        pruned.fit(x, y, batch_size=size, shuffle=False, verbose=0, callbacks=callbacks)
    for layer in tfmot.sparsity.keras.strip_pruning(pruned).layers:
        recorded |= {f"final/{layer.name}/{i}": weight for i, weight in enumerate(layer.get_weights())}
    return recorded


def mask(kernel: np.ndarray, wanted: dict[str, Any]) -> np.ndarray:
    import tf_keras  # noqa: F401  # TF-MOT must find it loaded
    import tensorflow_model_optimization as tfmot  # isort: skip
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl
    import tensorflow as tf  # isort: skip

    schedule = tfmot.sparsity.keras.ConstantSparsity(wanted["sparsity"], 0)
    arguments = {"block_size": (1, 1), "block_pooling_type": "AVG", **wanted["wrapper"]}
    pruning = pruning_impl.Pruning(lambda: tf.constant(1), [], schedule, **arguments)
    return pruning._maybe_update_block_mask(tf.constant(kernel))[1].numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])
