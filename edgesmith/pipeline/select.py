"""Which targets a device gets: those the user names, else all that the model, this machine and the board allow."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import targets
from edgesmith.config import LoadedConfig
from edgesmith.errors import ConfigError
from edgesmith.types import BoardInfo, Device, Model, Scheme


@dataclass(frozen=True, slots=True)
class Selection:
    """The targets for one device, and why others were left out."""

    names: tuple[str, ...]
    notes: tuple[str, ...]


def select_targets(
    loaded: LoadedConfig, device: Device, model: Model, scheme: Scheme, info: BoardInfo | None
) -> Selection:
    """Chooses the targets of a device.

    Args:
        info: what the board said; None where it was not reached: its runtimes are then not considered.

    Raises:
        ConfigError: a target that was asked for by name cannot be had, or none is left.
    """
    asked = loaded.config.targets or device.targets
    known = targets.names()
    for index, name in enumerate(loaded.config.targets):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}."
            raise ConfigError(f"{loaded.where('targets', index)}: unknown target '{name}'; {hint}")
    names, notes = [], []
    for name in asked or known:
        reason, fix = _reason_against(name, model, scheme, None if asked else info)
        if not reason:
            names.append(name)
        elif asked:
            raise ConfigError(f"{loaded.where('targets')}: target {name}: {reason}.", next_step=fix)
        else:
            notes.append(f"{device.name}: {name} left out: {reason}. {fix}".strip())
    if not names:
        raise ConfigError(f"{device.name}: no target can take this model here.\n" + "\n".join(notes))
    return Selection(tuple(names), tuple(notes))


def _reason_against(name: str, model: Model, scheme: Scheme, info: BoardInfo | None) -> tuple[str, str]:
    """Why a target cannot be used, and what to do; two empty texts where it can."""
    target = targets.get(name)
    state = target.state()
    if not state.available:
        return state.reason, state.fix
    capabilities = target.capabilities()
    if model.kind not in capabilities.model_kinds:
        takes = " and ".join(sorted(capabilities.model_kinds))
        return f"it compiles {takes} models, this is an {model.kind} model", ""
    if scheme not in capabilities.schemes:
        makes = ", ".join(sorted(capabilities.schemes))
        return f"it cannot make {scheme.value}; it makes {makes}", ""
    if info is not None and capabilities.runner not in info.runners:
        return f"the board has no runtime for it ({', '.join(info.runtimes) or 'none found'})", ""
    return "", ""
