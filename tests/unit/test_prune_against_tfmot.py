"""Mask for mask and weight for weight, our pruning of a Keras 3 net is TF-MOT's of its Keras 2 twin."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.frameworks import import_keras
from edgesmith.types import SampleSet
from optimizer.base import Context
from optimizer.finetune import TrainingParams, batches, finetune, split
from optimizer.kernels import Kernel, prunable_kernels
from optimizer.magnitude import MagnitudePruner
from optimizer.schedules import SchedulePlan, build_schedule

BRIDGE = Path(__file__).with_name("tfmot_twin.py")
SEED = 7
PARAMS = TrainingParams(epochs=2, batch_size=16, learning_rate=0.05, learning_rate_schedule="constant", optimizer="sgd")


class Recorder:
    """A companion that notes masks and raw weights after every step."""

    def __init__(self, pruner: MagnitudePruner, kernels: Sequence[Kernel]) -> None:
        self.pruner, self.kernels, self.seen = pruner, kernels, {}

    def callback(self) -> Any:
        recorder = self

        class Record(import_keras().callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                for kernel in recorder.kernels:
                    step = recorder.pruner.step
                    recorder.seen[f"mask/{kernel.layer}/{step}"] = recorder.pruner.masks[kernel.name]
                    recorder.seen[f"weight/{kernel.layer}/{step}"] = kernel.value()

        return Record()

    def state(self):
        return {}

    def restore(self, state: Any):
        del state


def _net() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(3)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(6, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.SeparableConv2D(8, 2, activation="relu", name="separable"),
            layers.Conv2DTranspose(4, 2, strides=2, activation="relu", name="transpose"),
            layers.Flatten(),
            layers.Dense(5, activation="softmax", name="dense"),
        ]
    )


def _samples() -> SampleSet:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 100)
    x = (rng.normal(size=(100, 8, 8, 3)) + y[:, None, None, None] / 2).astype(np.float32)
    return SampleSet(role="train", x=x, y=y, sha256="0" * 64, source="made here")


SCHEDULES = {
    "polynomial": SchedulePlan(
        kind="polynomial", initial_sparsity=0.1, final_sparsity=0.8, begin_step=1, end_step=9, frequency=2,
        power=3.0, settled_step=9,
    ),
    "constant": SchedulePlan(
        kind="constant", initial_sparsity=0.0, final_sparsity=0.6, begin_step=2, end_step=-1, frequency=3,
        power=3.0, settled_step=2,
    ),
}  # fmt: skip


def _as_tfmot(plan: SchedulePlan) -> dict[str, Any]:
    steps = {"begin_step": plan.begin_step, "end_step": plan.end_step, "frequency": plan.frequency}
    if plan.kind == "constant":
        return {"class": "ConstantSparsity", "arguments": {"target_sparsity": plan.final_sparsity, **steps}}
    ramp = {"initial_sparsity": plan.initial_sparsity, "final_sparsity": plan.final_sparsity, "power": 3}
    return {"class": "PolynomialDecay", "arguments": {**ramp, **steps}}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """TF-MOT's masks and weights of both schedules, from one process of its own."""
    folder, samples = tmp_path_factory.mktemp("twin"), _samples()
    given = {
        "schedules": np.array(json.dumps({name: _as_tfmot(plan) for name, plan in SCHEDULES.items()})),
        "batch_size": PARAMS.batch_size,
        "learning_rate": PARAMS.learning_rate,
    }
    for layer in _net().layers:
        given |= {f"weight/{layer.name}/{i}": variable.numpy() for i, variable in enumerate(layer.weights)}
    parts = split(PARAMS, len(samples), SEED)
    for epoch in range(PARAMS.epochs):
        order = np.concatenate(batches(PARAMS, parts.train, seed=SEED, epoch=epoch))
        given |= {f"x{epoch}": samples.x[order], f"y{epoch}": samples.y[order]}
    np.savez(folder / "in.npz", **given)
    done = subprocess.run(
        [sys.executable, str(BRIDGE), str(folder / "in.npz"), str(folder / "out.npz")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_masks_and_weights_equal_those_of_tfmot_at_every_step(
    schedule: str, theirs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plan, model = SCHEDULES[schedule], _net()
    kernels = prunable_kernels(model)
    pruner = MagnitudePruner(kernels, build_schedule(plan))
    recorder = Recorder(pruner, kernels)
    context = Context(workdir=tmp_path, train=_samples(), seed=SEED)
    finetune(model, PARAMS, context, label="prune", companions=(pruner, recorder))

    steps = range(1, pruner.step + 1)
    assert len(steps) == 12
    # Never the depthwise kernel.
    assert {kernel.layer for kernel in kernels} == {"conv", "separable", "transpose", "dense"}
    recorded = {name for name in theirs if name.startswith(f"{schedule}/mask/")}
    assert recorded == {f"{schedule}/mask/{kernel.layer}/{step}" for kernel in kernels for step in steps}
    for name in (f"{kernel.layer}/{step}" for step in steps for kernel in kernels):
        np.testing.assert_array_equal(
            recorder.seen[f"mask/{name}"], theirs[f"{schedule}/mask/{name}"] != 0, err_msg=name
        )
        _assert_equal_but_for_rounding(recorder.seen[f"weight/{name}"], theirs[f"{schedule}/weight/{name}"], name)
    for layer in model.layers:
        for i, variable in enumerate(layer.weights):
            if variable.name == "moving_variance":  # Keras 2 averages n / (n - 1) times the batch variance
                continue
            name = f"final/{layer.name}/{i}"
            _assert_equal_but_for_rounding(variable.numpy(), theirs[f"{schedule}/{name}"], name)
    for kernel in kernels:
        size = kernel.value().size
        assert np.count_nonzero(kernel.value()) == round(size * (1 - plan.final_sparsity))


def _assert_equal_but_for_rounding(ours: np.ndarray, theirs: np.ndarray, name: str) -> None:
    """Keras 2 and 3 order the sums of a gradient differently: the last bit, 6e-8 here, may differ."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-7, err_msg=name)
