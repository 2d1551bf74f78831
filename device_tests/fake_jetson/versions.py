"""The TensorRTs that Jetsons have: what their Python interface holds, what their parser reads, what came with them.

Attributes are data (`tensorrt_members`). Opsets: onnx-tensorrt, docs/operators.md of each branch: 13 up to 8.2, 17 up
to 8.6, 20 for 10.0 and 10.1, 24 for 10.15 and 11.2; for those between, the last one seen before.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from device_tests.fake_jetson.tensorrt_members import MEMBERS
from device_tests.fake_jetson.tensorrt_numbers import NUMBERS
from edgesmith.errors import ConfigError
from targets.jetpack import JetPack, of_l4t

MODULE = "tensorrt"
"""The name under which `attributes` lists the module itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One TensorRT.

    Attributes:
        key: the version whose attributes are recorded.
        text: its version on a board; differs from `key` where the board's build has no bindings to read off.
        max_opset: the newest ONNX operator set that its parser reads.
        qdq_inputs: how many its parser insists on for QuantizeLinear and DequantizeLinear.
        dla: it can use deep learning accelerators.
        l4t: of the first JetPack that has it; empty where none has.
        read_off: its attributes are those of NVIDIA's own bindings.
    """

    key: str
    text: str
    max_opset: int
    qdq_inputs: int = 2
    dla: bool = False
    l4t: str = ""
    read_off: bool = True

    @property
    def jetpack(self) -> JetPack | None:
        """That has it, with its CUDA and its Python."""
        return of_l4t(self.l4t) if self.l4t else None

    @property
    def needs_explicit_batch(self) -> bool:
        """Its parser refuses networks that were created without the flag."""
        return _numbers(self.key) < (10,)

    @property
    def weakly_typed(self) -> bool:
        """Its builder chooses precisions, among those that flags allow."""
        return "INT8" in attributes(self.key)["BuilderFlag"]


RELEASES: tuple[Release, ...] = (
    Release(key="8.0.1", text="8.0.1.6", max_opset=13, qdq_inputs=3, dla=True, l4t="32.6.1", read_off=False),
    Release(key="8.2.1", text="8.2.1.8", max_opset=13, qdq_inputs=3, dla=True, l4t="32.7.1", read_off=False),
    Release(key="8.4.1", text="8.4.1.5", max_opset=17, dla=True, l4t="35.1.0", read_off=False),
    Release(key="8.5.2", text="8.5.2.2", max_opset=17, dla=True, l4t="35.2.1", read_off=False),
    Release(key="8.6.1", text="8.6.2.3", max_opset=17, dla=True, l4t="36.3.0"),
    Release(key="10.3.0", text="10.3.0", max_opset=20, dla=True, l4t="36.4.0"),
    Release(key="10.13.3", text="10.13.3.9", max_opset=20, l4t="38.2.0"),
    Release(key="10.16.1", text="10.16.2.10", max_opset=24, l4t="39.2.0"),
    Release(key="11.0.0", text="11.0.0.114", max_opset=24),
    Release(key="11.4.0", text="11.4.0.106", max_opset=24, l4t="39.2.2"),
)

KEYS = tuple(release.key for release in RELEASES)


def find(version: str) -> Release:
    """The recorded release for a version such as "8.2", "8.2.1" or "10.16.2.10": the same in its first two numbers.

    Raises:
        ConfigError: none is recorded.
    """
    for release in RELEASES:
        if _numbers(release.key)[:2] == _numbers(version)[:2]:
            return release
    raise ConfigError(
        f"There is no fake TensorRT {version!r}: its attributes are not recorded.",
        next_step=f"Recorded are {', '.join(KEYS)}.",
    )


@functools.cache
def attributes(version: str) -> Mapping[str, frozenset[str]]:
    """Class, or "tensorrt", -> names it has in that version. A class that the version has not is not there."""
    key = find(version).key
    found = {owner: _of(spans, key) for owner, spans in MEMBERS.items()}
    return {owner: frozenset(text.split()) for owner, text in found.items() if text}


@functools.cache
def numbers(version: str) -> Mapping[str, Mapping[str, int]]:
    """Enumeration -> member -> number, in that version."""
    release = find(version)
    have = attributes(release.key)
    found: dict[str, dict[str, int]] = {}
    for owner in NUMBERS.keys() & have.keys():
        pairs = (item.split("=") for item in _of(NUMBERS[owner], release.key).split())
        found[owner] = {name: int(number) for name, number in pairs if name in have[owner]}
    return found


def _of(spans: Mapping[str, str], key: str) -> str:
    return " ".join(text for span, text in spans.items() if _covers(span, key))


def _covers(span: str, key: str) -> bool:
    first, last = span.split(" to ")
    return KEYS.index(first) <= KEYS.index(key) <= KEYS.index(last)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
