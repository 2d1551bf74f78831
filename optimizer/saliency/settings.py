"""What a recipe says about `prune`, and which of it cannot go together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from calibration.user_code import is_reference
from optimizer.finetune import TrainingParams
from optimizer.saliency.patterns import Blocks, Pattern, Pooling, n_of_m
from optimizer.saliency.selection import Scope

ROUNDS = 3
"""Of an iterative schedule."""


class PruneParams(TrainingParams):
    """How much, when, where, and which weights."""

    schedule: Literal["polynomial", "constant", "iterative", "one_shot"] = Field(
        default="polynomial",
        description="polynomial ramps up to final_sparsity while training; constant starts with it; iterative prunes "
        "and fine-tunes in `rounds`; one_shot prunes once, then fine-tunes. For n:m, obd and obs one_shot is the "
        "default. With `epochs: 0` all but iterative prune once.",
    )
    initial_sparsity: float = Field(default=0.0, ge=0, lt=1, description="Where a polynomial schedule starts.")
    final_sparsity: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Share of zeros in every pruned kernel, or in all of them together; n:m brings its own.",
    )
    begin_step: int | None = Field(default=None, ge=0, description="First step that prunes; default 0.")
    end_step: int | None = Field(
        default=None,
        ge=1,
        description="Last step that prunes; default: after 3/4 of training (polynomial), or never (constant).",
    )
    frequency: int | None = Field(
        default=None, ge=1, description="Renew the masks every so many steps; default: some fifty times in all."
    )
    power: float = Field(default=3.0, gt=0, description="Exponent of the polynomial schedule.")
    rounds: int | None = Field(
        default=None, ge=2, description=f"Of an iterative schedule, each of `epochs` epochs; default {ROUNDS}."
    )
    granularity: str = Field(
        default="element",
        description="element: each weight by itself; block: blocks of block_size; 2:4 (n:m): at most n of every m "
        "neighbouring input channels stay.",
    )
    block_size: tuple[int, int] | None = Field(
        default=None, description="[input channels, output channels] of a block; TF-MOT's [height, width]."
    )
    block_pooling: Pooling = Field(default="average", description="What stands for a block: the average, or the max.")
    scope: Scope = Field(
        default="layer",
        description="layer: the same share of zeros in every kernel; global: one threshold over all kernels.",
    )
    criterion: Literal["magnitude", "obd", "obs"] = Field(
        default="magnitude",
        description="What matters least: the smallest weights; Optimal Brain Damage (second derivatives of the loss); "
        "Optimal Brain Surgeon (a layer's outputs on samples; the weights that stay make up for the others).",
    )
    saliency_samples: int = Field(default=512, ge=1, description="Real samples that obd and obs look at, at most.")
    damping: float = Field(
        default=0.01, gt=0, description="obs: added to the second moments' diagonal, as a share of its mean."
    )
    include: tuple[str, ...] = Field(default=(), description="Layer names or patterns (* ?); default: all prunable.")
    exclude: tuple[str, ...] = Field(default=(), description="Layer names or patterns to leave dense.")

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        granularity = filled.get("granularity")
        if isinstance(granularity, int) and not isinstance(granularity, bool):
            # YAML 1.1 reads 2:4 without quotes as a number to base 60.
            granularity = filled["granularity"] = ":".join(map(str, divmod(granularity, 60)))
        pattern = n_of_m(granularity) if isinstance(granularity, str) else None
        if pattern is not None:
            filled.setdefault("final_sparsity", pattern.sparsity)
        if pattern is not None or filled.get("criterion") in ("obd", "obs"):
            filled.setdefault("schedule", "one_shot")
        return filled

    @field_validator("granularity")
    @classmethod
    def _known_granularity(cls, text: str) -> str:
        if text not in ("element", "block") and n_of_m(text) is None:
            raise ValueError("must be element, block, or n:m with n below m, such as 2:4")
        return text

    @field_validator("block_size")
    @classmethod
    def _positive(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if size is not None and min(size) < 1:
            raise ValueError("must be two numbers of at least 1")
        return size

    @model_validator(mode="after")
    def _consistent(self) -> PruneParams:
        if self.schedule != "polynomial":
            if "initial_sparsity" in self.model_fields_set and self.initial_sparsity != 0:
                raise ValueError(f"a {self.schedule} schedule has no initial_sparsity; take `schedule: polynomial`")
        elif self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity} is above final_sparsity {self.final_sparsity}: "
                f"zeros are not given back"
            )
        if self.begin_step is not None and self.end_step is not None and self.begin_step >= self.end_step:
            raise ValueError(f"begin_step {self.begin_step} must come before end_step {self.end_step}")
        if not self.gradual:
            for key in ("begin_step", "end_step", "frequency"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{self.schedule} prunes before it trains, at no step: leave {key} out")
        if self.schedule == "iterative" and not self.epochs:
            raise ValueError("iterative fine-tunes after every round: it needs epochs; without training take one_shot")
        if self.schedule != "iterative" and self.rounds is not None:
            raise ValueError(f"a {self.schedule} schedule has no rounds; take `schedule: iterative`")
        self._check_granularity()
        if self.criterion != "magnitude" and self.gradual:
            raise ValueError(
                f"{self.criterion} works its scores out anew at every pruning, and a {self.schedule} schedule prunes "
                f"some fifty times; take `schedule: one_shot` or `iterative`"
            )
        if self.criterion == "obd" and is_reference(self.loss):
            raise ValueError("obd knows the second derivatives of the built-in losses only; name one, or take obs")
        return self

    def _check_granularity(self) -> None:
        if (self.granularity == "block") != (self.block_size is not None):
            raise ValueError("`granularity: block` and a block_size belong together, e.g. block_size: [1, 4]")
        if self.granularity == "block" and self.criterion == "obs":
            raise ValueError(
                "obs takes weights one after the other and cannot weigh whole blocks; take obd or magnitude, "
                "or `granularity: 2:4`"
            )
        pattern = n_of_m(self.granularity)
        if pattern is None:
            return
        if self.schedule != "one_shot":
            raise ValueError(
                f"{self.granularity} has no ramp: as in TF-MOT its masks are made once; take `schedule: one_shot`"
            )
        if self.scope == "global":
            raise ValueError(
                f"{self.granularity} zeroes as many of every {pattern.m} input channels everywhere: scope global has "
                f"nothing to decide"
            )
        if abs(self.final_sparsity - pattern.sparsity) > 1e-9:
            raise ValueError(
                f"{self.granularity} means a final_sparsity of {pattern.sparsity:g}, not {self.final_sparsity:g}; "
                f"leave it out"
            )

    @property
    def gradual(self) -> bool:
        """Whether masks are renewed while training goes on."""
        return self.schedule in ("polynomial", "constant")

    @property
    def pattern(self) -> Pattern:
        """What goes together."""
        if self.block_size is not None:
            return Blocks(*self.block_size, self.block_pooling)
        return n_of_m(self.granularity)
