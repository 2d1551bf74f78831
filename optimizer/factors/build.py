"""The Keras layers of a product."""

from __future__ import annotations

from typing import Any

import numpy as np

from optimizer import rewrite
from optimizer.base import KerasModel
from optimizer.factors.maps import Kernel, Linear, Stage


def replacement(
    model: KerasModel, linear: Linear, stages: tuple[Stage, ...], kernels: tuple[Kernel, ...]
) -> rewrite.Replacement:
    """A chain of layers for one layer: `<name>_a`, `<name>_b`, and last one of the old name with bias and activation.

    Strides, padding and dilation go to the layers that reach along their axis. Regularizers go to all; a constraint of
    the kernel goes to none, since the product of constrained factors is not what was constrained.

    Args:
        model: that it will stand in; for names that are still free.
        linear: the layer.
        stages: of the product.
        kernels: one for each stage.
    """
    name = str(linear.layer.name)
    names = [rewrite.free_name(model, f"{name}_{letter}") for letter, _ in zip("ab", stages[:-1], strict=False)]
    parts: list[tuple[Any, rewrite.Weights]] = []
    for index, (stage, kernel) in enumerate(zip(stages, kernels, strict=True)):
        last = index == len(stages) - 1
        config = _config(linear, stage, kernel, last=last)
        config["name"] = name if last else names[index]
        weights = [kernel.astype(np.float32)]
        if last and linear.layer.use_bias:
            weights.append(np.asarray(linear.layer.bias.numpy()))
        parts.append((type(linear.layer).from_config(config), weights))
    return rewrite.chain(*parts)


def _config(linear: Linear, stage: Stage, kernel: Kernel, *, last: bool) -> dict[str, Any]:
    config = dict(linear.layer.get_config())
    config |= {"kernel_initializer": "glorot_uniform", "kernel_constraint": None}
    if not last:
        config |= {"use_bias": False, "activation": None, "bias_regularizer": None, "activity_regularizer": None}
    if not linear.window:
        return config | {"units": stage.outputs}
    reach = kernel.shape[:-2]
    return config | {
        "filters": stage.outputs,
        "kernel_size": reach,
        "strides": _along(stage, linear.strides),
        "dilation_rate": _along(stage, linear.layer.dilation_rate),
        "padding": config["padding"] if stage.axes else "valid",
    }


def _along(stage: Stage, values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(value if axis in stage.axes else 1 for axis, value in enumerate(values))
