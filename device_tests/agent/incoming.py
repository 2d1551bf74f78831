"""Uploads on the board that nobody has verified yet: taken in where their content is right, forgotten when stale.

<workdir>/incoming/<name>        whole, as the other side says
<workdir>/incoming/<name>.part   on its way, or what a cut link has left of it: the next session goes on with it
<workdir>/work/.uploads          since when each of them has not grown
"""

import contextlib
import errno
import hashlib
import json
import os
import time
import zlib

from device_tests.agent.protocol import Refusal

DAY_S = 86400.0
RESTARTS = 5
_NOTES = os.path.join("work", ".uploads")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_CLOCK_BOOTTIME = 7  # named in `time` since Python 3.7 only
_CHUNK = 1 << 20
_GZIP = 31  # zlib's word for: a gzip header, and the largest window


class Incoming:
    """The folder `incoming` of a workdir."""

    def __init__(self, root):
        self._root = root
        self._folder = os.path.join(root, "incoming")
        self._noted = os.path.join(root, _NOTES)
        for path in (self._folder, os.path.dirname(self._noted)):
            os.makedirs(path, exist_ok=True)

    def names(self):
        """What is there."""
        return sorted(os.listdir(self._folder))

    def accept(self, upload, sha256, target, encoding="", size=None):
        """Moves an upload to `target` if its content is what its name says; else removes it.

        Args:
            upload: path below the workdir.
            sha256: of the content.
            target: absolute path.
            encoding: "gzip" where the content was compressed for the way; empty where not.
            size: bytes of the content; needed with an encoding, and nothing beyond it is unpacked.

        Raises:
            Refusal: "not-found", "damaged", or "no-space" for what was compressed.
        """
        path = self._path(upload)
        if not os.path.exists(path):
            raise Refusal("not-found", "no file %s" % path)
        content = path
        try:
            if encoding:
                content = path + ".raw"
                actual = _unpack(path, content, encoding, size)
            else:
                actual = sha256_file(path)
            if actual != sha256:
                raise Refusal(
                    "damaged",
                    "the upload arrived damaged and was removed: sha256 %s, expected %s (%d bytes)"
                    % (actual, sha256, os.path.getsize(path)),
                )
            os.replace(content, target)
        finally:
            for left in {path, content}:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(left)

    def forget_old(self, now=None):
        """Removes what has not grown for a day.

        A day by the board's time since it was started: its wall clock may be wrong by years, and jump by as much.
        A restart begins that day anew, some times at most.

        Args:
            now: (boot id, seconds since the start); default: the board's.
        """
        boot, uptime_s = now or _moment()
        before, after = self._notes(), {}
        for name in self.names():
            path = os.path.join(self._folder, name)
            with contextlib.suppress(FileNotFoundError):
                note = _aged(before.get(name), os.path.getsize(path), boot, uptime_s)
                if uptime_s - note["since_s"] > DAY_S or note["restarts"] > RESTARTS:
                    os.remove(path)
                else:
                    after[name] = note
        if not after:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._noted)
        elif after != before:
            self._note(after)

    def _notes(self):
        try:
            with open(self._noted) as stream:
                found = json.load(stream)
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _note(self, notes):
        part = "%s.%d" % (self._noted, os.getpid())
        try:
            with open(part, "w") as stream:
                json.dump(notes, stream)
            os.replace(part, self._noted)
        except OSError:
            # A full disk: what is not noted now is noted the next time, and stays until then.
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)

    def _path(self, upload):
        folder, name = os.path.split(os.path.normpath(os.path.join(self._root, upload)))
        if folder != self._folder:
            raise Refusal("bad-params", "%s is no upload" % upload)
        return os.path.join(folder, name)


def sha256_file(path):
    """Hex SHA-256. Refusal when the file is not there."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for chunk in iter(lambda: stream.read(_CHUNK), b""):
                digest.update(chunk)
    except FileNotFoundError:
        raise Refusal("not-found", "no file %s" % path) from None
    return digest.hexdigest()


def _unpack(path, target, encoding, size):
    """Writes the content of a compressed upload; returns its sha256, or what is wrong with it."""
    if encoding != "gzip" or not isinstance(size, int):
        raise Refusal("bad-params", "encoding %r with size %r" % (encoding, size))
    digest, unpacked = hashlib.sha256(), 0
    try:
        with open(path, "rb") as source, open(target, "wb") as sink:
            for chunk in _chunks(source):
                unpacked += len(chunk)
                if unpacked > size:
                    return "of more than %d bytes" % size
                digest.update(chunk)
                sink.write(chunk)
    except (zlib.error, EOFError) as error:
        return "unknown (%s)" % error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Refusal("no-space", "no space left on the board to unpack %d bytes" % size) from None
    return digest.hexdigest()


def _chunks(source):
    """The content of a gzip stream, a little at a time: however well it was packed, no more is held in memory."""
    engine = zlib.decompressobj(_GZIP)
    packed = source.read(_CHUNK)
    while not engine.eof:
        chunk = engine.decompress(packed, _CHUNK)
        yield chunk
        packed = engine.unconsumed_tail or source.read(_CHUNK)
        if not (packed or chunk or engine.eof):
            raise EOFError("it ends too early")


def _aged(before, size, boot, uptime_s):
    """What is known of one upload: since when it has not grown, by the time since the start."""
    fresh = {"size": size, "boot": boot, "since_s": uptime_s, "restarts": 0}
    if not isinstance(before, dict) or set(before) != set(fresh) or before["size"] != size:
        return fresh
    if before["boot"] == boot and before["since_s"] <= uptime_s:
        return before
    return dict(fresh, restarts=before["restarts"] + 1)


def _moment():
    try:
        with open(_BOOT_ID) as stream:
            boot = stream.read().strip()
    except OSError:
        boot = ""
    try:
        return boot, time.clock_gettime(_CLOCK_BOOTTIME)
    except OSError:
        return boot, time.monotonic()
