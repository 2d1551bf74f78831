"""One moment by which something must be done, handed down so that inner waits never outlast outer ones."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgesmith.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A deadline this many seconds from now."""
        return cls(time.monotonic() + seconds)

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0.0 once it has passed."""
        return max(0.0, self.at - time.monotonic())

    def check(self, doing: str) -> None:
        """Raises DeadlineExceeded naming `doing` if the moment has passed."""
        if self.remaining_s <= 0.0:
            raise DeadlineExceeded(f"{doing}: the deadline passed.")
