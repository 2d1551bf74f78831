"""Ready recipes: names for lists of steps, as data. `recipe: balanced` in a config means the steps of that name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgesmith.errors import ConfigError

Steps = tuple[dict[str, dict[str, Any]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A recipe with a name.

    Attributes:
        summary: what it is for, one line.
        needs: which data it needs, for people.
        steps: as a config holds them.
    """

    summary: str
    needs: str
    steps: Steps


_UNLABELLED = "training samples, labels are not needed; calibration samples"

READY: dict[str, Ready] = {
    "balanced": Ready(
        summary="30 % fewer multiply-accumulates and int8: a mild cut, faster and smaller",
        needs=_UNLABELLED,
        steps=(
            {"prune_channels": {"keep": 0.7, "epochs": 6, "learning_rate": 1e-3, "distill": {}}},
            {"quantize": {"scheme": "int8"}},
        ),
    ),
    "smallest": Ready(
        summary="fewer channels, zeros among the weights that are left, few shared values, int8: the smallest download",
        needs=_UNLABELLED,
        steps=(
            {"prune_channels": {"keep": 0.5, "epochs": 8, "learning_rate": 1e-3, "distill": {}}},
            {"prune": {"final_sparsity": 0.6, "epochs": 8, "learning_rate": 1e-3, "distill": {}}},
            {"cluster": {"clusters": 32, "epochs": 4, "distill": {}}},
            {"quantize": {"scheme": "int8"}},
        ),
    ),
    "fastest": Ready(
        summary="60 % fewer multiply-accumulates in three rounds, and int8: the shortest latency",
        needs=_UNLABELLED,
        steps=(
            {"prune_channels": {"keep": 0.4, "steps": 3, "epochs": 5, "learning_rate": 1e-3, "distill": {}}},
            {"quantize": {"scheme": "int8"}},
        ),
    ),
    "no-training": Ready(
        summary="15 % fewer multiply-accumulates, repaired by least squares on samples, and int8: no training",
        needs="calibration samples",
        steps=(
            {"prune_channels": {"keep": 0.85, "epochs": 0}},
            {"quantize": {"scheme": "int8"}},
        ),
    ),
    "deep-compression": Ready(
        summary="zeros in rounds, then few shared values: what `edgesmith pack` makes small files of",
        needs="training samples, labels are not needed",
        steps=(
            {
                "prune": {
                    "schedule": "iterative",
                    "final_sparsity": 0.85,
                    "rounds": 3,
                    "epochs": 8,
                    "learning_rate": 1e-3,
                    "distill": {},
                }
            },
            {"cluster": {"clusters": 16, "epochs": 6, "distill": {}}},
        ),
    ),
}


def expanded(recipe: Steps) -> Steps:
    """The steps that a config's recipe stands for: those of the ready recipe it names alone, else its own."""
    if len(recipe) != 1:
        return recipe
    ((name, params),) = recipe[0].items()
    return READY[name].steps if name in READY and not params else recipe


def get(name: str) -> Ready:
    """A ready recipe by its name.

    Raises:
        ConfigError: there is none of that name; says which ones there are.
    """
    if name not in READY:
        raise ConfigError(f"unknown recipe '{name}'; there are: {', '.join(READY)}.")
    return READY[name]


def written_out(name: str) -> str:
    """A ready recipe as it would stand in a config, to be copied and changed."""
    import yaml

    lines = ["recipe:"]
    for step in READY[name].steps:
        ((technique, params),) = step.items()
        values = yaml.safe_dump(params, default_flow_style=True, sort_keys=False, width=10_000).strip()
        lines.append(f"  - {technique}: {values}")
    return "\n".join(lines)
