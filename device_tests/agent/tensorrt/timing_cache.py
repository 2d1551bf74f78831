"""What TensorRT measured of kernels in earlier builds: with it the next build is a matter of seconds.

Kept per version and GPU, as TensorRT itself takes no other. A workstation may fetch the file and give it to the next
board of the same kind.
"""

import hashlib
import os

from device_tests.agent.tensorrt import engines


class TimingCache:
    """The timing cache of one TensorRT and one GPU.

    Attributes:
        path: of the file; it need not be there yet.
        notes: what could not be used, and why.
    """

    def __init__(self, root, tensorrt, compute):
        """`root`: the folder of all engines."""
        name = "%s-sm%s.cache" % (tensorrt, compute.replace(".", ""))
        self.path = os.path.join(os.path.abspath(root), "timing", name)
        self.notes = []
        self._given = None

    def give(self, path):
        """Another board's file, to be used with our own."""
        self._given = path

    def put_into(self, config):
        """Hands TensorRT what is known; without a file an empty cache, so that there is one afterwards."""
        cache = config.create_timing_cache(self._read(self.path) or b"")
        if cache is None:
            self.notes.append("our timing cache cannot be read and is begun anew")
            cache = config.create_timing_cache(b"")
        given = self._read(self._given) if self._given else None
        if given:
            other = config.create_timing_cache(given)
            if other is None or not cache.combine(other, False):
                self.notes.append("the timing cache that was given is of another TensorRT or GPU, and was not used")
        if not config.set_timing_cache(cache, False):
            self.notes.append("our timing cache is of another TensorRT or GPU, and is begun anew")
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def take_from(self, config):
        """Keeps what is known after a build."""
        cache = config.get_timing_cache()
        if cache is None:
            return
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        engines.write_whole(self.path, cache.serialize())

    def lend(self, folder):
        """A copy in that folder, for a program that keeps one itself; its path. The file need not be there."""
        path = os.path.join(folder, "timing.cache")
        content = self._read(self.path) or (self._read(self._given) if self._given else None)
        if content:
            engines.write_whole(path, content)
        return path

    def take_back(self, path):
        """Keeps what the program has written, and removes the copy."""
        content = self._read(path)
        if content:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            engines.write_whole(self.path, content)
            os.remove(path)

    def told(self):
        """{"path", "sha256", "size_bytes"} for whoever fetches it; None where there is none."""
        content = self._read(self.path)
        if not content:
            return None
        return {"path": self.path, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}

    @staticmethod
    def _read(path):
        try:
            with open(path, "rb") as stream:
                return stream.read()
        except FileNotFoundError:
            return None
