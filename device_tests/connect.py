"""The way to a board, whatever it is: chosen by the device's transport, in this one place."""

from __future__ import annotations

from pathlib import Path

from device_tests.connection import Connection
from device_tests.deadline import Deadline
from device_tests.local import Local
from edgesmith.types import Device


def connect(device: Device, deadline: Deadline, local_root: Path) -> Connection:
    """Opens the link.

    Args:
        device: where to.
        deadline: for the connection, further attempts included.
        local_root: what relative paths mean on the device "local".

    Raises:
        ConfigError, BoardError, ConnectionLost: as the transport says.
    """
    if device.transport == "local":
        return Local(local_root)
    if device.transport == "fake":
        from device_tests.fake import FakeConnection

        return FakeConnection(device)
    from device_tests.ssh import Ssh

    return Ssh(device, deadline)
