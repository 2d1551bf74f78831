"""Models whose inputs are no single picture, the whole way on this machine: tokens, signals, several inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras, import_onnx
from tests.e2e.project import Project

pytestmark = pytest.mark.slow

Arrays = dict[str, NDArray[Any]]
WORDS = 20


def wide() -> Any:
    """Rows of an untrained embedding as far apart as those of a trained one."""
    return import_keras().initializers.RandomNormal(stddev=1.0, seed=1)


def tokens_and_picture() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """A convolution over a picture and an embedding of words, in one head; the words come first."""
    keras = import_keras()
    layers = keras.layers
    words = keras.Input((6,), dtype="int32", name="words")
    picture = keras.Input((8, 8, 3), name="picture")
    seen = layers.Conv2D(8, 3, activation="relu", name="conv")(picture)
    seen = layers.GlobalAveragePooling2D(name="pool")(seen)
    said = layers.Embedding(WORDS, 8, embeddings_initializer=wide(), name="embedding")(words)
    said = layers.Flatten(name="flatten")(said)
    both = layers.Concatenate(name="both")([seen, said])
    scores = layers.Dense(5, activation="softmax", name="scores")(
        layers.Dense(16, activation="relu", name="dense")(both)
    )

    def samples(random: np.random.Generator, n: int) -> Arrays:
        return {
            "picture": random.normal(size=(n, 8, 8, 3)) + 2 * random.normal(size=(n, 1, 1, 3)),
            "words": random.integers(0, WORDS, (n, 6)),
        }

    return keras.Model([words, picture], scores, name="both"), samples


def tokens() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """A convolution over the embeddings of words."""
    keras = import_keras()
    layers = keras.layers
    words = keras.Input((12,), dtype="int32", name="words")
    x = layers.Embedding(WORDS, 16, embeddings_initializer=wide(), name="embedding")(words)
    x = layers.Conv1D(16, 3, activation="relu", name="conv")(x)
    x = layers.GlobalMaxPooling1D(name="pool")(x)
    model = keras.Model(words, layers.Dense(4, activation="softmax", name="scores")(x), name="tokens")
    return model, lambda random, n: {"x": random.integers(0, WORDS, (n, 12))}


def signal() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """Convolutions along time, batch 1 written into the model."""
    keras = import_keras()
    layers = keras.layers
    time = keras.Input((64, 3), batch_size=1, name="acceleration")
    x = layers.Conv1D(8, 5, strides=2, padding="same", use_bias=False, name="conv1")(time)
    x = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1")(x))
    x = layers.MaxPooling1D(2, name="pool")(x)
    x = layers.SeparableConv1D(12, 3, activation="relu", name="conv2")(x)
    x = layers.GlobalMaxPooling1D(name="most")(x)
    model = keras.Model(time, layers.Dense(4, name="scores")(x), name="signal")
    return model, lambda random, n: {"x": random.normal(size=(n, 64, 3)) * random.uniform(0.2, 3, (n, 1, 3))}


def write(root: Path, make: Callable[[], tuple[Any, Callable[[np.random.Generator, int], Arrays]]]) -> Project:
    """The model and its data; int8 is asked for, judged by its agreement with the float model."""
    import_keras().utils.set_random_seed(0)
    model, samples = make()
    model.save(root / "model.keras")
    random = np.random.default_rng(0)
    for name, n in (("calibration", 64), ("evaluation", 100)):
        np.savez(root / f"{name}.npz", **samples(random, n))
    project = Project(root)
    project.write_config(
        data={"calibration": "calibration.npz", "evaluation": "evaluation.npz"},
        recipe=[{"quantize": {"scheme": "int8"}}],
        task={"metric": "agreement"},
        budget={"agreement_min": 0.9},
        measure={"min_runs": 50, "min_seconds": 0.05, "windows": 2},
    )
    return project


def rows(project: Project) -> Mapping[tuple[str, str], dict[str, Any]]:
    return {(row["target"], row["variant"]): row for row in project.result()["results"]}


def check(project: Project, kinds: list[str]) -> None:
    """A run through: both targets, float and int8 by one plan, and inputs of these dtypes in the int8 .tflite."""
    done = project.edgesmith("run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No common plan" not in done.stderr
    found = rows(project)
    assert set(found) == {(t, v) for t in ("onnxruntime", "tflite") for v in ("float", "compressed")}
    for (target, variant), row in found.items():
        assert row["agreement"] >= (0.9 if variant == "compressed" else 1.0), (target, variant)
        assert row["latency_ms"]["n"] >= 50
    assert project.result()["quantization"]["layers"]
    inputs = found["tflite", "compressed"]["artifact"]["signature_inputs"]
    assert [text.split(": ")[-1].partition("[")[0] for text in inputs] == kinds


def artifact(project: Project, target: str, variant: str) -> str:
    return str(project.root / "runs" / "latest" / rows(project)[target, variant]["artifact"]["path"])


def test_tokens(tmp_path: Path):
    check(write(tmp_path, tokens), ["int32"])


def test_tokens_and_a_picture(tmp_path: Path):
    project = write(tmp_path, tokens_and_picture)
    check(project, ["int32", "int8"])
    done = project.edgesmith("measure", artifact(project, "tflite", "compressed"), "--data", "evaluation.npz", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["latency_ms"]["p50"] > 0


def test_a_signal_and_then_its_int8_file_as_a_model(tmp_path: Path):
    project = write(tmp_path, signal)
    check(project, ["int8"])
    for target in ("onnxruntime", "tflite"):
        project.write_config(
            model=artifact(project, target, "compressed"),
            data={"calibration": "calibration.npz", "evaluation": "evaluation.npz"},
            recipe=[{"quantize": {}}],
            budget={"size_bytes": 1_000_000},
        )
        done = project.edgesmith("plan")
        assert done.returncode == 2, done.stdout + done.stderr
        said = " ".join(done.stderr.split())
        assert ("is quantized already" if target == "onnxruntime" else "is compiled already") in said


def test_a_model_that_remembers_is_refused_before_any_work(tmp_path: Path):
    keras = import_keras()
    layers = keras.layers
    given = keras.Input((64, 3), batch_size=1, name="acceleration")
    memory = layers.GRU(4, stateful=True, name="memory")(given)
    project = write(tmp_path, lambda: (keras.Model(given, layers.Dense(4)(memory)), signal()[1]))
    done = project.edgesmith("run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "layer memory is a GRU with stateful=True" in " ".join(done.stderr.split())
    assert project.result()["work"]["compiled_artifacts"] == 0


def test_a_fixed_batch_is_refused_before_any_work(tmp_path: Path):
    onnx = import_onnx()
    ends = [onnx.helper.make_tensor_value_info(name, 1, (4, 64, 3)) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "net", ends[:1], ends[1:])
    project = write(tmp_path, signal)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "four.onnx")
    project.write_config(model="four.onnx", data={"evaluation": "evaluation.npz"}, recipe=[], budget={})
    done = project.edgesmith("plan")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the batch of input x: float32[4, 64, 3] is fixed" in " ".join(done.stderr.split())
