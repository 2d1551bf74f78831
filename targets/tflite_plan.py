"""Lowers a plan to LiteRT: writes its integers, scales and zero points into the converter's float `.tflite` file.

The converter decides the structure; every number comes from the plan. Neither the converter's quantizer nor
ai-edge-quantizer is used: both choose numbers by rules of their own, and the latter has no integer form of PRELU,
LEAKY_RELU, RELU6, SQUEEZE or EXPAND_DIMS and leaves op versions at the float ones, which hides from old runtimes that
they are too old.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.types import Deviation
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from targets.tflite_grids import Grids, named, observe
from targets.tflite_match import match
from targets.tflite_model import TfliteModel
from targets.tflite_normalise import biases_behind_reshapes
from targets.tflite_repairs import check, repair
from targets.tflite_twins import roles
from targets.tflite_write import Writer


def lower(
    planned: Planned,
    original: PlanGraph,
    float_tflite: bytes,
    samples: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    float_io: bool,
) -> tuple[bytes, tuple[Deviation, ...]]:
    """Makes the quantized `.tflite` file of a plan. The same arguments give the same bytes.

    Args:
        planned: the plan, and the network after the repairs.
        original: the plan graph before them: what the float file holds.
        float_tflite: the converter's float32 file of the model, inputs and outputs in the model's order.
        samples: a few, [N, ...], one array per input: they tell tensors apart, and give a range to tensors that the
            plan does not know.
        float_io: float32 inputs and outputs; else integers wherever the plan has a grid for them.

    Returns:
        The file, and where it does not follow the plan, tensor by tensor.

    Raises:
        ModelError: the repaired network cannot be had from the float file.
    """
    x = [samples] if isinstance(samples, np.ndarray) else list(samples)
    model = TfliteModel(float_tflite)
    biases_behind_reshapes(model)
    found = match(model, model.content(compact=False), original, x)
    places = roles(model, original, found)
    repair(model, places, original, planned.graph)
    repaired = model.content(compact=False)
    check(repaired, planned.graph, [array[:2] for array in x], model.outputs)
    names = named(model, found, planned.plan)
    rounded = {tensor.name for tensor in planned.plan.tensors if tensor.params is not None}
    made = [*model.inputs, *(int(i) for op in model.ops for i in op.outputs)]
    unknown = [tensor for tensor in made if model.is_float(tensor) and names.get(tensor) not in rounded]
    grids = Grids(planned.plan, names, observe(repaired, planned.graph, x, unknown))
    writer = Writer(model, planned, places, found, grids)
    writer.write(float_io=float_io)
    return model.content(), writer.deviations
