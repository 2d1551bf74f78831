"""`quantize`: the numbers of the compiled artifact. The compiler does it; the Keras model goes on as it is."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from edgesmith.config import Section
from edgesmith.errors import ConfigError
from edgesmith.types import Scheme
from optimizer.base import Applied, Context, KerasModel, Needs, Property, Stage

SUMMARY = "int8, int16x8, int4 weights, float16 or dynamic-range numbers, after training (smaller and mostly faster)"
STAGE = Stage.QUANTIZE
COMPILE_TIME = True
MAKES: frozenset[Property] = frozenset()
PRESERVES = frozenset({Property.ZEROS, Property.SHARED_VALUES})


class Params(Section):
    """Which numbers, and how they are found."""

    scheme: Scheme = Field(
        default=Scheme.INT8,
        description="int8: integers throughout, int8 in and out; int8-float-io: the same with float32 in and out; "
        "int16x8: int16 activations, int8 weights; int4-weights: int4 weights where the runtime has kernels for them; "
        "float16: weights only; dynamic: int8 weights, float activations; none: float32.",
    )
    per_channel: bool = Field(default=True, description="A scale for each output channel of a kernel, or one for all.")
    plan: Literal["auto", "runtime"] = Field(
        default="auto",
        description="auto: ranges, repairs and exceptions are decided once, for all targets; runtime: each runtime's "
        "own quantizer with plain min-max ranges, to compare with.",
    )
    observer: Literal["auto", "minmax", "moving-average", "percentile", "entropy", "mse"] = Field(
        default="auto", description="What decides the ranges of activations; auto: per tensor, by measured error."
    )
    equalize: bool = Field(default=True, description="Cross-layer equalization before rounding, where it helps.")
    smooth: bool = Field(default=True, description="The same from layer normalization into matrix products.")
    bias_correction: bool = Field(default=True, description="Takes the mean error of rounding out of the biases.")
    rounding: Literal["nearest", "learned"] = Field(
        default="nearest", description="Weights to the nearest integer, or up or down as calibration data asks for."
    )
    keep_float: tuple[str, ...] = Field(
        default=(), description="Layers that stay float32: names or patterns like block_1*."
    )
    search: bool = Field(
        default=True,
        description="Where the budget names accuracy_drop_pp and full int8 misses it: the fewest layers kept in "
        "float32 that meet it.",
    )
    max_trials: int = Field(default=40, ge=1, description="Most plans tried in that search.")
    minutes: float = Field(default=10.0, gt=0, description="Longest time for that search.")

    @model_validator(mode="after")
    def _runtimes_can(self) -> Params:
        if self.plan == "runtime" and self.scheme in (Scheme.INT16X8, Scheme.INT4_WEIGHTS):
            raise ValueError(f"the runtimes' own quantizers do not make {self.scheme} here; take `plan: auto`")
        if self.plan == "runtime" and self.keep_float:
            raise ValueError("the runtimes' own quantizers know no keep_float; take `plan: auto`")
        return self


def needs(params: Params) -> Needs:
    """Calibration data, where ranges of activations have to be observed."""
    return Needs(calibration_data=params.scheme.needs_calibration)


def check(model: KerasModel, params: Params, context: Context) -> None:
    """Refuses names of layers that the model does not have.

    Raises:
        ConfigError: such a name, with the nearest one that exists.
    """
    del context
    known = list(_layer_names(model))
    for pattern in params.keep_float:
        name = pattern.rpartition("/")[2]
        if not fnmatch.filter(known, name):
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"keep_float: the model has no layer '{pattern}'.",
                next_step=f"Did you mean '{close[0]}'?" if close else f"Its layers: {', '.join(known[:12])}.",
            )


def _layer_names(model: KerasModel) -> Iterator[str]:
    """Of all layers, those of nested models too."""
    for layer in model.layers:
        yield layer.name
        if hasattr(layer, "layers"):
            yield from _layer_names(layer)


def apply(model: KerasModel, params: Params, context: Context) -> Applied:
    """Returns the model as it is; see `optimizer.recipe.quant_request`."""
    del context
    return Applied(model=model, notes=(f"{params.scheme} is made when each target compiles",))
