"""What the unit tests share."""

from __future__ import annotations

from hypothesis import settings

# A time limit per example would make a busy machine a failing test.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
