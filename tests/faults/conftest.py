"""The boards of tests/faults, and a link that can be made bad."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from device_tests.loopback import LoopbackBoard
from tests.faults.relay import Relay


@pytest.fixture(autouse=True)
def _alone(nobodys_ssh_setup: None) -> None:
    """No test of this folder sees the developer's own SSH set-up."""


@pytest.fixture
def relay(board: LoopbackBoard) -> Iterator[Relay]:
    """A link to the board that can be spoilt."""
    running = Relay(board.port)
    yield running
    running.close()
