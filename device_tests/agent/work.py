"""The agent's folders on the board: blobs named by their hash, and a work folder that goes with the agent.

<workdir>/agent/agent-<sha256>.zip
<workdir>/incoming/          uploads that nobody has verified yet; see `incoming`
<workdir>/blobs/<sha256>     verified; kept, so that nothing is sent twice
<workdir>/engines/<key>/     built here from blobs, for this board alone; see `tensorrt.engines`
<workdir>/work/<pid>-<n>/    of one running agent
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time

from device_tests.agent.incoming import Incoming, sha256_file
from device_tests.agent.protocol import Refusal

_SHA256 = re.compile("[0-9a-f]{64}")


class Folders:
    """The folders below one workdir. Paths in answers are absolute.

    Attributes:
        root: the workdir.
        engines: where what is built on this board is kept; it need not be there yet.
        incoming: uploads that nobody has verified yet.
        work: of this agent alone; goes with it.
    """

    def __init__(self, workdir):
        self.root = os.path.abspath(workdir)
        self.engines = os.path.join(self.root, "engines")
        self._blobs = os.path.join(self.root, "blobs")
        for name in ("blobs", "work"):
            os.makedirs(os.path.join(self.root, name), exist_ok=True)
        self.incoming = Incoming(self.root)
        self.incoming.forget_old()
        self.work, self._lock = self._claim()

    def _claim(self):
        """Makes our work folder and removes those whose agent is gone, which is who no longer holds the lock."""
        base = os.path.join(self.root, "work")
        with open(os.path.join(base, ".lock"), "w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            for name in os.listdir(base):
                if not name.startswith("."):
                    _remove_if_left(os.path.join(base, name))
            folder = tempfile.mkdtemp(prefix="%d-" % os.getpid(), dir=base)
            lock = open(os.path.join(folder, ".lock"), "w")  # noqa: SIM115 - held as long as we live
            fcntl.flock(lock, fcntl.LOCK_EX)
        return folder, lock

    def blob(self, sha256):
        """Path of a verified file. Refusal when it is not there."""
        path = self._path(sha256)
        if not os.path.exists(path):
            raise Refusal("not-found", "nothing with sha256 %s is on the board" % sha256)
        return path

    def have(self, sha256s):
        """Those that are here and still have their content; a damaged one is removed."""
        found = []
        for sha256 in sha256s:
            path = self._path(sha256)
            if not os.path.exists(path):
                continue
            if sha256_file(path) == sha256:
                found.append(sha256)
            else:
                os.remove(path)
        return found

    def verify(self, upload, sha256, encoding="", size=None):
        """Moves an uploaded file among the blobs if its content is what its name says; see `Incoming.accept`."""
        target = self._path(sha256)
        try:
            self.incoming.accept(upload, sha256, target, encoding, size)
        except Refusal as refusal:
            refusal.facts["free_bytes"] = self.free_bytes()
            raise
        return target

    def free_bytes(self):
        """What this user may still write."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def new(self):
        """A fresh folder inside our work folder."""
        return tempfile.mkdtemp(dir=self.work)

    def forget(self, folder):
        """Removes a folder made by `new`."""
        if os.path.dirname(os.path.abspath(folder)) != self.work:
            raise Refusal("bad-params", "%s is not a folder of this agent" % folder)
        shutil.rmtree(folder)

    def clean(self):
        """Removes our work folder, even while another thread is still writing there."""
        for _ in range(20):
            shutil.rmtree(self.work, ignore_errors=True)
            if not os.path.exists(self.work):
                break
            time.sleep(0.05)
        self._lock.close()

    def _path(self, sha256):
        if not _SHA256.fullmatch(sha256):
            raise Refusal("bad-params", "not a sha256: %r" % sha256)
        return os.path.join(self._blobs, sha256)


def _remove_if_left(folder):
    with contextlib.suppress(FileNotFoundError):
        with open(os.path.join(folder, ".lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return
                raise
        shutil.rmtree(folder, ignore_errors=True)
