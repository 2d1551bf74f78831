"""The zeros that pruning made are still zeros in the file that is shipped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError


def assert_kernels_keep_zeros(
    pruned: Mapping[str, NDArray[Any]], shipped: Mapping[str, NDArray[Any]], *, artifact: str
) -> None:
    """Checks that every pruned kernel is in the artifact with all its zeros.

    A kernel is recognised by what matters: an artifact's kernel of the same size whose zeros, under some order of the
    axes, cover all of its zeros. Names and layouts differ by target (HWIO becomes OHWI in `.tflite`, OIHW in `.onnx`),
    and folded batch normalization scales the values; zeros survive both. Quantization adds zeros, so covering is the
    test, not equality.

    Args:
        pruned: kernels of the Keras model, in its layouts, by layer name; those without zeros are passed over.
        shipped: what `Target.kernels` read back from the file.
        artifact: what is checked, for the message.

    Raises:
        InternalError: a kernel is not there, or has lost zeros; names the layer, with both sparsities.
    """
    for name, kernel in pruned.items():
        zeros = kernel == 0
        if not zeros.any():
            continue
        same_size = {key: values == 0 for key, values in shipped.items() if values.size == kernel.size}
        if not any(_covers(theirs.ravel(), zeros) for theirs in same_size.values()):
            raise InternalError(_missing(name, zeros, same_size, artifact))


def _covers(theirs: NDArray[np.bool_], zeros: NDArray[np.bool_]) -> bool:
    """Compares flattened, which takes reshapes that merge or split neighbouring axes in its stride."""
    if np.count_nonzero(theirs) < np.count_nonzero(zeros):
        return False
    return any(bool(np.all(theirs[flat])) for flat in _layouts(zeros))


def _layouts(values: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The flattened array under every order of its axes longer than one."""
    squeezed = values.squeeze()
    for axes in itertools.permutations(range(squeezed.ndim)):
        yield squeezed.transpose(axes).ravel()


def _missing(name: str, zeros: NDArray[np.bool_], same_size: Mapping[str, NDArray[np.bool_]], artifact: str) -> str:
    if not same_size:
        return (
            f"{artifact}: no kernel of {zeros.size} weights, the size of the pruned '{name}', can be read back from it."
        )
    closest = min(same_size, key=lambda key: abs(float(same_size[key].mean()) - float(zeros.mean())))
    return (
        f"{artifact}: the zeros of '{name}' were lost: {zeros.mean():.2%} of its weights are zero in the model; the "
        f"closest kernel of its size, '{closest}', has {same_size[closest].mean():.2%}, and not in the same places."
    )
