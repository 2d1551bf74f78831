"""What every layer does to channels: one small function for each kind, found by the name of its class."""

from __future__ import annotations

from typing import Any

from optimizer.channels import rules_shape, rules_through, rules_weights
from optimizer.channels.trace import Rule

_RULES: dict[str, Rule] = {**rules_through.RULES, **rules_shape.RULES, **rules_weights.RULES}


def rule_for(layer: Any) -> Rule:
    """The rule of a layer of Keras itself. A class of the user's own may do anything, whatever it is called."""
    ours = type(layer).__module__.partition(".")[0] == "keras"
    return _RULES.get(type(layer).__name__, _unknown) if ours else _unknown


def _unknown(_call: Any, _trace: Any) -> None:
    return None
