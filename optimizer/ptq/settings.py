"""What a user may choose about quantization after training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgesmith.types import Precision

ObserverChoice = Literal["auto", "minmax", "moving-average", "percentile", "entropy", "mse"]
Rounding = Literal["nearest", "learned"]
PtqScheme = Literal["int8", "int8-float-io", "int16x8", "int4-weights"]

_PRECISION: Mapping[PtqScheme, Precision] = {
    "int8": "int8",
    "int8-float-io": "int8",
    "int16x8": "int16",
    "int4-weights": "int4",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PtqSettings:
    """How a plan is made.

    Attributes:
        scheme: int8, or int16 activations with int8 weights, or int8 activations with int4 weights. A plan does not
            know whether the file has float inputs: int8 and int8-float-io are the same here.
        observer: what decides the ranges of activations. "auto": per tensor, by measured error at the ops that read
            it, and the whole plan is the best of several, see `optimizer.ptq.variants`.
        equalize: cross-layer equalization before rounding; with "auto" it is tried, and kept where it helps.
        smooth: SmoothQuant's migration from activations to weights in front of MatMuls; tried in the same way.
        bias_correction: empirical; each op keeps it only where it lowers the error of samples not used for it.
        rounding: of weights: to the nearest integer, or up or down as the op's measured inputs ask for.
        per_channel: a weight scale for each output channel, or one for the kernel.
        keep_float: the user's own layers that stay float32.
        precision_of: op name in the plan graph to the precision it gets in place of the scheme's own.
        reasons: op name to why `precision_of` says so, for the plan's record; a default is used where it is silent.
        seed: of the choice of samples and positions.
    """

    scheme: PtqScheme = "int8"
    observer: ObserverChoice = "auto"
    equalize: bool = True
    smooth: bool = False
    bias_correction: bool = True
    rounding: Rounding = "nearest"
    per_channel: bool = True
    keep_float: tuple[str, ...] = ()
    precision_of: Mapping[str, Precision] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    @property
    def precision(self) -> Precision:
        """Of an op that no exception is made for."""
        return _PRECISION[self.scheme]

    def plain(self) -> dict[str, Any]:
        """As plain JSON values, for `QuantPlan.settings` and for cache keys."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["keep_float"] = list(self.keep_float)
        values["precision_of"] = dict(sorted(self.precision_of.items()))
        values["reasons"] = dict(sorted(self.reasons.items()))
        return values
