"""How many channels stay: by share, by budget, by a latency table; in the widths that are allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesmith.errors import ConfigError, ModelError
from edgesmith.frameworks import import_keras
from optimizer import cost
from optimizer.channels import groups, latency_table, scope, scores, select, surgery, widths
from optimizer.channels.groups import Channels
from optimizer.channels.latency_price import LatencyPrice
from optimizer.channels.price import Price
from tests import random_graphs

LOOSE = widths.WidthRules(round_to=1, min_channels=1, max_share=0.99)


def _resnet() -> Any:
    """A stem, two residual blocks with squeeze-and-excite in the second, a head."""
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(image)
    for block in ("one", "two"):
        y = layers.Conv2D(24, 3, padding="same", activation="relu", name=f"{block}_in")(x)
        if block == "two":
            gate = layers.Dense(4, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D()(y))
            gate = layers.Dense(24, activation="sigmoid", name="excite")(gate)
            y = layers.Multiply()([y, layers.Reshape((1, 1, 24))(gate)])
        x = layers.Add()([x, layers.Conv2D(16, 3, padding="same", name=f"{block}_out")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="head")(x))


def _levels(channels: Channels, rules: widths.WidthRules = LOOSE) -> dict[int, tuple[int, ...]]:
    return {i: widths.levels(channels, group, len(group), rules) for i, group in enumerate(channels.groups)}


def _names(channels: Channels, indices: Any) -> list[str]:
    return [channels.groups[index].name for index in indices]


def test_scopes():
    channels = groups.find(_resnet())

    everything = _names(channels, scope.within(channels, "channels"))
    inside = _names(channels, scope.within(channels, "filters"))

    assert sorted(everything) == ["one_in", "squeeze", "stem+one_out+two_out", "two_in+excite"]
    assert sorted(inside) == ["one_in", "squeeze", "two_in+excite"]


def test_patterns():
    channels = groups.find(_resnet())
    every = scope.within(channels, "channels")
    inside = scope.within(channels, "filters")

    assert _names(channels, scope.select(channels, every, ["*_in"], ["two*"])) == ["one_in"]
    everything_inside = _names(channels, scope.select(channels, inside, [], ["stem", "head"]))
    assert sorted(everything_inside) == ["one_in", "squeeze", "two_in+excite"]
    with pytest.raises(ModelError, match="'tow' matches no layer that makes channels") as unknown:
        scope.select(channels, every, ["tow"], [])
    assert "one_in" in unknown.value.next_step
    with pytest.raises(ModelError, match=r"'head' names channels that have to stay: head \(Dense\) has .* softmax"):
        scope.select(channels, every, ["head"], [])
    with pytest.raises(ModelError, match="'stem' names channels that run between blocks"):
        scope.select(channels, inside, ["stem"], [])
    with pytest.raises(ModelError, match="leave no channels"):
        scope.select(channels, every, ["one_in"], ["one*"])


def test_widths_are_rounded_and_never_zero():
    channels = groups.find(_resnet())
    one = next(group for group in channels.groups if group.name == "one_in")

    assert widths.levels(channels, one, 24, widths.WidthRules()) == (24, 16, 8)
    assert widths.levels(channels, one, 24, widths.WidthRules(round_to=8, min_channels=9)) == (24, 16)
    assert widths.levels(channels, one, 30, widths.WidthRules(round_to=10, min_channels=1, max_share=0.6)) == (24, 20)
    assert widths.nearest((24, 16, 8), 12) == 16
    assert widths.nearest((24, 16, 8), 11.9) == 8


def test_units_of_several_channels_are_rounded_together():
    """A unit of a convolution with three groups is three channels; a head of attention is as wide as it is."""
    keras = import_keras()
    layers = keras.layers
    x = keras.Input((6, 6, 3))
    y = layers.Conv2D(24, 3, groups=3, name="grouped")(layers.Conv2D(6, 1)(x))
    y = layers.Conv2D(36, 1, groups=3, name="next")(y)
    y = layers.Reshape((16, 36))(y)
    y = layers.Dense(8, name="tokens")(y)
    y = layers.MultiHeadAttention(4, 4, name="attention")(y, y)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(y)))
    channels = groups.find(model)
    rules = widths.WidthRules(round_to=6, min_channels=6)

    grouped = next(group for group in channels.groups if group.name == "grouped")
    heads = next(g for g in channels.groups if g.parts[0].touch.weight == "_query_dense.kernel" and len(g) == 4)

    assert widths.levels(channels, grouped, 8, rules) == (8, 6, 4, 2)
    assert widths.levels(channels, heads, 4, widths.WidthRules(round_to=8, min_channels=4)) == (4, 2)


def test_shares():
    channels = groups.find(_resnet())
    index = next(i for i, group in enumerate(channels.groups) if group.name == "one_in")

    kept = select.by_share(channels, _levels(channels), {index: 0.25}, [len(group) for group in channels.groups])

    assert kept[index] == 18
    assert [k for i, k in enumerate(kept) if i != index] == [
        len(g) for i, g in enumerate(channels.groups) if i != index
    ]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), keep=st.floats(0.3, 0.95), kind=st.sampled_from(["macs", "parameters"]))
def test_a_budget_is_met_and_no_group_emptied(seed: int, keep: float, kind: Any):
    model = random_graphs.network(seed)
    channels = groups.find(model)
    price = Price(model, channels, kind)
    whole = price.total([len(group) for group in channels.groups])
    judged = scores.random(channels, seed)
    try:
        kept = select.by_budget(channels, _levels(channels), judged, price, keep * whole)
    except ModelError:
        assert price.total(select.narrowest(channels, _levels(channels))) > keep * whole
        return

    narrow = surgery.without(model, channels, select.gone(channels, judged, kept))

    count = cost.count_macs(narrow) if kind == "macs" else cost.parameters(narrow)
    assert count == price.total(kept) <= keep * whole
    assert all(1 <= k <= len(group) for k, group in zip(kept, channels.groups, strict=True))


def test_the_budget_goes_to_what_costs_most_for_what_it_says():
    """Two groups of equal scores: the one whose channels cost more goes first."""
    keras = import_keras()
    x = keras.Input((100,))
    y = keras.layers.Dense(8, use_bias=False, name="dear")(x)
    y = keras.layers.Dense(8, use_bias=False, name="cheap")(y)
    model = keras.Model(x, keras.layers.Dense(1, use_bias=False)(y))
    channels = groups.find(model)
    price = Price(model, channels, "macs")
    judged = {index: np.ones(8) for index in (0, 1)}

    kept = select.by_budget(channels, _levels(channels), judged, price, 800.0)

    # 100 d + d c + c, from 872: a unit of "dear" saves 108, one of "cheap" 9.
    assert dict(zip(_names(channels, (0, 1)), kept, strict=True)) == {"dear": 7, "cheap": 8}
    assert price.total(kept) == 7 * 100 + 7 * 8 + 8
    with pytest.raises(ModelError, match="The budget of 50 is not met"):
        select.by_budget(channels, _levels(channels), judged, price, 50.0)


TABLE = {
    "format": latency_table.FORMAT,
    "version": 1,
    "device": "board",
    "layers": [
        {
            "layer": "Dense @ 1", "step": 8, "inputs": [8, 16, 32], "outputs": [8, 32],
            "latency_ms": [[1.0, 2.0], [2.0, 4.0], [3.0, 8.0]],
        },
        {"layer": "DepthwiseConv2D 3x3 stride 1x1 @ 8x8", "inputs": [1, 64], "latency_ms": [0.0, 63.0]},
    ],
}  # fmt: skip


def _table(folder: Path, document: object) -> Path:
    path = folder / "table.json"
    path.write_text(json.dumps(document))
    return path


def test_latency_between_and_on_the_stairs(tmp_path: Path):
    table = latency_table.read(_table(tmp_path, TABLE))
    dense, depthwise = table.rows["Dense @ 1"], table.rows["DepthwiseConv2D 3x3 stride 1x1 @ 8x8"]

    assert dense.at(16, 32) == 4.0
    assert dense.at(9, 25) == 4.0  # both count up to the next multiple of 8
    assert dense.at(24, 8) == 2.5
    assert dense.at(1, 1) == 1.0  # no faster than the narrowest that was measured
    assert dense.at(16, 16) == pytest.approx(2.0 + 2.0 / 3.0)
    assert depthwise.at(11, 11) == 10.0
    with pytest.raises(ModelError, match="has Dense @ 1 up to 32 channels, and the model has 33"):
        dense.at(33, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "it is not an edgesmith latency table of version 1"),
        ({"layers": [{"layer": "Dense @ 1", "inputs": [8]}]}, "'latency_ms' is missing"),
        ({"layers": [{"layer": "d", "inputs": [8, 8], "latency_ms": [1, 1]}]}, "widths have to rise"),
        ({"layers": [{"layer": "d", "inputs": [8], "latency_ms": [[1]]}]}, r"latency_ms is \[1, 1\]"),
        ({"layers": [{"layer": "d", "inputs": [8], "latency_ms": [-1]}]}, "a number that is no time"),
        ({"layers": [{"layer": "d", "step": 0, "inputs": [8], "latency_ms": [1]}]}, "step is 0"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, change: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        latency_table.read(_table(tmp_path, {**TABLE, **change}))


def test_a_table_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        latency_table.read(tmp_path / "none.json")


def test_what_a_latency_depends_on():
    layers = import_keras().layers
    shape = [(None, 8, 6, 12)]
    kinds = [
        (layers.Conv2D(4, 3, strides=2, padding="same"), "Conv2D 3x3 stride 2x2 @ 8x6"),
        (layers.Conv2D(4, 3, dilation_rate=2), "Conv2D 3x3 stride 1x1 dilation 2x2 valid @ 8x6"),
        (layers.Conv2D(24, 1, groups=3, padding="same"), "Conv2D 1x1 stride 1x1 groups 3 @ 8x6"),
        (layers.Conv2D(24, 3, groups=12, padding="same"), "Conv2D 3x3 stride 1x1 depthwise @ 8x6"),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), "DepthwiseConv2D 3x3 stride 1x1 times 2 @ 8x6"),
        (layers.Dense(3), "Dense @ 8x6"),
        (layers.ReLU(), None),
        (layers.MaxPooling2D(), None),
    ]
    assert [latency_table.layer_kind(layer, shape) for layer, _ in kinds] == [kind for _, kind in kinds]


def test_a_latency_budget_steps_over_plateaus(tmp_path: Path):
    keras = import_keras()
    x = keras.Input((16,))
    y = keras.layers.Dense(32, name="hidden")(x)
    model = keras.Model(x, keras.layers.Dense(8, name="out")(y))
    channels = groups.find(model)
    price = LatencyPrice(model, channels, latency_table.read(_table(tmp_path, TABLE)))
    assert price.total([32]) == 4.0 + 3.0
    assert price.saved([32], 0, 7) == 0.0
    assert price.saved([32], 0, 8) == pytest.approx(7.0 - price.total([24]))

    kept = select.by_budget(channels, _levels(channels), {0: np.ones(32)}, price, 6.0)

    assert kept == [24]


def test_a_table_that_lacks_layers_of_the_model(tmp_path: Path):
    model = _resnet()
    with pytest.raises(ModelError, match=r"lacks 1 kinds of layers.*: Conv2D 3x3 stride 1x1 @ 8x8 \(24 to 24 "):
        LatencyPrice(model, groups.find(model), latency_table.read(_table(tmp_path, TABLE)))
