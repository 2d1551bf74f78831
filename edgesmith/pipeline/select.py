"""Which targets a device gets: those the user names, else all that the model, this machine and the board allow."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import targets
from edgesmith.config import LoadedConfig
from edgesmith.errors import ConfigError
from edgesmith.pipeline import tensorrt_settings
from edgesmith.types import BoardInfo, Capabilities, Device, Model, Scheme
from targets import tensorrt_asked
from targets.board_runtime import is_jetson, runtime_facts


@dataclass(frozen=True, slots=True)
class Selection:
    """The targets for one device, and why others were left out."""

    names: tuple[str, ...]
    notes: tuple[str, ...]


def select_targets(
    loaded: LoadedConfig,
    device: Device,
    model: Model,
    scheme: Scheme,
    info: BoardInfo | None,
    *,
    installed: bool = True,
    has_plan: bool = True,
) -> Selection:
    """Chooses the targets of a device.

    Args:
        info: what the board said; None where it was not reached: its runtimes are then not considered.
        installed: False considers what the board is, and not which runtimes it has.
        has_plan: there is a common quantization plan, or none is needed, or it is not known yet.

    Raises:
        ConfigError: a target that was asked for by name cannot be had, or none is left, or what is asked of one
            cannot be had.
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
        if not asked and not _concerns(targets.get(name).capabilities(), device, info):
            continue
        reason, fix = _reason_against(name, model, scheme, has_plan=has_plan)
        if not reason:
            reason, fix = _board_against(name, scheme, device, info, installed=installed and not asked)
        if not reason:
            names.append(name)
        elif asked:
            raise ConfigError(f"{loaded.where('targets')}: target {name}: {reason}.", next_step=fix)
        else:
            notes.append(f"{device.name}: {name} left out: {reason}. {fix}".strip())
    if not names:
        raise ConfigError(f"{device.name}: no target can take this model here.\n" + "\n".join(notes))
    if tensorrt_asked.TARGET in names:
        tensorrt_settings.refuse(loaded, device, info)
    return Selection(tuple(names), tuple(notes))


def _concerns(can: Capabilities, device: Device, info: BoardInfo | None) -> bool:
    """Whether a target has anything to do with a board: what is for Jetsons is not even told of elsewhere."""
    return not can.jetson_only or is_jetson(device, info) or (info is not None and can.runner in info.runners)


def _reason_against(name: str, model: Model, scheme: Scheme, *, has_plan: bool) -> tuple[str, str]:
    """Why a target cannot be used here, and what to do; two empty texts where it can."""
    target = targets.get(name)
    state = target.state()
    if not state.available:
        return state.reason, state.fix
    can = target.capabilities()
    if model.kind not in can.model_kinds:
        return f"it compiles {' and '.join(sorted(can.model_kinds))} models, this is an {model.kind} model", ""
    if scheme not in can.schemes:
        return f"it cannot make {scheme.value}; it makes {', '.join(sorted(can.schemes))}", ""
    if can.needs_plan and scheme.needs_calibration and not has_plan:
        return f"it makes {scheme.value} from a quantization plan only, and there is none", ""
    return "", ""


def _board_against(
    name: str, scheme: Scheme, device: Device, info: BoardInfo | None, *, installed: bool
) -> tuple[str, str]:
    """The same for a board; empty where it can, or the board was not reached."""
    if info is None:
        return "", ""
    target = targets.get(name)
    can = target.capabilities()
    if installed and can.runner not in info.runners:
        return f"the board has no runtime for it ({', '.join(info.runtimes) or 'none found'})", ""
    runtime = runtime_facts(device, info, can.runner) if can.per_runtime else None
    if runtime is None:
        return "", ""
    try:
        there = target.capabilities(info.machine, runtime)
    except ConfigError as error:
        return error.what.rstrip("."), error.next_step
    if scheme not in there.schemes:
        gpu = f" (compute capability {runtime.compute})" if runtime.compute else ""
        makes = sorted(there.schemes - {Scheme.NONE})
        fix = f"What it makes there: quantize: {{scheme: {makes[0].value}}}." if makes else ""
        return f"the GPU of this board{gpu} does not compute in {scheme.value}", fix
    return "", ""
