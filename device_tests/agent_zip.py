"""The agent as one file for the board: same sources, same bytes, same hash."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgesmith.files import sha256_bytes

_AGENT = Path(__file__).parent / "agent"
_MAIN = b"from device_tests.agent.__main__ import main\n\nmain()\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentZip:
    """A file that Python runs: `python3 -u agent.zip`."""

    content: bytes
    sha256: str


def build_agent(extra: Mapping[str, bytes] | None = None) -> AgentZip:
    """Zips `device_tests/agent/`. Stored, not deflated: the bytes do not depend on a zlib version.

    Args:
        extra: more files, by path below `agent/`: a runner that is not ours.
    """
    files = {path.relative_to(_AGENT).as_posix(): path.read_bytes() for path in _AGENT.rglob("*.py")}
    files.update(extra or {})
    members = {"__main__.py": _MAIN, "device_tests/__init__.py": b""}
    members.update({str(PurePosixPath("device_tests/agent", name)): data for name, data in files.items()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), members[name])
    return AgentZip(content=buffer.getvalue(), sha256=sha256_bytes(buffer.getvalue()))
