"""What goes to a board: the agent, artifacts and evaluation inputs, each by its sha256 and never twice."""

from __future__ import annotations

import contextlib
import io
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_tests.agent_zip import AgentZip, build_agent
from device_tests.connection import Connection
from device_tests.deadline import Deadline
from device_tests.install import install_python_hint
from device_tests.upload import push
from edgesmith.errors import BoardError, InfrastructureError
from edgesmith.files import sha256_bytes, write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AgentZip", "EncodedInputs", "build_agent", "encode_inputs", "ensure_agent", "meaning", "push"]

_OLDEST_PYTHON = (3, 6)
_CLEAN_S = 10.0

# Runs on the board before the agent is there: says what Python it is and, where a file waits in incoming/, accepts it.
_BOOTSTRAP = """
import hashlib, json, os, sys
upload, target, sha = sys.argv[1:]
def right(path):
    return os.path.exists(path) and hashlib.sha256(open(path, "rb").read()).hexdigest() == sha
arrived = os.path.exists(upload)
if arrived and right(upload):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(upload, target)
elif arrived:
    os.remove(upload)
print(json.dumps({"edgesmith": 1, "python": list(sys.version_info[:3]), "have": right(target), "arrived": arrived}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedInputs:
    """Evaluation samples as they travel.

    Attributes:
        path: a `.npy` file.
        dtype: what the values mean on arrival; the agent casts to it, which changes no value. Commas between inputs.
    """

    path: Path
    sha256: str
    dtype: str


def encode_inputs(x: NDArray[Any], folder: Path) -> EncodedInputs:
    """Writes samples to `folder`, named by their hash.

    Floats that are all whole numbers 0..255 (pixels) travel as uint8, a quarter of the bytes and exactly the same
    values. Other floats travel as float32, integers as they are. Several inputs are fields called 0, 1, ...: a board's
    numpy may be too old for the names that models use.

    Args:
        x: [N, ...], several inputs joined (`calibration.inputs`).
        folder: made when missing.
    """
    import numpy as np

    from calibration import inputs

    columns = [part.astype(np.float32, copy=False) if part.dtype.kind == "f" else part for part in inputs.split(x)]
    packed = [part.astype(np.uint8) if part.dtype.kind == "f" and _are_pixels(part) else part for part in columns]
    values = inputs.join(packed, [str(number) for number in range(len(packed))])
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    content = buffer.getvalue()
    sha256 = sha256_bytes(content)
    path = folder / f"{sha256}.npy"
    if not path.exists():
        write_bytes(path, content)
    return EncodedInputs(path=path, sha256=sha256, dtype=meaning(x))


def meaning(x: NDArray[Any]) -> str:
    """`EncodedInputs.dtype` of samples."""
    from calibration import inputs

    return ",".join("float32" if part.dtype.kind == "f" else part.dtype.name for part in inputs.split(x[:1]))


def _are_pixels(values: NDArray[Any]) -> bool:
    import numpy as np

    whole = (values >= 0) & (values <= 255) & (values == np.floor(values))  # False for NaN
    return bool(whole.all()) and not bool(np.signbit(values).any())


def ensure_agent(
    connection: Connection, python: str, workdir: str, agent: AgentZip, scratch: Path, deadline: Deadline
) -> tuple[str, int]:
    """Brings the agent to the board unless it is there.

    Args:
        connection: the open link.
        python: interpreter on the board.
        workdir: our folder on the board.
        agent: what to bring.
        scratch: folder here, for the file that is sent.
        deadline: for all of it.

    Returns:
        (its path on the board, bytes sent).

    Raises:
        BoardError: no usable Python, or no room.
        ConnectionLost, DeadlineExceeded: as the connection says.
    """
    target = f"{workdir}/agent/agent-{agent.sha256}.zip"
    upload = f"{workdir}/incoming/agent-{secrets.token_hex(4)}.zip"
    bootstrap = [python, "-c", _BOOTSTRAP, upload, target, agent.sha256]
    if _bootstrap(connection, bootstrap, deadline)["have"]:
        return target, 0
    file = scratch / f"agent-{agent.sha256}.zip"
    write_bytes(file, agent.content)
    try:
        connection.put(file, upload, deadline)
    except InfrastructureError:
        # The board has not been leased yet, so another of our sessions may be sending the same: names are random, and
        # what has begun under one is never gone on with.
        with contextlib.suppress(InfrastructureError):
            connection.run(["rm", "-f", upload, f"{upload}.part"], Deadline.after(_CLEAN_S))
        raise
    if not _bootstrap(connection, bootstrap, deadline)["have"]:
        raise BoardError(
            f"{connection.address}: the agent arrived damaged in {workdir}.",
            next_step="The board's disk may be full or failing: `df -h` and `dmesg` there tell.",
        )
    return target, len(agent.content)


def _bootstrap(connection: Connection, argv: list[str], deadline: Deadline) -> dict[str, Any]:
    python = argv[0]
    done = connection.run(argv, deadline)
    # A login shell's start-up files may have printed before us.
    line = next((text for text in reversed(done.stdout.splitlines()) if text.startswith(b'{"edgesmith"')), None)
    if done.exit_status in (126, 127):
        raise BoardError(
            f"{connection.address}: the Python '{python}' is not there or not executable "
            f"(exit status {done.exit_status}): {_last_line(done.stderr)}",
            next_step=f"{install_python_hint(connection)} Another interpreter is named by `python:` in devices.yaml.",
        )
    if line is None:
        ended = f"signal {done.signal}" if done.signal else f"exit status {done.exit_status}"
        raise BoardError(
            f"{connection.address}: '{python}' on the board failed with {ended}: {_last_line(done.stderr)}",
            next_step=f"Try `{python} --version` on the board; `python:` in devices.yaml names another interpreter.",
        )
    found: dict[str, Any] = json.loads(line)
    if tuple(found["python"]) < _OLDEST_PYTHON:
        version = ".".join(map(str, found["python"]))
        raise BoardError(
            f"{connection.address}: '{python}' is Python {version}; the agent needs 3.6 or newer.",
            next_step="Name a newer interpreter as `python:` in devices.yaml.",
        )
    return found


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "no message"
