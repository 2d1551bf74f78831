"""The bundle for a bug report: one zip with all that the doctor knows of a board, and nothing of who owns it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_tests.capability import CapabilityRecord
from edgesmith import __version__, toolchain
from edgesmith.doctor.boards import Examined
from edgesmith.doctor.files_there import cut
from edgesmith.doctor.redact import BOARD, Redactor
from edgesmith.doctor.rows import Row
from edgesmith.errors import InfrastructureError
from edgesmith.files import replacing, safe_name
from edgesmith.types import Device

FORMAT = 1

_README = """edgesmith doctor, for a bug report.
{fake}
It holds no address, host or user name, port, key, home folder, serial number or environment variable: what looked like
one was replaced, as in {board}, <user>, ~ and <address>. Have a look before you send it; all of it is text.

{files}
{lacks}
"""

_ABOUT = {
    "doctor.json": "what was looked at on the workstation and the board, and every trial of the self-test",
    "capability.json": "what the board says of itself: system, processor, memory, NVIDIA's packages, sensors",
    "agent.log": "the last lines that edgesmith's program on the board, and the runtimes in it, wrote to stderr",
    "latency/": "every timed run of a trial, in nanoseconds, in the order taken; `windows` numbers its turns",
    "engines/": "how TensorRT built a trial's engine (build.log), its layers, and its record (engine.json)",
}


def default_path(device: Device) -> Path:
    """Where a board's bundle goes if nobody says."""
    return Path.cwd() / f"edgesmith-doctor-{safe_name(device.name)}.zip"


def write_bundle(path: Path, found: Examined, here: tuple[Row, ...]) -> None:
    """Writes it whole, or not at all.

    Args:
        path: of the zip; one that is there is replaced.
        found: the board.
        here: the rows about this machine.

    Raises:
        InfrastructureError: it cannot be written there.
    """
    redactor = Redactor(found.device, _versions(found, here))
    members = {redactor.text(name): content for name, content in _members(found, here, redactor)}
    members = {"README.txt": _readme(found, members), **members}
    try:
        with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in members.items():
                archive.writestr(name, text)
    except OSError as error:
        raise InfrastructureError(
            f"The bundle {path} cannot be written: {error.strerror or error}.",
            next_step="Name another place with --bundle. What was found stands above.",
        ) from None


def _members(found: Examined, here: tuple[Row, ...], redactor: Redactor) -> Iterator[tuple[str, str]]:
    def plain(value: Any) -> str:
        return json.dumps(redactor.value(value), indent=1, allow_nan=False, default=str) + "\n"

    tested = found.tested
    yield "doctor.json", plain(_doctor(found, here))
    if found.record is not None:
        yield "capability.json", plain(_without_place(found.record))
    if found.log:
        yield "agent.log", redactor.text(found.log) + "\n"
    for trial in tested.trials if tested is not None else ():
        if trial.measurement is not None:
            taken = trial.measurement
            samples = {
                "samples_ns": taken.samples_ns.tolist(),
                "windows": taken.windows.tolist(),
                "warmup_ns": taken.warmup_ns.tolist(),
            }
            yield f"latency/{trial.name.replace(' ', '-')}.json", json.dumps(samples) + "\n"
    for name, content in (tested.files if tested is not None else {}).items():
        yield name, redactor.text(cut(content).decode("utf-8", "replace"))


def _doctor(found: Examined, here: tuple[Row, ...]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "edgesmith": __version__,
        "fake": found.tested is not None and found.tested.fake,
        "transport": found.device.transport,
        "profile": found.device.board,
        "workstation": {"packages": toolchain.versions(), "rows": [row.as_dict() for row in here]},
        "board": [row.as_dict() for row in found.rows],
        "cuda": [{"name": one.name, "works": one.works, "text": str(one)} for one in found.cuda],
        "self_test": None if found.tested is None else found.tested.as_dict(),
        "self_test_reason": found.untested or None,
    }


def _without_place(record: CapabilityRecord) -> dict[str, Any]:
    return {**record.as_dict(), "device": BOARD}


def _readme(found: Examined, members: dict[str, str]) -> str:
    tested = found.tested
    fake = "\nFAKE: the board, or its TensorRT, is a stand-in. Nothing here says anything of a real one.\n"
    about = [(name, text) for name, text in _ABOUT.items() if any(one.startswith(name) for one in members)]
    lacks = [f"{name} is not there." for name in _ABOUT if name not in dict(about)]
    if found.record is None:
        lacks.insert(0, "The board could not be reached.")
    elif tested is None:
        lacks.insert(0, "No self-test was made.")
    return _README.format(
        fake=fake if tested is not None and tested.fake else "",
        board=BOARD,
        files="\n".join(f"{name:16} {text}" for name, text in about),
        lacks="\n".join(lacks),
    )


def _versions(found: Examined, here: tuple[Row, ...]) -> Iterator[str]:
    """Texts whose numbers are versions, though they look like addresses."""
    yield from (row.text for row in here if row.name in ("nvidia", *toolchain.REPORTED))
    yield from toolchain.versions().values()
    if found.record is not None:
        record = found.record
        yield from filter(None, (record.tensorrt, record.cuda, record.cudnn, record.l4t, record.jetpack_package))
        yield from record.runtimes.values()
    for trial in found.tested.trials if found.tested is not None else ():
        engine = trial.measurement.engine if trial.measurement is not None else trial.engine
        if engine is not None:
            yield from (engine.tensorrt, engine.cuda)
