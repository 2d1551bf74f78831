"""The one file that all users of a board share: who holds it is written there, and nobody writes without its lock.

It lies in a folder that everybody may write to (mode 1777), best below one that is empty after a restart. In such a
folder a user can neither rename over nor remove a file of another. So the record is rewritten in place, in a file that
everybody may write (mode 0666), and its own flock is the gate. Who wrote it is in the record; who owns the file means
nothing.

An empty record is no file: who may, removes it, under the lock. So whoever has got the lock looks whether the path
still leads to what it has locked, and starts over where it does not. Who may not remove it, since another user made
it, empties it: a file of no bytes is the only thing that can stay behind.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
import time

from device_tests.agent import lease_rules
from device_tests.agent.protocol import Refusal

NAME = "lease"
AUTO = "auto"
# /run/lock before /dev/shm: from there, systemd-logind removes a user's files at the last logout (RemoveIPC), and with
# them a reservation that a person has just made.
PLACES = ("/run/lock", "/dev/shm", "/tmp")  # noqa: S108 - shared on purpose: all users of a board must meet
PATIENCE_S = 5.0
_DENIED_S = 1.0
_POLL_S = 0.01
_MOST_BYTES = 1 << 16
_IN_FOLDER = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK


class LeaseFile:
    """The record of one board. Symlinks are refused."""

    def __init__(self, folder):
        """`folder`: absolute, or "auto" for a place that all users of this board find by the same rule."""
        if folder == AUTO:
            folder = os.path.join(next(filter(_is_for_all, PLACES), PLACES[0]), "edgesmith")
        if not os.path.isabs(folder):
            raise Refusal("bad-params", "lease_dir is not absolute: %r" % folder)
        self._folder = folder

    @contextlib.contextmanager
    def locked(self, create=True, clear=False):
        """Gives the record as a dict, which is written back when it was changed. Nobody else has it meanwhile.

        Args:
            create: make the file where there is none; else a missing one is an empty record that stays missing.
            clear: a record that cannot be read counts as empty, and goes.

        Raises:
            Refusal: "lease-folder" where there can be no lease; "lease-unreadable" where the record is of no use.
        """
        with self._refusals():
            opened = self._open_locked(create)
        if opened is None:
            yield {}
            return
        with opened as (folder, file):
            record = self._read(file, clear)
            before = json.dumps(record, sort_keys=True)
            try:
                yield record
                with self._refusals():
                    if record and json.dumps(record, sort_keys=True) != before:
                        _write(file, record)
            finally:
                if not record or not os.fstat(file).st_size:
                    _remove(folder, file)

    @contextlib.contextmanager
    def _refusals(self):
        """Errors of the system as answers that say what to do."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                reason = "is a symbolic link, or no folder"
            raise Refusal(
                "lease-folder",
                "the board's lease cannot be kept in %s: %s; `lease_dir:` in devices.yaml names another place, "
                "the same for all who use this board" % (self._folder, reason),
            ) from None

    def _open_locked(self, create):
        """What holds the lock, until it is left, as a context of (folder, file); None where there is no file."""
        until = time.monotonic() + PATIENCE_S
        denied_until = time.monotonic() + _DENIED_S
        while True:
            try:
                opened = _Opened(self._open_folder(create), create, until)
            except (FileNotFoundError, FileExistsError):
                # Somebody removed it or made it between two calls of ours: look again.
                if not create:
                    return None
            except PermissionError:
                # Somebody has made it, and may not have opened it to all yet.
                if time.monotonic() > denied_until:
                    raise
            else:
                if opened.ours:
                    return opened
                opened.close()
            if time.monotonic() > until:
                raise Refusal("lease-folder", "%s/%s is kept locked by another program" % (self._folder, NAME))
            time.sleep(_POLL_S)

    def _open_folder(self, create):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            return os.open(self._folder, flags)
        except FileNotFoundError:
            if not create:
                raise
        try:
            os.mkdir(self._folder)
        except FileNotFoundError:
            raise OSError(errno.ENXIO, "there is no folder to make it in") from None
        folder = os.open(self._folder, flags)
        os.fchmod(folder, 0o1777)  # mkdir takes the umask off
        return folder

    def _read(self, file, clear):
        # One line: what a longer, earlier record left behind it does not count.
        line, newline, _ = os.pread(file, _MOST_BYTES, 0).partition(b"\n")
        if not line and not newline:
            return {}
        try:
            record = json.loads(line.decode())
        except ValueError:
            record = None
        if newline and lease_rules.is_record(record):
            return record
        if clear:
            return {}
        raise Refusal(
            "lease-unreadable",
            "%s/%s is no lease of this edgesmith; `edgesmith devices release --force` clears it" % (self._folder, NAME),
        )


class _Opened:
    """The file, open and locked, in its folder. Use as a context manager.

    Attributes:
        ours: we have the lock of the file that the path leads to; else another file is there by now, or time is up.
    """

    def __init__(self, folder, create, until):
        """Takes over `folder`, a descriptor; it is closed with us."""
        self._folder = folder
        try:
            self._file = _open_file(folder, create)
        except BaseException:
            os.close(folder)
            raise
        try:
            _check(self._file)
            self.ours = _lock(self._file, until) and _still_there(folder, self._file)
        except BaseException:
            self.close()
            raise

    def close(self):
        """Gives the lock up."""
        # Not left to close(): a child between its fork and its exec has a copy that would keep it.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)
        os.close(self._folder)

    def __enter__(self):
        return self._folder, self._file

    def __exit__(self, *_error):
        self.close()


def _open_file(folder, create):
    """First without O_CREAT: with it, the kernel refuses a file of another user in a sticky folder."""
    try:
        return os.open(NAME, _IN_FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise
    file = os.open(NAME, _IN_FOLDER | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    os.fchmod(file, 0o666)  # as above
    return file


def _check(file):
    """What we write to is a plain file that has no second name: never a way to make us write somewhere else."""
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise OSError(errno.EINVAL, "its file '%s' is not a plain file of its own" % NAME)


def _lock(file, until):
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        else:
            return True


def _still_there(folder, file):
    try:
        found = os.stat(NAME, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file))


def _write(file, record):
    line = json.dumps(record, sort_keys=True).encode() + b"\n"
    # In this order, so that a kill in between leaves a whole first line.
    os.pwrite(file, line, 0)
    os.ftruncate(file, len(line))


def _remove(folder, file):
    os.ftruncate(file, 0)
    # Of another user, in a sticky folder: then it stays, empty.
    with contextlib.suppress(PermissionError, FileNotFoundError):
        os.unlink(NAME, dir_fd=folder)


def _is_for_all(folder):
    """Whether every user of this board may make files there, and remove no others' files."""
    try:
        found = os.stat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_mode & 0o1777 == 0o1777
