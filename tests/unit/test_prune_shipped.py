"""Two zeros in every four input channels are in the files that are shipped, where a runtime looks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import targets
from edgesmith.progress import Silent
from edgesmith.types import Model, Scheme
from optimizer.base import Context
from optimizer.kernels import prunable_kernels
from optimizer.techniques import prune, quantize
from targets.base import CompileRequest
from targets.tensorrt_build import has_pairs_of_zeros
from tests import tiny_networks
from tests.tiny_plans import plan_folder

KERNELS = {"separable": (1, 1, 16, 16), "residual": (3, 3, 16, 16), "hidden": (1024, 24), "head": (24, 4)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A network with batch norms that are folded, pruned 2:4 by surgery; a later step leaves it as it is."""
    folder = tmp_path_factory.mktemp("model")
    context = Context(workdir=folder, calibration=tiny_networks.samples(tiny_networks.pictures(32)))
    net = tiny_networks.network()
    random = np.random.default_rng(0)
    for kernel in prunable_kernels(net):  # they come with zeros of their own
        kernel.assign(random.normal(scale=0.1, size=kernel.variable.shape))
    params = prune.Params(granularity="2:4", epochs=0, exclude=["stem"])
    pruned = prune.apply(net, params, context).model
    pruned = quantize.apply(pruned, quantize.Params(), context).model
    return tiny_networks.record(pruned, folder / "net.keras")


def _inputs_last(target: str, shape: tuple[int, ...], kernel: np.ndarray) -> np.ndarray:
    """An artifact's kernel as [..., input channels]: OHWI and [out, in] in .tflite, OIHW and either in .onnx."""
    if kernel.ndim == 4:
        return kernel if target == "tflite" else np.moveaxis(kernel, 1, -1)
    return kernel if kernel.shape == shape[::-1] else kernel.T


def _shipped(target: str, kernels: dict[str, Any], shape: tuple[int, ...]) -> list[np.ndarray]:
    *window, inputs, outputs = shape
    convolution = (outputs, *window, inputs) if target == "tflite" else (outputs, inputs, *window)
    wanted = {convolution} if window else {shape, shape[::-1]}
    return [_inputs_last(target, shape, kernel) for kernel in kernels.values() if kernel.shape in wanted]


@pytest.mark.parametrize(
    ("target", "scheme"),
    [
        ("tflite", Scheme.NONE),
        ("onnxruntime", Scheme.NONE),
        pytest.param("tflite", Scheme.INT8, marks=pytest.mark.slow),
        pytest.param("onnxruntime", Scheme.INT8, marks=pytest.mark.slow),
    ],
)
def test_two_of_four_along_the_input_channels_of_the_artifact(
    target: str, scheme: Scheme, model: Model, tmp_path: Path
):
    request = CompileRequest(
        scheme=scheme,
        calibration=tiny_networks.samples(tiny_networks.pictures(32)),
        out_dir=tmp_path,
        name="net",
        board_isa="x86_64",
        plan=plan_folder(model, scheme, tmp_path) if scheme.needs_calibration else None,
    )
    artifact = targets.get(target).compile(model, request, Silent())
    kernels = targets.get(target).kernels(artifact.path)
    for layer, shape in KERNELS.items():
        found = _shipped(target, kernels, shape)
        assert found, (layer, {name: kernel.shape for name, kernel in kernels.items()})
        for kernel in found:
            groups = kernel.reshape(-1, kernel.shape[-1] // 4, 4)
            assert (np.count_nonzero(groups, axis=-1) <= 2).all(), layer
            stays = np.count_nonzero(groups) / groups.size
            # Rounding to int8 zeroes a few more; float kernels have no others.
            assert stays == 0.5 if scheme is Scheme.NONE else 0.45 < stays <= 0.5, layer
    if target == "onnxruntime":
        import onnx

        assert has_pairs_of_zeros(onnx.load_model(str(artifact.path)))
