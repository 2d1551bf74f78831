"""What the TensorRT of a board reads and computes, by its version and its GPU, as data.

Operator sets: docs/operators.md of onnx-tensorrt at the branch of each version. Weakly typed networks, in which the
builder chooses precisions by flags, are gone from 11 on (TensorRT 11 migration guide). LayerNormalization has an
importer since 8.6, HardSwish since 10. Transposed convolutions in int8 give wrong numbers in 8.0 to 8.2 and find no
kernel in 8.4 (NVIDIA/TensorRT issues 1694, 1699, 2280); later ones compute them. GPUs of compute capability 5.3 (Jetson
Nano, TX1) and 6.2 (TX2) do not multiply in int8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edgesmith.errors import ConfigError
from targets.base import RuntimeFacts

OLDEST_OPSET = 13
"""The first with one scale for each channel, and the newest that TensorRT 8.0 and 8.2 read."""

_WRONG_BEFORE_8_5 = "TensorRT before 8.5 computes transposed convolutions wrongly in int8, or not at all"

_SPARSE_SINCE = (8, 0)
"""Compute capability: Ampere, the first whose tensor cores pass over two zeros in four."""

_DLA_GAP = ((10, 8, 0), (11, 4, 1))
"""From the first on no version uses DLAs, until the second does again (release notes of 10.7 and 11.4.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What one board's TensorRT takes.

    Attributes:
        label: for people: "TensorRT 10.3.0".
        opset: the newest operator set that its parser reads.
        typed: every tensor is computed in the type that the file gives it; else flags say what the builder may use.
        lacks: ops of that operator set that its parser does not have, and that can be spelt in others.
        floats: kinds of ops that it does not compute rightly in int8, and why.
        weights: how quantized kernels are stored: "float" behind a QuantizeLinear, or as integers.
        compute: capability of its GPU; empty where it is not known.
        int8: its GPU multiplies in int8.
        sparse: its GPU is faster with two zeros in every four weights.
        dla: it can put layers on a deep learning accelerator, where the board has one.
        version_compatible: it can build engines that later versions run.
    """

    label: str
    opset: int
    typed: bool
    lacks: frozenset[str]
    floats: Mapping[str, str]
    weights: Literal["float", "int8"]
    compute: str
    int8: bool
    sparse: bool
    dla: bool
    version_compatible: bool


def reads(runtime: RuntimeFacts | None) -> Reads:
    """What a board takes; None: what most do, which is TensorRT 8.6 and 10.

    Raises:
        ConfigError: it is older than all that edgesmith writes for.
    """
    if runtime is None:
        return Reads(
            label="any TensorRT from 8.6 to 10",
            opset=17,
            typed=False,
            lacks=_lacks((8, 6)),
            floats={},
            weights="float",
            compute="",
            int8=True,
            sparse=False,
            dla=True,
            version_compatible=True,
        )
    version = _numbers(runtime.version)
    if version < (8, 0):
        raise ConfigError(
            f"TensorRT {runtime.version} is older than all that files are written for.",
            next_step="JetPack 4.6 brings TensorRT 8.",
        )
    return Reads(
        label=f"TensorRT {runtime.version}",
        opset=_opset(version),
        typed=version >= (11, 0),
        lacks=_lacks(version),
        floats={"ConvTranspose": _WRONG_BEFORE_8_5} if version < (8, 5) else {},
        weights="int8" if version >= (10, 0) else "float",
        compute=runtime.compute,
        int8=_multiplies_int8(runtime.compute),
        sparse=bool(runtime.compute) and _numbers(runtime.compute) >= _SPARSE_SINCE,
        dla=not _DLA_GAP[0] <= (*_parts(runtime.version), 0, 0)[:3] < _DLA_GAP[1],
        version_compatible=version >= (8, 6),
    )


def _opset(version: tuple[int, int]) -> int:
    if version < (8, 4):
        return OLDEST_OPSET
    return 17 if version < (10, 0) else 20


def _lacks(version: tuple[int, int]) -> frozenset[str]:
    return frozenset(op for op, since in (("LayerNormalization", (8, 6)), ("HardSwish", (10, 0))) if version < since)


def _multiplies_int8(compute: str) -> bool:
    """The instruction came with 6.1; 6.2 was designed without. Where nothing is known it is taken to be there."""
    return not compute or (_numbers(compute) >= (6, 1) and _numbers(compute) != (6, 2))


def _numbers(text: str) -> tuple[int, int]:
    """The first two numbers of a version."""
    first, second = (*_parts(text), 0, 0)[:2]
    return first, second


def _parts(text: str) -> Iterator[int]:
    return (int(part) for part in re.findall(r"\d+", text))
