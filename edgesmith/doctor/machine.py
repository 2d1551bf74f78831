"""What works on this machine, and the command that brings the rest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import targets
from device_tests.probe import facts, probe_here
from edgesmith.doctor.rows import Row, lacking
from edgesmith.toolchain import version
from edgesmith.types import Device

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


def examine() -> tuple[Row, ...]:
    """Looks at this machine: what it is, packages, targets, the disk, SSH.

    Nothing heavy is imported and nobody is contacted. Boards: `edgesmith.doctor.boards`.
    """
    packages = (_package(name, extra) for name, extra in _PACKAGES)
    return (*_machine(), *packages, *target_rows(), _disk(), _ssh_config())


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
    yield from lacking("", record, Device(name="local", transport="local"), ours=record.machine == "x86_64")


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
