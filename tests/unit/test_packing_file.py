"""A packed model is a real file: it gives the same model back, and nothing that was tampered with is opened."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edgesmith.cli import app
from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras
from optimizer.packing import container
from optimizer.packing.packed import load_packed, save_packed


def _convolutions() -> Any:
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Normalization(mean=[1, 2, 3], variance=[1, 2, 4])(image)
    x = layers.Conv2D(6, 3, name="conv")(x)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(4, 3)(x)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.Conv2DTranspose(3, 2)(x)
    return keras.Model(image, layers.Dense(5)(layers.Flatten()(x)))


def _adapted() -> Any:
    keras = import_keras()
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(size=(50, 4)))
    return keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(2)])


def _recurrent() -> Any:
    keras = import_keras()
    layers = keras.layers
    steps = keras.Input((6, 4))
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(steps)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    return keras.Model(steps, layers.GRU(4)(x))


def _nested_and_shared() -> Any:
    keras = import_keras()
    layers = keras.layers
    shared = layers.Dense(4, name="shared")
    vector = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.5)], name="inner")
    return keras.Model(vector, [shared(inner(shared(vector))), layers.Dense(2)(vector)])


def _embedded() -> Any:
    keras = import_keras()
    layers = keras.layers
    words = keras.Input((5,), dtype="int32")
    return keras.Model(words, layers.TimeDistributed(layers.Dense(3))(layers.Embedding(10, 4)(words)))


def _answers(model: Any) -> list[Any]:
    draw = np.random.default_rng(1)
    x = [draw.integers(0, 5, (2, *tensor.shape[1:])).astype(tensor.dtype) for tensor in model.inputs]
    found = model(x[0] if len(x) == 1 else x, training=False)
    return [np.asarray(t) for t in (found if isinstance(found, list | tuple) else [found])]


@pytest.mark.parametrize("build", [_convolutions, _adapted, _recurrent, _nested_and_shared, _embedded])
def test_the_same_model_comes_back(build: Callable[[], Any], tmp_path: Path):
    model = build()
    packed = save_packed(model, tmp_path / "net.esm")
    assert packed.size_bytes == (tmp_path / "net.esm").stat().st_size
    assert packed.float_bytes == sum(weight.numpy().nbytes for weight in model.weights)
    found = load_packed(packed.path)
    for ours, theirs in zip(found.weights, model.weights, strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    for ours, theirs in zip(_answers(found), _answers(model), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("packed") / "net.esm"
    save_packed(_adapted(), path)
    return path.read_bytes()


def _refusal(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "net.esm").write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_packed(tmp_path / "net.esm")
    assert str(error.value).startswith(f"{tmp_path / 'net.esm'}")
    return str(error.value).replace(str(tmp_path), "")


def test_every_cut_and_every_changed_byte_is_noticed(whole: bytes, tmp_path: Path):
    for end in range(0, len(whole), 13):
        assert "net.esm" in _refusal(tmp_path, whole[:end])
    for place in range(0, len(whole), 29):
        changed = bytearray(whole)
        changed[place] ^= 0x20
        assert "net.esm" in _refusal(tmp_path, bytes(changed))


def test_what_is_wrong_is_said(whole: bytes, tmp_path: Path):
    assert "no packed model" in _refusal(tmp_path, b"PK\x03\x04" + whole)
    assert "truncated after 20 bytes" in _refusal(tmp_path, whole[:20])
    assert f"has {len(whole) - 1} bytes, and {len(whole)}" in _refusal(tmp_path, whole[:-1])
    assert "version 9; this edgesmith reads version 1" in _refusal(tmp_path, whole[:8] + b"\x09\x00" + whole[10:])
    assert "checksum differs" in _refusal(tmp_path, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"cannot be read: No such file"):
        load_packed(tmp_path / "none.esm")


def _forged(whole: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """With another header, and a checksum that fits it."""
    _, version, packed, _, payload = struct.unpack("<8sHIIQ", whole[:26])
    header = json.loads(zlib.decompress(whole[26 : 26 + packed]))
    changed = change(header)
    plain = json.dumps(header if changed is None else changed).encode()
    deflated = zlib.compress(plain)
    content = struct.pack("<8sHIIQ", container.MAGIC, version, len(deflated), len(plain), payload)
    content += deflated + whole[26 + packed : -32]
    return content + hashlib.sha256(content).digest()


def _first(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: header["tensors"][0].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_first("bytes", 10**9), "longer than the file"),
        (_first("bytes", 1), "bytes belong to no tensor"),
        (_first("shape", [1 << 20, 1 << 19]), "contradicts itself"),
        (lambda h: h["tensors"][0].update(shape=[1 << 30], gap_bits=1, written=0, books=0, gaps=0), "unpacks to"),
        (_first("layer", 99), "not those of its layers"),
        (_first("layer", None), "no place of its own"),
        (lambda h: h["tensors"].append(7), "lists no tensors"),
        (lambda h: h.update(tensors=3), "lists no tensors"),
        (lambda h: h.update(model=None), "describes no model"),
        (lambda h: h["model"]["config"]["layers"][-1].update(module="os", class_name="system"), "system"),
        (lambda h: h["model"]["config"]["layers"][-1].update(module="keras.layers", class_name="Lambda"), "Lambda"),
        (lambda h: h["model"]["config"]["layers"][-1]["config"].update(units="many"), "cannot build the model"),
        (lambda h: h["model"]["config"]["layers"][-1]["config"].update(units=10**12), "not those of its layers"),
        (lambda _: [1, 2], "header of the packed model is damaged"),
    ],
)
def test_a_hostile_header_is_refused(
    whole: bytes, change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
):
    assert message in _refusal(tmp_path, _forged(whole, change))


def test_a_header_that_inflates_beyond_what_it_says_is_refused(whole: bytes, tmp_path: Path):
    bomb = zlib.compress(b" " * (50 << 20))
    for said in (1000, 1 << 30):
        content = struct.pack("<8sHIIQ", container.MAGIC, 1, len(bomb), said, 0) + bomb
        assert "header" in _refusal(tmp_path, content + hashlib.sha256(content).digest())


def test_pack_and_unpack_from_the_command_line(tmp_path: Path):
    model = _adapted()
    model.save(tmp_path / "net.keras")
    runner = CliRunner()
    done = runner.invoke(app, ["pack", str(tmp_path / "net.keras"), str(tmp_path / "net.esm"), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["packed_bytes"] == (tmp_path / "net.esm").stat().st_size
    assert said["file_bytes"] == (tmp_path / "net.keras").stat().st_size > said["gzip_bytes"]
    done = runner.invoke(app, ["unpack", str(tmp_path / "net.esm"), str(tmp_path / "back.keras")])
    assert done.exit_code == 0, done.output
    back = import_keras().saving.load_model(tmp_path / "back.keras", compile=False)
    for ours, theirs in zip(back.weights, model.weights, strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    done = runner.invoke(app, ["pack", str(tmp_path / "net.keras"), str(tmp_path / "net.esm")])
    assert "times less than the weights in float32" in done.output
