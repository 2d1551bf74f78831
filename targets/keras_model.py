"""Brings the live Keras 3 model back from the file that a `Model` names."""

from __future__ import annotations

import os
import sys
from typing import Any

from edgesmith.errors import ConfigError, ModelError
from edgesmith.types import Model, TensorSpec
from targets.native_log import captured


def import_keras() -> Any:
    """Imports Keras 3 on TensorFlow, quietly.

    Raises:
        ConfigError: another backend is already in use in this process.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with captured():
        import keras

    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"Keras runs on {keras.backend.backend()} in this process; edgesmith needs TensorFlow.",
            next_step="Set KERAS_BACKEND=tensorflow before the first `import keras`.",
        )
    return keras


def load(model: Model) -> Any:
    """The live, uncompiled Keras model.

    A Lambda layer is refused unless `keras.config.enable_unsafe_deserialization()` was called: loading the user's file
    decides that, not compiling.

    Raises:
        ModelError: the file is broken, or its inputs and outputs are not those of `model.signature`.
    """
    keras = import_keras()
    try:
        live = keras.saving.load_model(model.path, compile=False)
    except Exception as error:  # a broken file makes Keras raise anything: BadZipFile, KeyError, TypeError
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"{model.path}: Keras cannot load it: {why}",
            next_step="Save it again with `model.save('model.keras')` and check that the copy is complete.",
        ) from error
    for what, specs, tensors in (
        ("inputs", model.signature.inputs, live.inputs),
        ("outputs", model.signature.outputs, live.outputs),
    ):
        if [_facts(spec) for spec in specs] != [(tuple(t.shape)[1:], str(t.dtype)) for t in tensors]:
            raise ModelError(
                f"{model.path}: its {what} are {', '.join(f'{t.dtype}{list(t.shape)}' for t in tensors)}, "
                f"and {', '.join(map(str, specs)) or 'none'} was expected.",
                next_step="The file changed since it was read, or belongs to another model. Run again from the start.",
            )
    return live


def _facts(spec: TensorSpec) -> tuple[tuple[Any, ...], str]:
    return tuple(None if isinstance(d, str) else d for d in spec.shape[1:]), spec.dtype
