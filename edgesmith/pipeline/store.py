"""The content-addressed store: what was made from the same inputs is never made again.

One folder per entry, `<root>/<kind>/<key>/`, complete or absent: it is filled under a temporary name and renamed.
The key is the hash of everything the content depends on, so an entry never goes stale; deleting the store is safe.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesmith.errors import InfrastructureError
from edgesmith.files import sha256_json, write_json

STORE_VERSION = 1
"""Raised when the layout of an entry changes: old entries are then never found."""

_RECORD = "entry.json"


@dataclass(slots=True)
class Store:
    """Entries below `root`.

    Attributes:
        root: the folder; made on the first write.
        redo: kinds or keys' labels whose entries are ignored once (`--redo`, `--remeasure`).
    """

    root: Path
    redo: frozenset[str] = field(default_factory=frozenset)

    def key(self, kind: str, inputs: Mapping[str, Any]) -> str:
        """Names the entry that these inputs make."""
        return sha256_json({"store": STORE_VERSION, "kind": kind, **inputs})[:32]

    def path(self, kind: str, key: str) -> Path:
        """Where the entry is, or would be."""
        return self.root / kind / key

    def find(self, kind: str, key: str, *, label: str = "") -> Entry | None:
        """The entry, or None where it was never made, is broken, or is to be made again."""
        if kind in self.redo or label in self.redo:
            return None
        folder = self.path(kind, key)
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return Entry(folder, record)

    @contextlib.contextmanager
    def making(self, kind: str, key: str) -> Iterator[Draft]:
        """Yields a draft folder; when the block ends well it becomes the entry, replacing an older one."""
        parent = self.root / kind
        parent.mkdir(parents=True, exist_ok=True)
        draft = Draft(Path(tempfile.mkdtemp(prefix=f".{key[:8]}.", dir=parent)))
        try:
            yield draft
            write_json(draft.folder / _RECORD, draft.record)
            _put_in_place(draft.folder, self.path(kind, key))
            _sync_folder(parent)
        except OSError as error:
            raise InfrastructureError(
                f"{parent}: a finished piece of work could not be stored: {error}.",
                next_step="Free some space or choose another place with --runs-dir; then `edgesmith run --resume`.",
            ) from error
        finally:
            shutil.rmtree(draft.folder, ignore_errors=True)

    def workdir(self, kind: str, key: str) -> Path:
        """A folder for unfinished work (checkpoints), kept over a kill, found again by the same key."""
        folder = self.root / "unfinished" / f"{kind}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_workdir(self, kind: str, key: str) -> None:
        """Forgets unfinished work once it is finished."""
        shutil.rmtree(self.root / "unfinished" / f"{kind}-{key}", ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished entry: its folder and its record."""

    folder: Path
    record: dict[str, Any]


@dataclass(slots=True)
class Draft:
    """An entry being made: put files into `folder`, facts into `record`."""

    folder: Path
    record: dict[str, Any] = field(default_factory=dict)


def _put_in_place(draft: Path, final: Path) -> None:
    """Renames a draft over an older entry. Another run may make the same entry at this moment: the last one stays."""
    while True:
        try:
            draft.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Aside in one step, so that nobody finds half an entry.
            old = Path(tempfile.mkdtemp(prefix=".old.", dir=final.parent))
            with contextlib.suppress(FileNotFoundError):
                final.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        else:
            return


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
