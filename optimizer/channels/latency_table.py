"""The latency of layers by their widths, measured on a device and read from a file.

The file is JSON:

    {"format": "edgesmith latency table", "version": 1, "device": "raspberry-pi-4", "rest_ms": 0.02,
     "layers": [
       {"layer": "Conv2D 3x3 stride 1x1 @ 16x16", "step": 8,
        "inputs": [8, 16, 32], "outputs": [8, 16, 32],
        "latency_ms": [[0.05, 0.06, 0.09], [0.06, 0.08, 0.14], [0.10, 0.15, 0.27]]},
       {"layer": "DepthwiseConv2D 3x3 stride 1x1 @ 16x16", "step": 8,
        "inputs": [8, 16, 32], "latency_ms": [0.03, 0.04, 0.07]}]}

`layer` is what `layer_kind` says of a call: everything that its latency depends on but the widths. `latency_ms` has a
row for each input width and a column for each output width, both rising; a layer that makes as many channels as it
reads has one list. `step` is the block of channels that the kernel computes together: widths count up to the next
multiple of it, and latency is linear between the measured ones. `rest_ms` (0 where it is not there) is what the network
that the table was made for takes besides: calling it, sums and poolings between the layers. It may be negative: layers
that follow each other find their inputs in the caches. `measured` tells how the table came to be; nothing reads it.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import ConfigError, ModelError
from optimizer import cost

FORMAT, VERSION = "edgesmith latency table", 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One kind of layer.

    Attributes:
        layer: as `layer_kind`.
        step: channels that are computed together.
        inputs: measured input widths, rising.
        outputs: measured output widths, rising; None where there are as many as it reads.
        latency_ms: [inputs] or [inputs, outputs].
    """

    layer: str
    step: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] | None
    latency_ms: NDArray[np.float64]

    def at(self, inputs: int, outputs: int) -> float:
        """Latency in milliseconds at these widths.

        Narrower than measured takes as long as the narrowest that was.

        Raises:
            ModelError: wider than measured.
        """
        low, high, share = self._between(self.inputs, inputs)
        table = self.latency_ms[low] * (1.0 - share) + self.latency_ms[high] * share
        if self.outputs is None:
            return float(table)
        low, high, share = self._between(self.outputs, outputs)
        return float(table[low] * (1.0 - share) + table[high] * share)

    def _between(self, widths: tuple[int, ...], width: int) -> tuple[int, int, float]:
        """Places of the measured widths on both sides, and how far along."""
        full = -(-width // self.step) * self.step
        if full > widths[-1] and width > widths[-1]:
            raise ModelError(
                f"The latency table has {self.layer} up to {widths[-1]} channels, and the model has {width}.",
                next_step="Measure it up to the widths of the model.",
            )
        full = min(max(full, widths[0]), widths[-1])
        high = bisect.bisect_left(widths, full)
        if widths[high] == full:
            return high, high, 0.0
        return high - 1, high, (full - widths[high - 1]) / (widths[high] - widths[high - 1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyTable:
    """What was measured on one device.

    Attributes:
        device: its name.
        rows: by layer kind.
        rest_ms: what a network takes besides its layers, however wide they are.
    """

    device: str
    rows: Mapping[str, Row]
    rest_ms: float = 0.0


def read(path: Path) -> LatencyTable:
    """Reads a latency table.

    Raises:
        ConfigError: there is no such file, or it is no such table; says what is wrong in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The latency table {path} cannot be read: {error.strerror}.") from error
    try:
        return parse(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{path} is no latency table: {why}.", next_step="The format is in docs/compression.md."
        ) from error


def parse(document: Mapping[str, Any]) -> LatencyTable:
    """The table of a file's content.

    Raises:
        ValueError, TypeError, KeyError: it is no such table.
    """
    if (document["format"], document["version"]) != (FORMAT, VERSION):
        raise ValueError(f"it is not an {FORMAT} of version {VERSION}")
    rows = [_row(each) for each in document["layers"]]
    rest_ms = float(document.get("rest_ms", 0.0))
    if not math.isfinite(rest_ms):
        raise ValueError("rest_ms is no time")
    return LatencyTable(device=str(document["device"]), rows={row.layer: row for row in rows}, rest_ms=rest_ms)


def layer_kind(layer: Any, inputs: list[cost.Shape]) -> str | None:
    """What the latency of a call depends on besides its widths, in words; None for a layer that tables do not hold.

    Args:
        layer: a Keras layer.
        inputs: shapes of its tensors, batch axis included.
    """
    kind = type(layer).__name__
    if kind == "Dense":
        positions = [str(size) for size in inputs[0][1:-1]]
        return f"Dense @ {'x'.join(positions) or '1'}"
    if not hasattr(layer, "kernel_size") or getattr(layer, "data_format", "") == "channels_first":
        return None
    words = [kind, "x".join(map(str, layer.kernel_size)), f"stride {'x'.join(map(str, layer.strides))}"]
    if max(layer.dilation_rate) > 1:
        words.append(f"dilation {'x'.join(map(str, layer.dilation_rate))}")
    if getattr(layer, "depth_multiplier", None) not in (None, 1):
        words.append(f"times {layer.depth_multiplier}")
    if getattr(layer, "groups", 1) > 1:
        words.append("depthwise" if layer.groups == inputs[0][-1] else f"groups {layer.groups}")
    if layer.padding == "valid":
        words.append("valid")
    return f"{' '.join(words)} @ {'x'.join(str(size) for size in inputs[0][1:-1])}"


def _row(each: Mapping[str, Any]) -> Row:
    name = str(each["layer"])
    inputs = _widths(name, each["inputs"])
    outputs = None if each.get("outputs") is None else _widths(name, each["outputs"])
    latency = np.array(each["latency_ms"], np.float64)
    shape = (len(inputs),) if outputs is None else (len(inputs), len(outputs))
    if latency.shape != shape:
        raise ValueError(f"{name}: latency_ms is {list(latency.shape)}, and its widths make {list(shape)}")
    if not (np.isfinite(latency).all() and (latency >= 0).all()):
        raise ValueError(f"{name}: latency_ms holds a number that is no time")
    step = int(each.get("step", 1))
    if step < 1:
        raise ValueError(f"{name}: step is {step}")
    return Row(layer=name, step=step, inputs=inputs, outputs=outputs, latency_ms=latency)


def _widths(name: str, values: Any) -> tuple[int, ...]:
    widths = tuple(int(value) for value in values)
    if not widths or widths[0] < 1 or any(b <= a for a, b in itertools.pairwise(widths)):
        raise ValueError(f"{name}: widths have to rise: {list(widths)}")
    return widths
