"""The agent's child, whose runs take longer by the factor that the artifact's name ends in: `model-x1.05.tflite`.

What a run took is waited for again, a part of it, inside the timed span: a true slow-down by that factor, whatever the
machine does meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from device_tests.agent import child


class Slower(child.Child):  # type: ignore[misc]  # the agent is untyped
    """See the module."""

    def load(self, params: Mapping[str, Any], deadline: Any, event: Any) -> Any:
        """As the agent's; the factor is in the path."""
        self._factor = float(Path(params["path"]).stem.rpartition("-x")[2])
        return super().load(params, deadline, event)

    def _timed_run(self) -> Callable[[int], int]:
        run, clock, factor = super()._timed_run(), self._clock, self._factor

        def slower(index: int) -> int:
            start = clock()
            end = start + factor * run(index)
            while clock() < end:
                pass
            return int(clock() - start)

        return slower if factor > 1 else run


if __name__ == "__main__":
    child.Child = Slower
    child.main()
