"""Latency tables: what is measured for them, what is made of it, and one from a fake board."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.fake_board import forget_boards
from edgesmith import latency_tables
from edgesmith.errors import DeadlineExceeded, ModelError
from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from edgesmith.types import Device
from optimizer import cost
from optimizer.channels import groups, latency_fit, latency_probe, latency_table
from optimizer.channels.latency_price import LatencyPrice


def network() -> Any:
    """Of every kind of layer that tables hold in another way."""
    keras = import_keras()
    layers = keras.layers
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(24, 3, groups=2, padding="same", name="grouped")(x)
    x = layers.Conv2D(48, 3, groups=24, padding="same", name="each")(x)
    x = layers.Conv2DTranspose(20, 2, strides=2, padding="same", name="up")(x)
    x = layers.SeparableConv2D(16, 3, padding="same", name="separable")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="head")(x))


def test_every_probe_is_its_kind_at_its_widths():
    found = {kind.name: kind for kind in latency_probe.kinds(network(), step=8, points=2)}

    assert [(kind.inputs, kind.outputs) for kind in found.values()] == [
        ((3,), (8, 16)),
        ((8, 16), None),
        ((12, 24), None),
        ((8, 48), None),
        ((8, 48), (8, 20)),
        ((8, 20), (8, 16)),
        ((8, 16), (8, 10)),
    ]
    for probe in itertools.chain.from_iterable(kind.probes() for kind in found.values()):
        ((layer, inputs, outputs),) = cost.calls(probe.network())
        kind, read, made = probe.place or ("", 0, 0)
        assert latency_table.layer_kind(layer, inputs) == kind
        assert outputs[0][-1] == made
        grouped = {"groups 2": made * 2 // 3, "depthwise": made // 2}
        assert inputs[0][-1] == next((width for word, width in grouped.items() if f" {word}" in kind), read)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ((64, 8, 4), (8, 24, 48, 64)),
        ((16, 8, 4), (8, 16)),
        ((10, 8, 2), (8, 10)),
        ((3, 8, 4), (3,)),
        ((40, 8, 2), (8, 40)),
    ],
)
def test_widths_to_measure(asked: tuple[int, int, int], chosen: tuple[int, ...]):
    assert latency_probe.widths(*asked) == chosen


def test_layers_take_what_their_networks_take_less_the_call():
    (kind,) = latency_probe.kinds(_dense(16), step=8, points=2)
    beside = latency_fit.overhead({8: 0.5 + 2 * 8 * 0.01, 16: 0.5 + 2 * 16 * 0.01})
    assert (beside.call_ms, beside.value_ms) == (pytest.approx(0.5), pytest.approx(0.01))

    taken = {
        p.name: beside.of(*latency_fit.values(p)) + 0.001 * p.place[1] * p.place[2] for p in kind.probes() if p.place
    }
    row = latency_fit.row(kind, taken, beside)

    assert row == {
        "layer": "Dense @ 1", "step": 8, "inputs": [8, 16], "outputs": [8, 16],
        "latency_ms": [[0.064, 0.128], [0.128, 0.256]],
    }  # fmt: skip
    noisy = latency_fit.rising(np.array([[1.0, 3.0, 2.0], [0.5, 4.0, 6.0]]))
    assert (np.diff(noisy, axis=0) >= 0).all()
    assert (np.diff(noisy, axis=1) >= 0).all()
    assert noisy[1, 2] == 6.0


def test_what_cannot_be_in_a_table():
    keras = import_keras()
    with pytest.raises(ModelError, match="no convolution, no dense layer"):
        latency_probe.kinds(keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]), step=8, points=2)
    with pytest.raises(ModelError, match="Layer wide: a dimension of its input is open"):
        latency_probe.kinds(
            keras.Sequential([keras.Input((None, 4)), keras.layers.Dense(8, name="wide")]), step=8, points=2
        )


def test_a_table_from_a_board_is_kept_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    forget_boards()
    script = tmp_path / "pi.yaml"
    script.write_text("latency: [{median_ms: 2}]\nfaults: [{at: window, after: 3, kind: lost, times: 1}]")
    board = Device(name="pi", transport="fake", script=script, reboot=("sudo", "reboot"))
    model = _dense(8)
    model.save(tmp_path / "model.keras")

    def make(seconds: float) -> latency_tables.MadeTable:
        settings = latency_tables.Settings(points=2, deadline_s=seconds)
        return latency_tables.make_table(
            tmp_path / "model.keras",
            board,
            tmp_path / "t.json",
            settings,
            runs_dir=tmp_path / "runs",
            progress=Silent(),
        )

    with pytest.raises(DeadlineExceeded, match="3 of 3 networks are left"):
        make(0.0)
    assert not (tmp_path / "t.json").exists()
    made, again = make(60.0), make(60.0)

    assert (made.measured, made.kept, again.measured, again.kept) == (3, 0, 0, 3)
    told = json.loads((tmp_path / "t.json").read_text())["measured"]
    assert (told["fake"], told["target"], told["scheme"], told["threads"]) == (True, "tflite", "int8", 1)
    assert told["network"]["model"] == "model.keras"
    table = latency_table.read(tmp_path / "t.json")
    channels = groups.find(model)
    whole = LatencyPrice(model, channels, table).total([len(group) for group in channels.groups])
    assert whole == pytest.approx(made.network_ms, abs=1e-5)  # the layers, and the rest
    assert table.rest_ms == pytest.approx(made.network_ms - made.layers_ms, abs=1e-5)


def _dense(width: int) -> Any:
    keras = import_keras()
    x = keras.Input((width,))
    return keras.Model(x, keras.layers.Dense(width)(keras.layers.Dense(width, name="hidden")(x)))
