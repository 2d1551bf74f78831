"""What every stage of one run is handed: where finished work is kept, where steps are written down, who is told."""

from __future__ import annotations

from dataclasses import dataclass

from edgesmith.pipeline.replay import Replay
from edgesmith.pipeline.store import Store
from edgesmith.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The surroundings of a stage."""

    store: Store
    replay: Replay
    progress: Progress
