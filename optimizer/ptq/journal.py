"""What was measured stays measured: an append-only memo that survives a kill at any byte.

One JSON object a line, `{"key": ..., "seconds": ..., "value": ...}`, synced to the disk before it counts. The key is
the hash of everything the value depends on, so that a line never goes stale and several searches may share a file.
A line that a kill cut short is skipped, and what it was about is measured again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgesmith.errors import InfrastructureError
from edgesmith.files import sha256_json

Value = Mapping[str, Any]
"""Plain JSON values; infinity is allowed, NaN is not."""

FILE = "trials.jsonl"


class Journal:
    """A memo of finished measurements.

    Attributes:
        path: the file; None: kept in memory only.
    """

    def __init__(self, folder: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads what is there.

        Args:
            folder: where the file is, or will be with the first measurement; None: nothing outlives the process.
            clock: seconds.

        Raises:
            InfrastructureError: the file cannot be read.
        """
        self.path = None if folder is None else folder / FILE
        self._clock = clock
        self._known: dict[str, tuple[Value, float]] = {}
        self._torn = False
        if self.path is not None:
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._known)

    def measured(self, about: Mapping[str, Any], measure: Callable[[], Value]) -> tuple[Value, float]:
        """The value of a measurement: as found in the journal, or measured and written down now.

        Args:
            about: everything the value depends on, plain JSON values.
            measure: gives the value.

        Returns:
            the value, and the seconds the measurement took when it was made. A search that counts these, and not the
            clock on the wall, decides the same after a kill.

        Raises:
            InfrastructureError: it cannot be written.
        """
        key = sha256_json(about)
        if key not in self._known:
            started = self._clock()
            value = measure()
            self._add(key, value, round(self._clock() - started, 6))
        return self._known[key]

    def _add(self, key: str, value: Value, seconds: float) -> None:
        line = json.dumps({"key": key, "seconds": seconds, "value": _to_json(value)}, allow_nan=False)
        if self.path is not None:
            self._append(self.path, line)
        # Through JSON also where no file is: the same decisions with and without one.
        self._keep(line)

    def _append(self, path: Path, line: str) -> None:
        # A torn last line is closed first: else this one would be torn with it.
        data = (("\n" if self._torn else "") + line + "\n").encode()
        try:
            is_new = not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            # One write to a file opened for appending: lines of two processes do not mix.
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(handle, data)
                if written != len(data):
                    self._torn = True
                    raise OSError(f"only {written} of {len(data)} bytes were written")
                os.fsync(handle)
            finally:
                os.close(handle)
            if is_new:
                _sync_folder(path.parent)
        except OSError as error:
            raise InfrastructureError(
                f"{path}: a finished trial could not be written down: {error}.",
                next_step="Free some space; the trials before it are kept, and the next run goes on from there.",
            ) from error
        self._torn = False

    def _read(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InfrastructureError(
                f"{path}: the trials measured so far cannot be read: {error}.",
                next_step="Make the file readable, or delete it to measure all of them again.",
            ) from error
        self._torn = not content.endswith(b"\n") and bool(content)
        for line in content.split(b"\n"):
            try:
                self._keep(line.decode())
            except (ValueError, KeyError, TypeError):  # cut short, or not ours
                continue

    def _keep(self, line: str) -> None:
        entry = json.loads(line)
        if not isinstance(entry["value"], dict):
            raise TypeError("no trial")
        self._known[str(entry["key"])] = (_from_json(entry["value"]), float(entry["seconds"]))


def _to_json(value: Any) -> Any:
    """JSON has no infinity; SQNR has."""
    if isinstance(value, Mapping):
        return {name: _to_json(part) for name, part in value.items()}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"float": str(value)}
    return value


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if set(value) == {"float"}:
        return float(value["float"])
    return {name: _from_json(part) for name, part in value.items()}


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
