"""Each step leaves the exact command that does it again, with its inputs by hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesmith.pipeline.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Replay:
    """Opens step folders in a run.

    Attributes:
        config: the config file as given.
        runs_dir: where the store is that the replay reads its inputs from.
        options: further options of this run that change what a step does.
    """

    folder: RunFolder
    config: Path
    runs_dir: Path
    options: tuple[str, ...] = ()

    def step(self, label: str, inputs: Sequence[str] = ()) -> Path:
        """Opens `NN-<label>/`; its command does this one step anew and takes all others from the store."""
        command = [
            "edgesmith", "run", str(self.config.resolve()), "--runs-dir", str(self.runs_dir.resolve()),
            *self.options, "--redo", label,
        ]  # fmt: skip
        return self.folder.step(label, command, inputs)
