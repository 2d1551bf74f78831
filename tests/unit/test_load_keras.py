"""Keras files in, one Keras 3 model out; everything else refused by name, and no code of a file run."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras, import_tensorflow, import_tf_keras
from edgesmith.types import TensorSpec
from optimizer import keras_config, load

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
]

X = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


def _net(k: Any) -> Any:
    ly = k.layers
    x = k.Input((8, 8, 3), name="image")
    y = ly.BatchNormalization(name="bn")(ly.DepthwiseConv2D(3, name="dw")(ly.Conv2D(4, 3, name="conv")(x)))
    y = ly.GlobalAveragePooling2D(name="pool")(ly.ReLU(name="relu")(y))
    return k.Model(x, ly.Dense(3, "softmax", name="probabilities")(y), name="net")


def _save(k: Any, model: Any, path: Path) -> Path:
    model.save(path)
    return path


def _refusal(path: Path, tmp_path: Path, **settings: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load.load_model(path, workdir=tmp_path / "work", **settings)
    assert caught.value.next_step, "a refusal says what to do"
    kept = list((tmp_path / "work").glob("*")) if (tmp_path / "work").exists() else []
    assert not kept, "a refused model leaves nothing behind"
    return str(caught.value)


CASES = [
    (import_keras, "m.keras", "Keras 3 .keras"),
    (import_keras, "m.h5", "Keras 3 .h5"),
    (import_tf_keras, "m.keras", "Keras 2 .keras"),
    (import_tf_keras, "m.h5", "Keras 2 .h5"),
    (import_tf_keras, "folder", "Keras 2 SavedModel"),
]


@pytest.mark.parametrize(("package", "name", "label"), CASES, ids=[case[2] for case in CASES])
def test_all_routes_give_the_same_keras_3_model(package: Callable[[], Any], name: str, label: str, tmp_path: Path):
    k = package()
    original = _net(k)
    path = _save(k, original, tmp_path / name)

    model = load.load_model(path, workdir=tmp_path / "work")

    assert model.kind == "keras"
    assert model.origin == f"{label} {path}"
    assert model.path.parent == tmp_path / "work"
    assert model.path.suffix == ".keras"
    assert model.signature.inputs == (TensorSpec(name="image", shape=(None, 8, 8, 3), dtype="float32"),)
    assert model.signature.outputs == (TensorSpec(name="probabilities", shape=(None, 3), dtype="float32"),)
    assert model.parameters == (3 * 3 * 3 * 4 + 4) + (3 * 3 * 4 + 4) + 4 * 4 + (4 * 3 + 3)
    assert model.macs == 36 * 27 * 4 + 16 * 9 * 4 + 12
    opened = load.open_keras(model)
    assert isinstance(opened, import_keras().Model)
    np.testing.assert_allclose(opened(X, training=False), original(X, training=False), atol=1e-6)


def test_the_format_is_known_by_content_not_by_name(tmp_path: Path):
    keras = import_keras()
    path = _save(keras, _net(keras), tmp_path / "m.keras").rename(tmp_path / "model.final-v2")

    assert load.load_model(path, workdir=tmp_path / "work").origin.startswith("Keras 3 .keras")


def test_a_second_load_of_the_same_content_imports_no_framework(tmp_path: Path):
    keras = import_keras()
    path = _save(keras, _net(keras), tmp_path / "m.keras")
    first = load.load_model(path, workdir=tmp_path / "work")
    copy = tmp_path / "renamed.keras"
    copy.write_bytes(path.read_bytes())
    program = (
        "import sys, pathlib; from optimizer.load import load_model\n"
        f"model = load_model(pathlib.Path({str(copy)!r}), workdir=pathlib.Path({str(tmp_path / 'work')!r}))\n"
        "heavy = {'tensorflow', 'keras', 'tf_keras', 'onnx', 'onnxruntime', 'h5py', 'numpy'} & set(sys.modules)\n"
        "print(model.sha256, model.macs, model.origin, sorted(heavy))"
    )
    root = Path(load.__file__).parent.parent

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.strip() == f"{first.sha256} {first.macs} Keras 3 .keras {copy} []"


def test_a_damaged_normalised_file_or_an_older_record_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keras = import_keras()
    path = _save(keras, _net(keras), tmp_path / "m.keras")
    model = load.load_model(path, workdir=tmp_path / "work")
    model.path.write_bytes(b"torn")

    again = load.load_model(path, workdir=tmp_path / "work")

    assert again == model
    load.open_keras(again)
    monkeypatch.setattr(load, "LOADER_VERSION", load.LOADER_VERSION + 1)
    again.path.write_bytes(b"of another version")
    load.open_keras(load.load_model(path, workdir=tmp_path / "work"))


def test_a_sequential_and_named_inputs_become_flat_functional_models(tmp_path: Path):
    keras = import_keras()
    ly = keras.layers
    sequential = keras.Sequential([keras.Input((4,), name="in"), ly.Dense(2, name="out")])
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    mapped = keras.Model({"b": b, "a": a}, {"sum": ly.Add(name="sum")([a, b]), "max": ly.Maximum(name="max")([a, b])})

    first = load.open_keras(load.load_model(_save(keras, sequential, tmp_path / "s.keras"), workdir=tmp_path / "w"))
    second = load.load_model(_save(keras, mapped, tmp_path / "d.keras"), workdir=tmp_path / "w")

    assert type(first).__name__ == "Functional"
    names = [spec.name for spec in second.signature.inputs]
    x = {"a": np.ones((1, 4), np.float32), "b": np.zeros((1, 4), np.float32)}
    made = load.open_keras(second)([x[name] for name in names])
    expected = mapped(x)
    for spec, value in zip(second.signature.outputs, made, strict=True):
        np.testing.assert_allclose(value, expected[spec.name])


def test_two_outputs_of_one_layer_get_names_of_their_own(tmp_path: Path):
    keras = import_keras()
    x = keras.Input((5, 2))
    net = keras.Model(x, keras.layers.LSTM(3, return_state=True, name="rnn")(x))

    model = load.save_keras(net, tmp_path / "m.keras", sha256="0" * 64, origin="test")

    assert [spec.name for spec in model.signature.outputs] == ["rnn", "rnn_1", "rnn_2"]
    assert model.macs == 5 * 4 * 3 * (2 + 3)


def test_an_open_dimension_leaves_the_macs_unknown(tmp_path: Path):
    keras = import_keras()
    x = keras.Input((None, None, 3))

    model = load.save_keras(
        keras.Model(x, keras.layers.Conv2D(2, 3)(x)), tmp_path / "m.keras", sha256="0" * 64, origin="test"
    )

    assert model.macs is None
    assert model.signature.inputs[0].shape == (None, None, None, 3)


# --- files that are damaged or something else


@pytest.mark.parametrize(("package", "name"), [(c[0], c[1]) for c in CASES], ids=[case[2] for case in CASES])
def test_truncated_files_are_told(package: Callable[[], Any], name: str, tmp_path: Path):
    k = package()
    path = _save(k, _net(k), tmp_path / name)
    file = path / "saved_model.pb" if path.is_dir() else path
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])

    assert "truncated or damaged" in _refusal(path, tmp_path)


def test_a_flipped_byte_in_the_weights_is_told(tmp_path: Path):
    keras = import_keras()
    path = _save(keras, _net(keras), tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("model.weights.h5").header_offset
    data = bytearray(path.read_bytes())
    data[at + 2000] ^= 0xFF
    path.write_bytes(data)

    assert "model.weights.h5" in _refusal(path, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("m.keras", b"", "the file is empty"),
        ("m.keras", b"version https://git-lfs.github.com/spec/v1\n", "is named .keras, and its content is not"),
        ("m.h5", b"\x00" * 64, "is named .h5, and its content is not"),
        ("m.tflite", b"\x1c\x00\x00\x00TFL3" + b"\x00" * 32, "a .tflite is a result, not an input"),
        ("frozen.pb", b"\x0a\x10" + b"\x00" * 32, "a frozen graph"),
        ("notes.txt", b"hello, this is no model", "not a model format known here"),
        ("weights.pt", b"PK\x03\x04", "A pickle is never opened"),
        ("net.joblib", b"anything", "A pickle is never opened"),
        ("no-suffix", pickle.dumps({"a": 1}), "A pickle is never opened"),
    ],
)
def test_what_is_no_model_is_refused(name: str, content: bytes, text: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)

    assert text in _refusal(tmp_path / name, tmp_path)


def test_a_missing_file_an_odd_folder_and_a_foreign_zip(tmp_path: Path):
    assert "no such model" in _refusal(tmp_path / "none.keras", tmp_path)
    (tmp_path / "folder").mkdir()
    assert "a folder without saved_model.pb" in _refusal(tmp_path / "folder", tmp_path)
    with zipfile.ZipFile(tmp_path / "torch.zip", "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    assert "A pickle is never opened" in _refusal(tmp_path / "torch.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("readme", "x")
    assert "has no metadata.json" in _refusal(tmp_path / "some.zip", tmp_path)


def test_no_pickle_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "exploded").touch, ())

    path = tmp_path / "model.keras"
    path.write_bytes(pickle.dumps(Bomb(), protocol=4))

    assert "A pickle is never opened" in _refusal(path, tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_files_with_weights_alone_are_told_apart(tmp_path: Path):
    import h5py

    keras, tf_keras = import_keras(), import_tf_keras()
    _net(keras).save_weights(tmp_path / "three.weights.h5")
    _net(tf_keras).save_weights(tmp_path / "two.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["measurements"] = np.zeros(3)

    for name in ("three.weights.h5", "two.h5"):
        assert "holds only weights" in _refusal(tmp_path / name, tmp_path)
    assert "no Keras model: it has no model_config" in _refusal(tmp_path / "other.h5", tmp_path)


def test_an_exported_saved_model_has_no_layers(tmp_path: Path):
    keras = import_keras()
    _net(keras).export(tmp_path / "exported", verbose=False)

    text = _refusal(tmp_path / "exported", tmp_path)

    assert "holds functions and no Keras layers" in text
    assert "Pass the .keras file instead" in text


# --- models that cannot be deployed, and files that would run code


def _lambda_net(k: Any) -> Any:
    x = k.Input((4,))
    return k.Model(x, k.layers.Lambda(lambda t: t * 2.0, name="double", output_shape=(4,))(x))


@pytest.mark.parametrize(("package", "name"), [(c[0], c[1]) for c in CASES], ids=[case[2] for case in CASES])
def test_a_lambda_is_refused_and_its_bytecode_never_touched(
    package: Callable[[], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import marshal

    k = package()
    path = _save(k, _lambda_net(k), tmp_path / name)
    touched: list[bytes] = []
    monkeypatch.setattr(marshal, "loads", touched.append)

    text = _refusal(path, tmp_path)

    assert "holds Python code in Lambda layer double" in text
    assert "allow_lambda" in text
    assert not touched


@pytest.mark.parametrize(("package", "name"), [(c[0], c[1]) for c in CASES], ids=[case[2] for case in CASES])
def test_a_lambda_opens_when_allowed_and_stays_refused_when_not(package: Callable[[], Any], name: str, tmp_path: Path):
    k = package()
    path = _save(k, _lambda_net(k), tmp_path / name)

    model = load.load_model(path, workdir=tmp_path / "work", allow_lambda=True)

    assert model.lambdas
    np.testing.assert_array_equal(load.open_keras(model)(np.ones((1, 4), np.float32)), np.full((1, 4), 2.0))
    with pytest.raises(ModelError, match="holds Python code in Lambda"):
        load.load_model(path, workdir=tmp_path / "work")


def test_lambdas_nested_in_wrappers_and_models_are_found(tmp_path: Path):
    keras = import_keras()
    x = keras.Input((3, 4))
    inner = _lambda_net(keras)
    net = keras.Model(x, keras.layers.TimeDistributed(inner)(x))

    assert "Lambda layer double" in _refusal(_save(keras, net, tmp_path / "m.keras"), tmp_path)


def test_a_subclassed_model_is_named(tmp_path: Path):
    keras, tf_keras = import_keras(), import_tf_keras()

    def subclass(k: Any) -> Any:
        class Detector(k.Model):
            def __init__(self, **settings: Any) -> None:
                super().__init__(**settings)
                self.dense = k.layers.Dense(3)

            def call(self, x: Any) -> Any:
                return self.dense(x)

        model = Detector()
        model(np.zeros((1, 4), np.float32))
        return model

    for path in (
        _save(keras, subclass(keras), tmp_path / "three.keras"),
        _save(tf_keras, subclass(tf_keras), tmp_path / "two"),
    ):
        text = _refusal(path, tmp_path)
        assert "the model is the subclass Detector" in text
        assert "Pass a functional model" in text


@pytest.mark.parametrize(("package", "name"), [(c[0], c[1]) for c in CASES], ids=[case[2] for case in CASES])
def test_a_custom_layer_is_named(package: Callable[[], Any], name: str, tmp_path: Path):
    k = package()

    class Swoosh(k.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * x

    x = k.Input((4,))
    path = _save(k, k.Model(x, Swoosh(name="odd")(x)), tmp_path / name)

    text = _refusal(path, tmp_path)

    assert "layer odd is Swoosh" in text
    assert "no class of " in text
    assert "Its code is not in the file" in text


def test_a_custom_activation_is_named(tmp_path: Path):
    keras = import_keras()

    def bump(x: Any) -> Any:
        return keras.ops.exp(-x * x)

    x = keras.Input((4,))
    net = keras.Model(x, keras.layers.Dense(3, activation=bump)(x))

    text = _refusal(_save(keras, net, tmp_path / "m.keras"), tmp_path)
    assert "bump" in text
    assert "custom" in text or "no class of Keras" in text


def test_a_model_still_wrapped_for_pruning_is_told_to_be_stripped(tmp_path: Path):
    config = {
        "class_name": "Sequential",
        "config": {"layers": [{"class_name": "PruneLowMagnitude", "config": {"name": "prune_dense"}}]},
    }

    with pytest.raises(ModelError, match=r"layer prune_dense is PruneLowMagnitude") as caught:
        keras_config.refuse_unknown_2(config, known=frozenset({"Dense"}), where="m.h5")
    assert "strip_pruning" in caught.value.next_step


def test_a_tensorflow_function_that_writes_files_is_never_resolved(tmp_path: Path):
    """`TFOpLambda` looks its function up in all of TensorFlow when the model is built: judge the name before."""
    import h5py

    tf_keras, tf = import_tf_keras(), import_tensorflow()
    x = tf_keras.Input((4,))
    path = _save(tf_keras, tf_keras.Model(x, tf.nn.relu(x)), tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace("nn.relu", "io.write_file")

    assert "is the TensorFlow function tf.io.write_file" in _refusal(path, tmp_path)


def test_a_class_outside_the_computing_parts_of_keras_is_refused(tmp_path: Path):
    config = {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {"layers": [{"module": "keras.utils", "class_name": "get_file", "config": {"name": "fetch"}}]},
    }

    with pytest.raises(ModelError, match=r"layer fetch is get_file of keras.utils"):
        keras_config.inspect(config, where="m.keras", keras_major=3, allow_lambda=False)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ({"module": "keras.layers", "class_name": "TFSMLayer"}, "layer odd is TFSMLayer, a foreign graph"),
        ({"module": "keras.layers", "class_name": "TextVectorization"}, "no edge runtime has it"),
    ],
)
def test_layers_that_no_board_can_run_are_refused(layer: dict[str, Any], text: str):
    config = {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {"layers": [layer | {"config": {"name": "odd"}}]},
    }

    with pytest.raises(ModelError, match=text):
        keras_config.inspect(config, where="m.keras", keras_major=3, allow_lambda=False)


def _rezip(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    kept.update({name.replace("__", "."): data for name, data in members.items()})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in kept.items():
            archive.writestr(name, data)


def test_zip_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keras = import_keras()
    path = _save(keras, _net(keras), tmp_path / "m.keras")
    _rezip(path, config__json=b" " * (keras_config.MAX_CONFIG_BYTES + 10))
    assert "config is larger than 64 MB" in _refusal(path, tmp_path)

    monkeypatch.setattr("optimizer.load_keras._FREE_EXPANSION_BYTES", 1 << 20)
    assert "It was not unpacked" in _refusal(path, tmp_path)


def test_odd_versions_broken_json_and_missing_parts(tmp_path: Path):
    keras = import_keras()
    path = _save(keras, _net(keras), tmp_path / "m.keras")
    good = path.read_bytes()
    for members, text in (
        ({"metadata__json": b'{"keras_version": "4.0"}'}, "was saved by Keras 4.0"),
        ({"metadata__json": b"{"}, "metadata.json inside it is not a JSON object"),
        ({"config__json": b'{"class_name": '}, "config is not JSON"),
        ({"config__json": b'{"class_name": "Functional"}'}, "describes no model"),
    ):
        path.write_bytes(good)
        _rezip(path, **members)
        assert text in _refusal(path, tmp_path)


def test_a_setting_that_keras_does_not_know_is_one_sentence(tmp_path: Path):
    keras = import_keras()
    path = _save(keras, _net(keras), tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"][1]["config"]["wobble"] = 3
    _rezip(path, config__json=json.dumps(config).encode())

    text = _refusal(path, tmp_path)

    assert f"Keras {keras.__version__} cannot load it" in text
    assert "Traceback" not in text


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path):
    keras = import_keras()
    net = _net(keras)
    net.get_layer("probabilities").set_weights([np.full((4, 3), np.nan, np.float32), np.zeros(3, np.float32)])

    assert "weight kernel of layer probabilities holds NaN" in _refusal(
        _save(keras, net, tmp_path / "m.keras"), tmp_path
    )


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built:UserWarning")
def test_a_model_without_input_shape_is_refused(tmp_path: Path):
    keras = import_keras()
    path = _save(keras, keras.Sequential([keras.layers.Dense(3)]), tmp_path / "m.keras")

    assert "has no input shape" in _refusal(path, tmp_path)


def test_strings_in_are_refused(tmp_path: Path):
    keras = import_keras()
    x = keras.Input((1,), dtype="string", name="word")
    path = _save(keras, keras.Model(x, keras.layers.Identity()(x)), tmp_path / "m.keras")

    assert "input word is string" in _refusal(path, tmp_path)


def test_an_onnx_model_has_no_layers_to_open(tmp_path: Path):
    model = load.save_keras(_net(import_keras()), tmp_path / "m.keras", sha256="0" * 64, origin="net")
    onnx = model.__class__(
        kind="onnx", path=model.path, sha256="0" * 64, signature=model.signature, origin="ONNX opset 17 m", parameters=1
    )

    with pytest.raises(ModelError, match="is an ONNX model: it has no Keras layers"):
        load.open_keras(onnx)


def test_loss_and_optimizer_are_not_written(tmp_path: Path):
    """A loss may be a lambda, and the optimizer's state is twice the size of the weights."""
    keras = import_keras()
    net = _net(keras)
    net.compile("adam", loss=lambda wanted, made: keras.ops.mean(wanted - made))
    net.fit(X, np.zeros((2, 3), np.float32), verbose=0)

    model = load.save_keras(net, tmp_path / "m.keras", sha256="0" * 64, origin="net")

    with zipfile.ZipFile(model.path) as archive:
        assert b"lambda" not in archive.read("config.json")
        assert archive.getinfo("model.weights.h5").file_size < 60_000
    np.testing.assert_array_equal(load.open_keras(model)(X, training=False), net(X, training=False))
    assert net.compiled, "the caller's model is left as it was"


def test_names_in_the_signature_hold_after_reading_back(tmp_path: Path):
    keras = import_keras()
    x = keras.Input((4,))
    model = load.save_keras(
        keras.Model(x, keras.layers.Dense(3)(x)), tmp_path / "m.keras", sha256="0" * 64, origin="net"
    )

    again = load.save_keras(load.open_keras(model), tmp_path / "n.keras", sha256="0" * 64, origin="net")

    assert again.signature == model.signature


def test_a_saved_model_that_writes_files_is_not_loaded(tmp_path: Path):
    tf_keras = import_tf_keras()
    import_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2

    path = _save(tf_keras, _net(tf_keras), tmp_path / "folder")
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    saved.meta_graphs[0].graph_def.library.function[0].node_def.add(name="leak", op="WriteFile")
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())

    assert "node leak is WriteFile: it reaches files or Python" in _refusal(path, tmp_path)


def test_a_save_that_fails_leaves_no_file(tmp_path: Path):
    keras = import_keras()

    class Stubborn(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

        def get_config(self) -> Any:
            raise NotImplementedError("no config here")

    x = keras.Input((4,))
    net = keras.Model(x, Stubborn()(x))

    with pytest.raises(ModelError, match="Keras cannot write the model"):
        load.save_keras(net, tmp_path / "m.keras", sha256="0" * 64, origin="net")
    assert not list(tmp_path.iterdir())


# --- the reference model of MLPerf Tiny


@pytest.mark.data
def test_mlperf_tiny_resnet_gives_what_tf_keras_gives_on_cifar(data_dir: Path, tmp_path: Path):
    """Keras 2.4 wrote it. 500 test images, 50 of each class; 75.48 % is its accuracy over all 10,000."""
    from PIL import Image

    path = data_dir / "mlperf-tiny" / "pretrainedResnet.h5"
    images, labels = [], []
    classes: dict[str, int] = {}
    with tarfile.open(data_dir / "cifar10-jpeg.tar") as archive:
        names = sorted(n for n in archive.getnames() if n.startswith("test/") and n.endswith(".jpg"))
        for name in (n for at, n in enumerate(names) if at % 20 == 0):
            stream = archive.extractfile(name)
            assert stream is not None
            images.append(np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"), np.float32))
            labels.append(classes.setdefault(name.split("/")[1], len(classes)))
    x, y = np.stack(images), np.array(labels)

    model = load.load_model(path, workdir=tmp_path)

    made = np.asarray(load.open_keras(model)(x, training=False))
    reference = np.asarray(import_tf_keras().models.load_model(path, compile=False)(x, training=False))
    np.testing.assert_allclose(made, reference, atol=1e-5)
    assert x.shape == (500, 32, 32, 3)
    assert (made.argmax(1) == reference.argmax(1)).all()
    assert 0.70 < float((made.argmax(1) == y).mean()) < 0.81
    assert (model.parameters, model.macs) == (78_666, 12_501_632)


POLICIES = ("mixed_float16", "float16", "mixed_bfloat16")


def _of_policy(policy: str, make: Callable[[Any], Any], k: Any) -> Any:
    before = k.config.dtype_policy()
    k.config.set_dtype_policy(policy)
    try:
        return make(k)
    finally:
        k.config.set_dtype_policy(before)


def _recurrent(k: Any) -> Any:
    ly = k.layers
    given = k.Input((4, 3), name="series")
    y = ly.Dense(3, name="dense")(ly.Bidirectional(ly.GRU(2, name="gru"), name="both")(given)) * 2.0
    return k.Model(given, k.Sequential([ly.Dense(2, name="inner")], name="nested")(y), name="net")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [_net, _recurrent], ids=["layers", "wrapped and nested"])
def test_16_bit_policies_become_float32_with_the_same_weights(policy: str, make: Callable[[Any], Any], tmp_path: Path):
    keras = import_keras()
    given = _of_policy(policy, make, keras)
    path = _save(keras, given, tmp_path / "m.keras")

    model = load.load_model(path, workdir=tmp_path / "work")

    assert model.origin == f"Keras 3 .keras, 16-bit floats brought to float32: {path}"
    assert {spec.dtype for spec in (*model.signature.inputs, *model.signature.outputs)} == {"float32"}
    live = load.open_keras(model)
    for ours, theirs in zip(live.weights, given.weights, strict=True):
        assert (ours.name, ours.dtype) == (theirs.name, "float32")
        np.testing.assert_array_equal(ours, keras.ops.cast(theirs, "float32"))
    assert load.load_model(path, workdir=tmp_path / "work").origin == model.origin


def test_a_cast_to_16_bits_in_the_graph_is_refused(tmp_path: Path):
    keras = import_keras()
    given = keras.Input((3,), name="given")
    cast = keras.ops.cast(keras.layers.Dense(3)(given), "float16")
    path = _save(keras, keras.Model(given, keras.layers.Dense(2)(cast)), tmp_path / "m.keras")
    assert "makes float16, and no dtype policy says so" in _refusal(path, tmp_path)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method:UserWarning")
def test_a_model_that_keras_quantized_is_refused(tmp_path: Path):
    keras = import_keras()
    given = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="small")])
    given.quantize("int8")
    refusal = _refusal(_save(keras, given, tmp_path / "m.keras"), tmp_path)
    assert "quantized already: layer small holds int8 weights" in refusal


@pytest.mark.parametrize(("frameworks", "name"), [(import_keras, "m.keras"), (import_tf_keras, "m.h5")])
@pytest.mark.parametrize("wrapped", [True, False])
def test_layers_that_remember_the_samples_before_are_refused(
    frameworks: Callable[[], Any], name: str, wrapped: bool, tmp_path: Path
):
    k = frameworks()
    given = k.Input((4, 3), batch_size=1, name="given")
    layer = k.layers.LSTM(2, stateful=True, name="memory")
    made = k.Model(given, (k.layers.Bidirectional(layer) if wrapped else layer)(given))
    refusal = _refusal(_save(k, made, tmp_path / name), tmp_path)
    assert "memory is a LSTM with stateful=True" in refusal
    assert "return_state=True" in refusal
