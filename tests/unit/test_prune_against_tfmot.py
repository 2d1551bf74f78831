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
from optimizer.magnitude import MagnitudePruner, holding, settle
from optimizer.saliency.layouts import Layout, layouts
from optimizer.saliency.patterns import Blocks, NOfM
from optimizer.saliency.selection import Selection
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


BLOCKS = Blocks(4, 2, "max")
WRAPPERS = {
    "blocks": {
        "layers": ["dense"],  # TF-MOT has blocks of matrices only
        "wrapper": {"block_size": [BLOCKS.rows, BLOCKS.columns], "block_pooling_type": "MAX"},
    },
    # Not the transposed convolution: TF-MOT takes its output channels for input channels.
    "two of four": {"layers": ["conv", "separable", "dense"], "wrapper": {"sparsity_m_by_n": [2, 4]}},
}
MASKS = [
    ((8, 12), Blocks(2, 3)),
    ((9, 7), Blocks(4, 2)),
    ((5, 6), Blocks(3, 4, "max")),
    ((13, 10), Blocks(1, 4)),
    ((6, 9), Blocks(4, 4, "max")),
    ((50, 31), Blocks(16, 8)),
    ((12, 5), NOfM(2, 4)),
    ((7, 4), NOfM(2, 4)),
    ((3, 3, 3, 6), NOfM(2, 4)),
    ((3, 2, 10, 5), NOfM(2, 4)),
    ((1, 1, 16, 4), NOfM(1, 4)),
]


def _kernel(shape: tuple[int, ...]) -> np.ndarray:
    """With ties, and weights that are zero already."""
    return np.round(np.random.default_rng(sum(shape)).normal(size=shape), 1).astype(np.float32)


def _wrapper(pattern: Blocks | NOfM) -> dict[str, Any]:
    if isinstance(pattern, NOfM):
        return {"sparsity_m_by_n": [pattern.m - pattern.n, pattern.m]}
    pooling = {"average": "AVG", "max": "MAX"}[pattern.pooling]
    return {"block_size": [pattern.rows, pattern.columns], "block_pooling_type": pooling}


def _as_tfmot(plan: SchedulePlan) -> dict[str, Any]:
    steps = {"begin_step": plan.begin_step, "end_step": plan.end_step, "frequency": plan.frequency}
    if plan.kind == "constant":
        return {"class": "ConstantSparsity", "arguments": {"target_sparsity": plan.final_sparsity, **steps}}
    ramp = {"initial_sparsity": plan.initial_sparsity, "final_sparsity": plan.final_sparsity, "power": 3}
    return {"class": "PolynomialDecay", "arguments": {**ramp, **steps}}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """TF-MOT's masks and weights of both schedules, from one process of its own."""
    schedules = {name: _as_tfmot(plan) for name, plan in SCHEDULES.items()}
    return _twin(tmp_path_factory.mktemp("twin"), schedules, MASKS)


@pytest.fixture(scope="module")
def their_patterns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The same for blocks and for two of four."""
    schedules = {name: {**_as_tfmot(SCHEDULES["polynomial"]), **wrapper} for name, wrapper in WRAPPERS.items()}
    return _twin(tmp_path_factory.mktemp("twin"), schedules, [])


def _twin(folder: Path, schedules: dict[str, Any], wanted: Sequence[tuple[Any, Any]]) -> dict[str, np.ndarray]:
    samples = _samples()
    given = {
        "schedules": np.array(json.dumps(schedules)),
        "masks": np.array(json.dumps([{"sparsity": 0.6, "wrapper": _wrapper(pattern)} for _, pattern in wanted])),
        **{f"kernel/{i}": _kernel(shape) for i, (shape, _) in enumerate(wanted)},
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
    # Never the depthwise kernel.
    assert {kernel.layer for kernel in kernels} == {"conv", "separable", "transpose", "dense"}
    _assert_equal_throughout(schedule, model, kernels, MagnitudePruner(kernels, build_schedule(plan)), theirs, tmp_path)
    for kernel in kernels:
        size = kernel.value().size
        assert np.count_nonzero(kernel.value()) == round(size * (1 - plan.final_sparsity))


@pytest.mark.slow
def test_blocks_equal_those_of_tfmot_at_every_step(their_patterns: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = _net()
    kernels = [kernel for kernel in prunable_kernels(model) if kernel.layer == "dense"]
    # 144 x 5 weights: the last column of blocks sticks out.
    selection = Selection(layouts=layouts(model, kernels), pattern=BLOCKS)
    pruner = MagnitudePruner(kernels, build_schedule(SCHEDULES["polynomial"]), selection)
    _assert_equal_throughout("blocks", model, kernels, pruner, their_patterns, tmp_path)
    selection.check(kernels, SCHEDULES["polynomial"].final_sparsity)


@pytest.mark.slow
def test_two_of_four_equals_that_of_tfmot_at_every_step(their_patterns: dict[str, np.ndarray], tmp_path: Path) -> None:
    """It makes its masks before the first step and holds them, whatever the schedule says."""
    model = _net()
    kernels = [kernel for kernel in prunable_kernels(model) if kernel.layer != "transpose"]
    selection = Selection(layouts=layouts(model, kernels), pattern=NOfM(2, 4))
    settle(kernels, 0.5, selection)
    _assert_equal_throughout("two of four", model, kernels, holding(kernels), their_patterns, tmp_path)
    selection.check(kernels, 0.5)


@pytest.mark.parametrize(("shape", "pattern"), MASKS)
def test_masks_of_single_kernels_equal_those_of_tfmot(
    shape: tuple[int, ...], pattern: Blocks | NOfM, theirs: dict[str, np.ndarray]
) -> None:
    layout = Layout(None, shape, (len(shape) - 2,), (len(shape) - 1,))
    chosen = Selection(layouts={"k": layout}, pattern=pattern).masks({"k": _kernel(shape)}, 0.6, ties=True)["k"]
    np.testing.assert_array_equal(chosen, theirs[f"mask/{MASKS.index((shape, pattern))}"] != 0)


def _assert_equal_throughout(
    schedule: str,
    model: Any,
    kernels: Sequence[Kernel],
    pruner: MagnitudePruner,
    theirs: dict[str, np.ndarray],
    folder: Path,
) -> None:
    """Trains, and compares masks and weights of every step, and all variables in the end."""
    recorder = Recorder(pruner, kernels)
    context = Context(workdir=folder, train=_samples(), seed=SEED)
    finetune(model, PARAMS, context, label="prune", companions=(pruner, recorder))
    steps = range(1, pruner.step + 1)
    assert len(steps) == 12
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


def _assert_equal_but_for_rounding(ours: np.ndarray, theirs: np.ndarray, name: str) -> None:
    """Keras 2 and 3 order the sums of a gradient differently: the last bit, 6e-8 here, may differ."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-7, err_msg=name)
