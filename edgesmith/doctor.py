"""What works on this machine, and the command that brings the rest."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import targets
from edgesmith.toolchain import version

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


def examine() -> tuple[Row, ...]:
    """Looks at Python, packages, targets, the disk and SSH. Imports nothing heavy, contacts no board."""
    return (_python(), *(_package(name, extra) for name, extra in _PACKAGES), *target_rows(), _disk(), _ssh_config())


def target_rows() -> tuple[Row, ...]:
    """Every target with its state here."""
    rows = []
    for name in targets.names():
        target = targets.get(name)
        state = target.state()
        if state.available:
            schemes = ", ".join(sorted(scheme.value for scheme in target.capabilities().schemes))
            rows.append(Row(name, ok=True, text=f"compiles to .{target.FORMAT}: {schemes}"))
        else:
            rows.append(Row(name, ok=False, text=state.reason, fix=state.fix))
    return tuple(rows)


def _python() -> Row:
    text = f"{sys.version.split()[0]} at {sys.executable}"
    return Row("python", ok=True, text=text)


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
