"""What the command line adds to the config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgesmith.pipeline.run_folder import LATEST


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
    """

    runs_dir: Path = Path("runs")
    resume: bool = False
    run_id: str = LATEST
    devices: tuple[str, ...] = ()
    inventory: Path | None = None
    allow_synthetic: bool = False
    redo: tuple[str, ...] = ()
    remeasure: bool = False
