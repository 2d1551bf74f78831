"""The stages in order, the run folder, resume; nothing else."""

from __future__ import annotations

from edgesmith.pipeline.options import RunOptions, config_of_run
from edgesmith.pipeline.run import run

__all__ = ["RunOptions", "config_of_run", "run"]
