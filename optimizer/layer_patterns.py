"""Layers by name or shell-style pattern, for techniques that are asked to take some and leave others."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from edgesmith.errors import ModelError


def select(paths: Sequence[str], include: Sequence[str], exclude: Sequence[str], *, what: str) -> tuple[str, ...]:
    """The layers that match.

    Args:
        paths: of the layers there are to choose from, "backbone/conv1".
        include: patterns of full paths or of layers' own names; none = all of them.
        exclude: the same; wins over `include`.
        what: what the layers are, for messages: "layer that low_rank can factorise".

    Raises:
        ModelError: there is no such layer, a pattern matches none, or nothing is left.
    """
    listed = f"They are: {', '.join(paths)}."
    if not paths:
        raise ModelError(f"The model has no {what}.")
    for pattern in (*include, *exclude):
        if not any(_matches(path, pattern) for path in paths):
            raise ModelError(f"The layer pattern '{pattern}' matches no {what}.", next_step=listed)
    chosen = tuple(
        path
        for path in paths
        if (not include or any(_matches(path, pattern) for pattern in include))
        and not any(_matches(path, pattern) for pattern in exclude)
    )
    if not chosen:
        raise ModelError(f"`include` and `exclude` leave no {what}.", next_step=listed)
    return chosen


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path.rpartition("/")[2], pattern)
