"""What works on this machine and on boards, and the command that brings the rest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import targets
from device_tests.capability import CapabilityRecord
from device_tests.install import missing
from device_tests.probe import facts, probe, probe_here, profile_for
from device_tests.session import BoardSession
from edgesmith.errors import InfrastructureError
from edgesmith.progress import Progress, Silent
from edgesmith.toolchain import version
from edgesmith.types import Device
from targets import wheels

_PACKAGES = (
    ("tensorflow", "tflite"),
    ("keras", "tflite"),
    ("tf_keras", "tflite"),
    ("tensorflow-model-optimization", "tflite"),
    ("ai-edge-litert", "tflite"),
    ("onnx", "onnx"),
    ("onnxruntime", "onnx"),
    ("tf2onnx", "onnx"),
    ("matplotlib", "report"),
)
_FREE_BYTES_WANTED = 2_000_000_000

# Of the machine's own record: the rest has a row of its own here.
_SHOWN = ("board", "system", "processor", "memory", "python", "nvidia", "power mode", "clock lock", "throttling")


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at.

    Attributes:
        fix: the command that mends it; empty where it is fine.
    """

    name: str
    ok: bool
    text: str
    fix: str = ""

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        return {"name": self.name, "ok": self.ok, "text": self.text, "fix": self.fix or None}


def examine(devices: Sequence[Device] = (), progress: Progress | None = None) -> tuple[Row, ...]:
    """Looks at this machine: what it is, packages, targets, the disk, SSH; then at boards, one after the other.

    Without boards nothing heavy is imported and nobody is contacted.

    Args:
        devices: boards to look at, too. One that cannot be reached is a row that says so.
        progress: told which board is being reached.
    """
    here = (*_machine(), *(_package(name, extra) for name, extra in _PACKAGES), *target_rows(), _disk(), _ssh_config())
    boards = (row for device in devices for row in _board(device, progress or Silent()))
    return (*here, *boards)


def target_rows() -> tuple[Row, ...]:
    """Every target with its state here."""
    rows = []
    for name in targets.names():
        target = targets.get(name)
        state = target.state()
        if state.available:
            schemes = ", ".join(sorted(scheme.value for scheme in target.capabilities().schemes))
            note = f"; {state.note}" if state.note else ""
            rows.append(Row(name, ok=True, text=f"compiles to .{target.FORMAT}: {schemes}{note}"))
        else:
            rows.append(Row(name, ok=False, text=state.reason, fix=state.fix))
    return tuple(rows)


def _machine() -> Iterator[Row]:
    record = probe_here()
    for name, text in facts(record):
        if name in _SHOWN:
            yield Row(name, ok=True, text=text)
    # A workstation's runtimes come with the tool chain; an arm64 board may have neither, and needs its own command.
    yield from _lacking("", record, Device(name="local", transport="local"), ours=record.machine == "x86_64")


def _board(device: Device, progress: Progress) -> Iterator[Row]:
    """Every fact of a board, and what it lacks, under its name."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch,
            BoardSession(device, local_root=Path(scratch), progress=progress) as session,
        ):
            record = probe(session)
    except InfrastructureError as error:
        yield Row(device.name, ok=False, text=error.what, fix=error.next_step)
        return
    for name, text in facts(record):
        yield Row(f"{device.name}: {name}", ok=name not in record.missing, text=text)
    yield from _lacking(f"{device.name}: ", record, device, ours=False)


def _lacking(prefix: str, record: CapabilityRecord, device: Device, *, ours: bool) -> Iterator[Row]:
    profile, warning = profile_for(device, record)
    if warning:
        yield Row(f"{prefix}profile", ok=False, text=warning)
    for one in missing(record, profile):
        if not (ours and one.name in wheels.RUNTIMES):
            yield Row(f"{prefix}{one.name}", ok=False, text=one.text, fix="\n".join(one.commands))


def _package(name: str, extra: str) -> Row:
    found = version(name)
    if found:
        return Row(name, ok=True, text=found)
    return Row(name, ok=False, text="not installed", fix=f'pip install "edgesmith[{extra}]"')


def _disk() -> Row:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    if free >= _FREE_BYTES_WANTED:
        return Row("disk", ok=True, text=text)
    return Row("disk", ok=False, text=text, fix="Free some space, or give runs another place: --runs-dir.")


def _ssh_config() -> Row:
    known_hosts = Path.home() / ".ssh" / "known_hosts"
    if known_hosts.is_file():
        return Row("ssh known_hosts", ok=True, text=str(known_hosts))
    return Row(
        "ssh known_hosts",
        ok=False,
        text="no known_hosts yet: a board's host key has to be known before it is used",
        fix="`ssh user@board` once, and compare the fingerprint; or pin host_key in devices.yaml.",
    )
