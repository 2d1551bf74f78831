"""Child: the same network in Keras 2, which TF-MOT works on, checked to answer the same.

    python peer_keras2.py JOB.json    # {"keras", "samples", "out": .h5, "result"}

Every layer is made anew from its configuration and gets its weights. Runs in TF-MOT's environment.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import keras
import numpy as np
import tf_keras

SAME = 1e-5
"""How far the answers may lie apart."""
_NOT_TAKEN = ("_initializer", "_regularizer", "_constraint")
"""Initial values are overwritten, and neither side trains with penalties."""


def _layer(layer: Any) -> Any:
    kind = getattr(tf_keras.layers, type(layer).__name__, None)
    if kind is None:
        sys.exit(f"{layer.name}: Keras 2 has no layer {type(layer).__name__}")
    known = {*inspect.signature(kind.__init__).parameters, "name", "trainable"} - {"self", "kwargs"}
    config = {key: value for key, value in layer.get_config().items() if key in known}
    return kind.from_config({key: value for key, value in config.items() if not key.endswith(_NOT_TAKEN)})


def twin(model: Any) -> Any:
    """The network in Keras 2.

    Args:
        model: functional or sequential, one input, one output, no layer called twice.
    """
    (source,) = model.inputs
    made = {id(source): tf_keras.Input(source.shape[1:], name=source.name)}
    pairs = []
    for operation in (model._functional if isinstance(model, keras.Sequential) else model).operations:  # noqa: SLF001
        if isinstance(operation, keras.layers.InputLayer):
            continue
        (node,) = operation._inbound_nodes  # noqa: SLF001
        taken = [made[id(tensor)] for tensor in node.input_tensors]
        layer = _layer(operation)
        made[id(node.outputs[0])] = layer(taken if len(taken) > 1 else taken[0])
        pairs.append((operation, layer))
    built = tf_keras.Model(made[id(source)], made[id(model.outputs[0])], name=model.name)
    for old, new in pairs:
        new.set_weights(old.get_weights())
    return built


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    x = np.load(job["samples"])
    model = keras.models.load_model(job["keras"], compile=False)
    made = twin(model)
    apart = float(np.abs(model.predict(x, verbose=0) - made.predict(x, verbose=0)).max())
    if not apart <= SAME:
        sys.exit(f"the twin in Keras 2 answers otherwise, by up to {apart:.2g}")
    made.save(job["out"])
    versions = {name: version(name) for name in ("keras", "tf_keras")}
    Path(job["result"]).write_text(json.dumps({"largest_difference": apart, "versions": versions}))


if __name__ == "__main__":
    main()
