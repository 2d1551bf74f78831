"""Brings the live Keras 3 model back from the file that a `Model` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.types import Model, TensorSpec


def load(model: Model) -> Any:
    """The live, uncompiled Keras model.

    Raises:
        ModelError: the file is broken, or its inputs and outputs are not those of `model.signature`.
    """
    keras = import_keras()
    try:
        with third_party_warnings():
            live = keras.saving.load_model(model.path, compile=False, safe_mode=not model.lambdas)
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


def one_or_list(tensors: Sequence[Any]) -> Any:
    """As a functional Keras model takes its inputs: one bare, several as a list."""
    return tensors[0] if len(tensors) == 1 else list(tensors)


def _facts(spec: TensorSpec) -> tuple[tuple[Any, ...], str]:
    return tuple(None if isinstance(d, str) else d for d in spec.shape[1:]), spec.dtype
