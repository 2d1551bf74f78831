"""Accuracy of the very files that boards get, on labelled samples: CPU emulation of Q/DQ, never "on device".

ONNX Runtime with its optimizations off computes each node as it is written: quantize, dequantize, convolve in float.
An engine fuses and rounds otherwise; what it answers is measured on the board.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, Scheme
from optimizer.load import load_model
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import plan_files, tensorrt
from targets.base import CompileRequest, RuntimeFacts
from targets.plan_export import make_plan_graph
from tests import cifar_images, tiny_networks
from tests.tensorrt_requests import BOARDS, ORIN_11, ORIN_JP6, XAVIER_JP4

pytestmark = pytest.mark.slow

Array = NDArray[Any]

LABEL = "CPU emulation of Q/DQ"
ALLOWED_PP = {Scheme.NONE: 0.0, Scheme.FLOAT16: 0.3, Scheme.INT8: 1.0, Scheme.INT8_FLOAT_IO: 1.0}
"""Of accuracy lost; one sample of 597 is 0.17 points."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A network that has learned scikit-learn's digits, and samples it has not seen."""

    model: Model
    x: Array
    y: Array
    accuracy: float
    folder: Path

    def compile(self, scheme: Scheme, runtime: RuntimeFacts) -> Artifact:
        plan = self.folder / "plan" if scheme.needs_calibration else None
        name = f"{scheme}-{runtime.version}-{runtime.compute}"
        calibration = tiny_networks.samples(self.x[:8])
        request = CompileRequest(
            scheme=scheme, out_dir=self.folder, name=name, plan=plan, calibration=calibration, runtime=runtime
        )
        return tensorrt.compile(self.model, request, Silent())

    def emulated(self, artifact: Artifact) -> float:
        """Accuracy of the file on the samples: CPU emulation of Q/DQ."""
        (scores,) = tensorrt.outputs(artifact.path, self.x)
        return float((scores.argmax(axis=1) == self.y).mean())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from sklearn.datasets import load_digits

    keras = import_keras()
    layers = keras.layers
    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images[order][..., None] / 16.0).astype(np.float32)
    y = digits.target[order].astype(np.int64)
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(image)))
    side = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(h))
    h = layers.ReLU()(layers.Add()([h, side]))
    h = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(h)))
    h = layers.ReLU()(layers.Conv2D(32, 3, strides=2, padding="same")(h))
    h = layers.Dense(32, activation="relu")(layers.Flatten()(h))
    live = keras.Model(image, layers.Dense(10)(h), name="digits")
    live.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with third_party_warnings():
        live.fit(x[:1200], y[:1200], epochs=12, batch_size=32, verbose=0)
    model = tiny_networks.record(live, folder / "digits.keras")
    planned = make_plan(make_plan_graph(model, Silent()), x[:256], PtqSettings())
    plan_files.write(planned, folder / "plan")
    (scores,) = tiny_networks.answers(live, x[1200:])
    accuracy = float((scores.argmax(axis=1) == y[1200:]).mean())
    assert accuracy > 0.95, "the network has not learned: what follows would show nothing"
    return Trained(model, x[1200:], y[1200:], accuracy, folder)


@pytest.mark.parametrize("runtime", BOARDS, ids=lambda board: f"{board.version}-{board.compute}")
def test_accuracy_of_every_file(trained: Trained, runtime: RuntimeFacts):
    for scheme in sorted(tensorrt.capabilities(None, runtime).schemes):
        lost_pp = (trained.accuracy - trained.emulated(trained.compile(scheme, runtime))) * 100
        assert lost_pp <= ALLOWED_PP[scheme], f"{LABEL}: {scheme} loses {lost_pp:.2f} points"


@pytest.mark.data
@pytest.mark.timeout(600)
def test_accuracy_of_a_trained_resnet_8(data_dir: Path, tmp_path: Path):
    """MLPerf Tiny's, calibrated on 200 images of CIFAR-10, judged on 1000 others."""
    model = load_model(data_dir / "mlperf-tiny" / "pretrainedResnet.h5", workdir=tmp_path)
    graph = make_plan_graph(model, Silent())
    plan_files.write(make_plan(graph, cifar_images.images(data_dir, "train", 20)[0], PtqSettings()), tmp_path / "plan")
    x, y = cifar_images.images(data_dir, "test", 100)
    scores = np.concatenate([found[graph.outputs[0]] for found in graph.run(x)])
    resnet = Trained(model, x, y, float((scores.argmax(axis=1) == y).mean()), tmp_path)
    assert resnet.accuracy > 0.7
    for runtime in (XAVIER_JP4, ORIN_JP6, ORIN_11):
        for scheme in (Scheme.FLOAT16, Scheme.INT8):
            lost_pp = (resnet.accuracy - resnet.emulated(resnet.compile(scheme, runtime))) * 100
            assert lost_pp <= ALLOWED_PP[scheme], f"{LABEL}: {scheme} loses {lost_pp:.2f} points"


def test_a_file_with_a_wrong_scale_is_caught(trained: Trained, tmp_path: Path):
    """The bound above is not one that everything keeps."""
    import onnx
    from onnx import numpy_helper

    artifact = trained.compile(Scheme.INT8, BOARDS[-1])
    proto = onnx.load(artifact.path)
    node = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    for tensor in proto.graph.initializer:
        if tensor.name == node.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(numpy_helper.to_array(tensor) / 8), tensor.name))
    path = tmp_path / "wrong.onnx"
    path.write_bytes(proto.SerializeToString())
    (scores,) = tensorrt.outputs(path, trained.x)
    lost_pp = (trained.accuracy - float((scores.argmax(axis=1) == trained.y).mean())) * 100
    assert lost_pp > ALLOWED_PP[Scheme.INT8]
