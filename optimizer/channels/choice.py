"""Decides which units of a network go: judged by a criterion, as many as a share or a budget asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from calibration.user_code import is_reference
from edgesmith.config import Section
from edgesmith.errors import DataError, ModelError
from edgesmith.types import SampleSet
from optimizer import losses
from optimizer.base import Context, KerasModel
from optimizer.channels import latency_table, saliency, scope, scores, select, widths
from optimizer.channels.groups import Channels, Group, find
from optimizer.channels.latency_price import LatencyPrice
from optimizer.channels.price import Kind, Price
from optimizer.channels.scope import Scope

Criterion = Literal["l1", "l2", "geometric_median", "bn_scale", "taylor", "obd", "random"]

_BY_WEIGHTS = {
    "l1": scores.l1,
    "l2": scores.l2,
    "geometric_median": scores.geometric_median,
    "bn_scale": scores.bn_scale,
}
BY_GRADIENTS = {"taylor": saliency.taylor, "obd": saliency.obd}
# Gradients of this many samples rank channels as those of the whole set do (Molchanov et al., section 4.2).
_MOST_SAMPLES = 1024
_MOST_HOLDERS = 3


class Wanted(Section):
    """What is asked for; the keys are those of `prune_channels`."""

    criterion: Criterion
    selection: Literal["global", "uniform", "per_layer"]
    budget: Literal["macs", "parameters", "latency"]
    keep: float
    latency_table: str
    share: float
    per_layer: dict[str, float]
    scope: Scope
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    round_to: int
    min_channels: int
    max_share: float
    loss: str

    @property
    def rules(self) -> widths.WidthRules:
        """For widths."""
        return widths.WidthRules(round_to=self.round_to, min_channels=self.min_channels, max_share=self.max_share)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """A decision.

    Attributes:
        channels: of the network it is about.
        kept: units that stay, by group.
        gone: numbers of the units that go.
    """

    channels: Channels
    kept: Sequence[int]
    gone: Sequence[int]


class Chooser:
    """Decides for a network, once or in parts: it remembers how wide the network was at first."""

    def __init__(self, model: KerasModel, wanted: Wanted, context: Context, *, seed: int) -> None:
        """Prepares.

        Args:
            model: as wide as it is before anything is taken out.
            wanted: what is asked for.
            context: with data, where the criterion takes gradients.
            seed: of what is drawn.

        Raises:
            ConfigError: the latency table cannot be read.
            ModelError: no channels can go, or the budget's cost cannot be counted.
        """
        self.wanted = wanted
        self._context, self._seed = context, seed
        self.channels = find(model)
        if not self.channels.groups:
            reasons = "; ".join(list(scope.frozen_reasons(self.channels))[:5])
            raise ModelError(f"No channels of {model.name} can be taken out: {reasons or 'no layer makes any'}.")
        self._originals = {group.key: len(group) for group in self.channels.groups}
        self._table = self._read_table()
        self._budget = 0.0
        if wanted.selection == "global":
            self._budget = self._cost(model, self.channels).total([len(group) for group in self.channels.groups])

    def check(self, model: KerasModel) -> None:
        """Refuses what `choose` would only find after work was done.

        Raises:
            ModelError: a pattern matches nothing, no group has a score, or the budget cannot be met.
            DataError: no data for gradients.
        """
        among = self._among(self.channels)
        if self.wanted.criterion in BY_GRADIENTS:
            self._evidence(model)
        elif self.wanted.criterion == "bn_scale":
            among = _scored(among, scores.bn_scale(self.channels))
        self._shares(self.channels, among, 1.0)
        if self.wanted.selection == "global":
            cost = self._cost(model, self.channels)
            narrowest = select.narrowest(self.channels, self._levels(self.channels, among))
            least = cost.total(narrowest)
            if least > self.wanted.keep * self._budget:
                raise ModelError(
                    f"`keep: {self.wanted.keep:g}` of {self.wanted.budget} is out of reach: with every group as narrow "
                    f"as allowed, {least / self._budget:.1%} are left. {self._holders(model, narrowest)}",
                    next_step=select.LOOSEN,
                )

    def choose(self, model: KerasModel, *, part: float = 1.0) -> Chosen:
        """Decides.

        Args:
            model: the one that was prepared for, or what is left of it.
            part: how far to go, in (0, 1]: the same factor is taken out in every equal part.

        Raises:
            ModelError, DataError: as `check`.
        """
        channels = find(model)
        judged = self._scores(model, channels)
        among = _scored(self._among(channels), judged)
        levels = self._levels(channels, among)
        if self.wanted.selection == "global":
            allowed = self._budget * self.wanted.keep**part
            kept = select.by_budget(channels, levels, judged, self._cost(model, channels), allowed)
        else:
            originals = [self._original(group) for group in channels.groups]
            kept = select.by_share(channels, levels, self._shares(channels, among, part), originals)
        return Chosen(channels=channels, kept=kept, gone=select.gone(channels, judged, kept))

    def held_by_rounding(self) -> tuple[str, ...]:
        """Names of the groups that are too narrow for the widths allowed, and stay whole."""
        levels = self._levels(self.channels, self._among(self.channels))
        return tuple(self.channels.groups[index].name for index, each in levels.items() if len(each) == 1)

    def outside(self) -> tuple[str, ...]:
        """Names of the groups that `scope`, `include` and `exclude` leave whole."""
        among = set(self._among(self.channels))
        return tuple(group.name for index, group in enumerate(self.channels.groups) if index not in among)

    def unscored(self) -> tuple[str, ...]:
        """Names of the groups that batch-norm scales cannot judge."""
        if self.wanted.criterion != "bn_scale":
            return ()
        judged = scores.bn_scale(self.channels)
        return tuple(self.channels.groups[index].name for index in self._among(self.channels) if index not in judged)

    def by_table(self, narrow: KerasModel) -> tuple[float, float, tuple[str, ...]] | None:
        """Milliseconds before and after by the latency table, and layers it does not hold; None without a table."""
        if self._table is None:
            return None
        channels = find(narrow)
        price = LatencyPrice(narrow, channels, self._table)
        return self._budget, price.total([len(group) for group in channels.groups]), price.left_out

    def _holders(self, model: KerasModel, kept: Sequence[int]) -> str:
        """Which layers hold most of what is left; a latency table has no layers, so there by multiply-accumulates."""
        kind: Kind = "parameters" if self.wanted.budget == "parameters" else "macs"
        price = Price(model, self.channels, kind)
        whole = price.total(kept)
        largest = sorted(price.by_layer(kept).items(), key=lambda item: -item[1])[:_MOST_HOLDERS]
        named = ", ".join(f"{path} {value / whole:.0%}" for path, value in largest)
        return f"Of the {'parameters' if kind == 'parameters' else 'multiply-accumulates'} left, most are in: {named}."

    def _among(self, channels: Channels) -> tuple[int, ...]:
        wanted = self.wanted
        return scope.select(channels, scope.within(channels, wanted.scope), wanted.include, wanted.exclude)

    def _levels(self, channels: Channels, among: Sequence[int]) -> Mapping[int, Sequence[int]]:
        groups = channels.groups
        rules = self.wanted.rules
        return {i: widths.levels(channels, groups[i], self._original(groups[i]), rules) for i in among}

    def _original(self, group: Group) -> int:
        return self._originals.get(group.key, len(group))

    def _shares(self, channels: Channels, among: Sequence[int], part: float) -> Mapping[int, float]:
        """By group, how much of its first width is gone after a part; of patterns that overlap the last one counts."""
        if self.wanted.selection == "global":
            return {}
        if self.wanted.selection == "uniform":
            whole = dict.fromkeys(among, self.wanted.share)
        else:
            whole = {}
            for pattern, share in self.wanted.per_layer.items():
                whole.update(dict.fromkeys(scope.matching(channels, among, pattern), share))
        return {index: 1.0 - (1.0 - share) ** part for index, share in whole.items()}

    def _cost(self, model: KerasModel, channels: Channels) -> select.Cost:
        if self._table is not None:
            return LatencyPrice(model, channels, self._table)
        return Price(model, channels, "parameters" if self.wanted.budget == "parameters" else "macs")

    def _read_table(self) -> latency_table.LatencyTable | None:
        if not self.wanted.latency_table:
            return None
        return latency_table.read((self._context.root or Path()) / self.wanted.latency_table)

    def _scores(self, model: KerasModel, channels: Channels) -> scores.Scores:
        criterion = self.wanted.criterion
        if criterion == "random":
            return scores.random(channels, self._seed)
        if criterion in BY_GRADIENTS:
            return BY_GRADIENTS[criterion](model, channels, self._evidence(model))
        return _BY_WEIGHTS[criterion](channels)

    def _evidence(self, model: KerasModel) -> saliency.Evidence:
        """Training samples where there are any, else those for calibration; labels where there are any and they fit."""
        samples: SampleSet | None = next(
            (s for s in (self._context.train, self._context.calibration) if s is not None and not s.synthetic), None
        )
        if samples is None:
            raise DataError(
                f"The criterion {self.wanted.criterion} takes gradients on data, and there are no real samples.",
                next_step="Give `data.train` or `data.calibration`, or take a criterion by weights, as l1.",
            )
        order = np.random.default_rng([self._seed, 8]).permutation(len(samples))[:_MOST_SAMPLES]
        loss = None
        if self.wanted.criterion == "taylor" and samples.y is not None and self._one_loss(model):
            loss = losses.choose_loss(model, self.wanted.loss, samples.y[order], self._context.root)
        return saliency.Evidence(x=samples.x[order], loss=loss, seed=self._seed, progress=self._context.progress)

    def _one_loss(self, model: KerasModel) -> bool:
        return len(model.outputs) == 1 or is_reference(self.wanted.loss)


def _scored(among: Sequence[int], judged: scores.Scores) -> tuple[int, ...]:
    found = tuple(index for index in among if index in judged)
    if not found:
        raise ModelError(
            "No channels of this model have a score by this criterion: no batch normalization with a scale holds them.",
            next_step="Take another criterion, as l1.",
        )
    return found
