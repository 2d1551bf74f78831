"""The files of a release, taken from what the board has: uploads from the blobs, an engine from those built here.

As hard links they take no second place on the disk, and stay when the other name goes.
"""

import os
import shutil

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt.engines import PLAN, RECORD, Engines

SPARE_BYTES = 32 << 20
"""Left free beside an engine: logs, and what else is written meanwhile."""


def source(folders, told, name, sha256):
    """Where a file of a release lies now.

    Args:
        folders: of the agent.
        told: the release's manifest.
        name: in the release.
        sha256: of its content.
    """
    if told.get("engine") is None or name not in (PLAN, RECORD):
        return folders.blob(sha256)
    path = os.path.join(Engines(folders.engines).folder(told["engine"]["key"]), name)
    if not os.path.isfile(path):
        raise Refusal("not-found", "the engine of the release is no longer on the board: deploy again")
    return path


def take(folder, sources):
    """Puts files into a folder, as hard links; as copies where the disk has no links, or is another one.

    Args:
        folder: it is there.
        sources: name in the folder -> path.

    Raises:
        Refusal: "no-space": the copies do not fit. None was begun then.
    """
    targets = {name: os.path.join(folder, name) for name in sources}
    copied = [name for name in sources if not _linked(sources[name], targets[name])]
    if copied:
        refuse_full({folder: sum(os.path.getsize(sources[name]) for name in copied)})
    for name in copied:
        shutil.copyfile(sources[name], targets[name])
    for target in targets.values():
        os.chmod(target, 0o644)
        sync(target)


def room_for_engine(folders, releases, key, size_bytes):
    """Refuses where an engine, or a release with it, will find no room; before a build of tens of minutes.

    Args:
        folders: of the agent.
        releases: the folder of all releases; it need not be there yet.
        key: of the engine, as it was measured.
        size_bytes: that it had then.

    Raises:
        Refusal: "no-space".
    """
    here, there = _existing(folders.root), _existing(releases)
    built = Engines(folders.engines).record(key) is not None
    wanted = {here: 0 if built else size_bytes}
    if disk_of(there) != disk_of(here):
        wanted[there] = size_bytes
    refuse_full({place: size + SPARE_BYTES for place, size in wanted.items() if size})


def disk_of(path):
    """The number of the file system that a path lies on."""
    return os.stat(path).st_dev


def refuse_full(wanted):
    """Raises Refusal "no-space" where one of the folders has fewer bytes free than are wanted there."""
    for place, size in wanted.items():
        found = os.statvfs(place)
        free = found.f_bavail * found.f_frsize
        if free < size:
            told = "no room in %s: %.1f MB are needed, %.1f MB are free" % (place, size / 1e6, free / 1e6)
            raise Refusal("no-space", told, free_bytes=free, needed_bytes=size)


def sync(path):
    """Brings a file or folder to the disk: a power cut must not undo what was answered."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _linked(path, target):
    try:
        os.link(path, target)
    except OSError:
        return False
    return True


def _existing(path):
    """A folder that is there: this one, or the nearest above it."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
