"""What LiteRT's integer kernels ask for: which ops have one, its version, and whose scales have to agree.

Sources: the LiteRT 8-bit quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec), and
for versions `GetBuiltinOperatorVersion` in tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc: a runtime
refuses an op whose version is newer than its kernel, so a number too low hides that a runtime is too old.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgesmith.types import QuantParams

WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})
"""Ops with a constant kernel of one scale per output channel."""

WEIGHT, BIAS = 1, {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "TRANSPOSE_CONV": 3, "FULLY_CONNECTED": 2}
"""Positions of kernel and bias among the inputs."""

LAYOUT = frozenset({"RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS"})
"""Ops that change no value: rounding before and after one of them is the same."""

_MOVES = LAYOUT | {
    *("PAD", "PADV2", "MIRROR_PAD", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "UNPACK", "GATHER", "GATHER_ND"),
    *("TILE", "BROADCAST_TO", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"),
    *("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "REVERSE_V2", "MAX_POOL_2D", "AVERAGE_POOL_2D"),
}
MOVES = frozenset(_MOVES)
"""Ops of one data tensor whose output has the scale of that input."""

JOINS = frozenset({"CONCATENATION", "PACK", "MAXIMUM", "MINIMUM"})
"""Ops whose inputs and output all have one scale."""

CLAMPS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"})
"""Activations that only cut a range off: before them the grid of what comes out is enough."""

_FIXED: dict[str, dict[str, tuple[float, int]]] = {
    "SOFTMAX": {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
    "LOGISTIC": {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
    "TANH": {"int8": (1 / 128, 0), "int16": (1 / 32768, 0)},
    "L2_NORMALIZATION": {"int8": (1 / 128, 0)},
}

_VERSIONS: dict[str, tuple[int | None, int | None]] = {
    "ADD": (2, 3),
    "AVERAGE_POOL_2D": (2, 3),
    "BATCH_MATMUL": (2, 3),
    "BATCH_TO_SPACE_ND": (2, 4),
    "BROADCAST_TO": (3, 3),
    "CONCATENATION": (2, 3),
    "CONV_2D": (3, 4),
    "DEPTHWISE_CONV_2D": (3, 5),
    "DEPTH_TO_SPACE": (2, None),
    "DEQUANTIZE": (2, 3),
    "EXPAND_DIMS": (1, 1),
    "FULLY_CONNECTED": (4, 7),
    "GATHER": (2, 4),
    "GATHER_ND": (1, 3),
    "HARD_SWISH": (1, None),
    "L2_NORMALIZATION": (2, None),
    "LEAKY_RELU": (1, 2),
    "LOGISTIC": (2, 3),
    "MAXIMUM": (2, 4),
    "MAX_POOL_2D": (2, 3),
    "MEAN": (2, 3),
    "MINIMUM": (2, 4),
    "MIRROR_PAD": (2, 3),
    "MUL": (2, 4),
    "PACK": (2, 3),
    "PAD": (2, 3),
    "PADV2": (2, 3),
    "PRELU": (1, None),
    "QUANTIZE": (1, 2),
    "RELU": (2, 3),
    "RELU6": (2, 3),
    "RELU_0_TO_1": (1, None),
    "RELU_N1_TO_1": (1, None),
    "RESHAPE": (1, 1),
    "RESIZE_BILINEAR": (2, 4),
    "RESIZE_NEAREST_NEIGHBOR": (2, 4),
    "REVERSE_V2": (3, None),
    "SLICE": (2, 4),
    "SOFTMAX": (2, 3),
    "SPACE_TO_BATCH_ND": (2, 4),
    "SPACE_TO_DEPTH": (2, None),
    "SPLIT": (2, 4),
    "SPLIT_V": (2, None),
    "SQUEEZE": (1, 1),
    "STRIDED_SLICE": (2, 1),
    "SUB": (2, 5),
    "TANH": (2, 3),
    "TILE": (3, None),
    "TRANSPOSE": (2, 5),
    "TRANSPOSE_CONV": (2, 2),
    "UNPACK": (2, 4),
}
"""Kind -> lowest version with an int8 kernel, and with an int16 one; None: there is none."""

_INT4 = {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 7, "FULLY_CONNECTED": 10}
"""Ops that take 4-bit kernels beside int8 activations."""


def has_kernel(kind: str, dtype: str) -> bool:
    """Whether there is an integer kernel for activations of int8 or int16."""
    int8, int16 = _VERSIONS.get(kind, (None, None))
    return (int16 if dtype == "int16" else int8) is not None


def stores_int4(kind: str, dtype: str) -> bool:
    """Whether a kernel may be stored in 4 bits, for activations of int8 or int16."""
    return kind in _INT4 and dtype == "int8"


def version(kind: str, dtype: str, *, weights: str = "int8") -> int:
    """The version of an integer kernel, before what its options ask for.

    Args:
        kind: the op.
        dtype: of its activations.
        weights: of its constant kernel, "int4" or "int8".
    """
    int8, int16 = _VERSIONS[kind]
    found = (int16 if dtype == "int16" else int8) or 1  # `has_kernel` was asked before
    return max(found, _INT4[kind]) if weights == "int4" else found


def version_of_product(inputs: Sequence[QuantParams], output: QuantParams) -> int:
    """MUL of int8: kernels before version 3 cannot rescale by 1 or more."""
    gain = inputs[0].scale[0] * inputs[1].scale[0] / output.scale[0]
    return 3 if output.dtype == "int8" and gain >= 1.0 else 1


def fixed_output(kind: str, dtype: str) -> QuantParams | None:
    """The grid that a kernel's output must have; None where it is free."""
    if (found := _FIXED.get(kind, {}).get(dtype)) is None:
        return None
    scale, zero_point = found
    return QuantParams(
        scale=(float(np.float32(scale)),),
        zero_point=(zero_point,),
        axis=None,
        dtype="int16" if dtype == "int16" else "int8",
        symmetric=dtype == "int16",
    )
