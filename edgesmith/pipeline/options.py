"""What the command line adds to the config."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgesmith.errors import InputError
from edgesmith.pipeline.run_folder import LATEST, reopen

OPTIONS = "options.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of one run; the defaults are the command line's.

    Attributes:
        runs_dir: where run folders and the store are.
        resume: go on in the newest run (or `run_id`) instead of starting one.
        devices: instead of the config's.
        inventory: a devices.yaml; None = looked for beside the config, then in the user's config folder.
        redo: labels of steps whose kept result is ignored.
        remeasure: take every measurement again.
        lease_wait_s: how long each board is waited for while somebody else holds it. Not kept for a resume.
        power_mode: instead of the config's; None leaves that.
        lock_clocks: even where the config does not say so.
    """

    runs_dir: Path = Path("runs")
    resume: bool = False
    run_id: str = LATEST
    devices: tuple[str, ...] = ()
    inventory: Path | None = None
    allow_synthetic: bool = False
    redo: tuple[str, ...] = ()
    remeasure: bool = False
    lease_wait_s: float = 600.0
    power_mode: str | None = None
    lock_clocks: bool = False

    @property
    def measuring(self) -> tuple[str, ...]:
        """The options that change how it is measured, as on the command line."""
        mode = () if self.power_mode is None else ("--power-mode", self.power_mode)
        return (*mode, *(("--lock-clocks",) if self.lock_clocks else ()))


def kept_options(options: RunOptions) -> dict[str, Any]:
    """What a resume has to know of the command line, as JSON."""
    return {
        "devices": list(options.devices),
        "inventory": str(options.inventory.resolve()) if options.inventory else None,
        "allow_synthetic": options.allow_synthetic,
        "power_mode": options.power_mode,
        "lock_clocks": options.lock_clocks,
    }


def resumed_options(options: RunOptions, path: Path) -> RunOptions:
    """Options of a resume: what its command line does not say is taken from the run's own.

    Raises:
        InputError: the run did not keep them.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: the options of this run cannot be read: {error}.") from None
    return replace(
        options,
        devices=options.devices or tuple(kept["devices"]),
        inventory=options.inventory or (Path(kept["inventory"]) if kept["inventory"] else None),
        allow_synthetic=options.allow_synthetic or kept["allow_synthetic"],
        # Runs of earlier versions did not keep these.
        power_mode=options.power_mode if options.power_mode is not None else kept.get("power_mode"),
        lock_clocks=options.lock_clocks or kept.get("lock_clocks", False),
    )


def config_of_run(runs_dir: Path, run_id: str) -> Path:
    """The config file that a run was started with, so that a resume need not name it.

    Raises:
        InputError: there is no such run.
    """
    _, result = reopen(runs_dir, run_id)
    return Path(result.config_path)
