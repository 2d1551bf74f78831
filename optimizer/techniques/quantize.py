"""`quantize`: the numbers of the compiled artifact. The compiler does it; the Keras model goes on as it is."""

from __future__ import annotations

from pydantic import Field

from edgesmith.config import Section
from edgesmith.types import Scheme
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage

SUMMARY = "int8, float16 or dynamic-range numbers, after training (smaller and mostly faster)"
STAGE = Stage.QUANTIZE
COMPILE_TIME = True
MAKES: frozenset[Property] = frozenset()
PRESERVES = frozenset({Property.ZEROS, Property.SHARED_VALUES})


class Params(Section):
    """Which numbers."""

    scheme: Scheme = Field(
        default=Scheme.INT8,
        description="int8: integers throughout, int8 in and out; int8-float-io: the same with float32 in and out; "
        "float16: weights only; dynamic: int8 weights, float activations; none: float32.",
    )
    per_channel: bool = Field(default=True, description="A scale for each output channel of a kernel, or one for all.")


def needs(params: Params) -> Needs:
    """Calibration data, where ranges of activations have to be observed."""
    return Needs(calibration_data=params.scheme.needs_calibration)


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Nothing to refuse: what a target can make is in its capabilities."""
    del model, params, context


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Returns the model as it is; see `optimizer.recipe.quant_request`."""
    del context
    return Applied(model=model, notes=(f"{params.scheme} is made when each target compiles",))
