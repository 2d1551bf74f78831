"""The engines on the board, each under the key of its identity; written whole or not at all, checked before each use.

<engines>/<key>/engine.plan    as TensorRT serialized it
<engines>/<key>/engine.json    its record: identity, sha256, size, inputs and outputs, how it was built
<engines>/<key>/layers.json    what its inspector tells, where this TensorRT has one
<engines>/<key>/build.log
<engines>/.<key>.<pid>.part/   on its way
<engines>/last-failed.log      of the last build that gave no engine
<engines>/timing/              timing caches; see `timing_cache`
"""

import contextlib
import hashlib
import json
import os
import re
import shutil

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import identity as identities

PLAN = "engine.plan"
RECORD = "engine.json"
LAYERS = "layers.json"
LOG = "build.log"
FAILED_LOG = "last-failed.log"

_KEY = re.compile("[0-9a-f]{64}")
_PART = re.compile(r"\.[0-9a-f]{64}\.(\d+)\.part")


class Engines:
    """The engines below one folder.

    Attributes:
        root: the folder; it need not be there yet.
    """

    def __init__(self, root):
        self.root = os.path.abspath(root)

    def folder(self, key):
        """Where an engine lies, or would."""
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise Refusal("bad-params", "not an engine's key: %r" % (key,))
        return os.path.join(self.root, key)

    def record(self, key):
        """An engine's record; None where there is none that can be read."""
        try:
            with open(os.path.join(self.folder(key), RECORD), "rb") as stream:
                told = json.loads(stream.read().decode())
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) and isinstance(told.get("identity"), dict) else None

    def find(self, wanted):
        """The record of the engine that runs where `wanted` is asked for. Its content is not read.

        Raises:
            Refusal: "engine-missing"; "engine-mismatch" where there are only engines of this network for something
                else, with "differences".
        """
        exact = identities.key(wanted)
        record = self.record(exact)
        if record is not None:
            if record["identity"] != wanted:
                raise mismatch(wanted, record["identity"])
            return record
        others = [one for one in map(self.record, self.keys()) if one is not None]
        fitting = [one for one in others if identities.runs(wanted, one["identity"])]
        if fitting:
            return fitting[0]
        known = [one["identity"] for one in others if one["identity"].get("onnx_sha256") == wanted["onnx_sha256"]]
        # What trtexec has built is none of the binding's, nor the other way round.
        same = [have for have in known if have.get("builder") == wanted.get("builder")]
        if same:
            raise mismatch(wanted, min(same, key=lambda have: len(identities.differences(wanted, have))))
        raise Refusal("engine-missing", "no engine of this network is on the board: build it first", key=exact)

    def read(self, record):
        """The engine itself, checked against its record.

        Raises:
            Refusal: "engine-damaged".
        """
        path = os.path.join(self.folder(record["key"]), PLAN)
        try:
            with open(path, "rb") as stream:
                content = stream.read()
        except OSError as error:
            raise Refusal("engine-damaged", "the engine cannot be read: %s" % error, key=record["key"]) from None
        found = hashlib.sha256(content).hexdigest()
        if found != record["sha256"]:
            told = "%s is damaged: sha256 %s, %s when it was built: build it again" % (path, found, record["sha256"])
            raise Refusal("engine-damaged", told, key=record["key"])
        return content

    def is_sound(self, key):
        """Whether the engine is there and as it was built."""
        record = self.record(key)
        if record is None or record.get("key") != key:
            return False
        try:
            self.read(record)
        except Refusal:
            return False
        return True

    def why_not(self, wanted):
        """Why no engine here is the one that is wanted, in words."""
        try:
            self.read(self.find(wanted))
        except Refusal as refusal:
            told = refusal.message
        else:
            return "what is on the board is not the very engine that is asked for"
        others = {one["stale"] for one in self.listed(wanted["tensorrt"]) if one["stale"]}
        if others and wanted["tensorrt"] not in told:
            told += " (others: %s)" % ", ".join(sorted(others))
        return told

    def part(self, key):
        """An empty folder for an engine on its way; what builds that are gone have left is removed."""
        os.makedirs(self.root, exist_ok=True)
        self._forget_parts()
        folder = os.path.join(self.root, ".%s.%d.part" % (key, os.getpid()))
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        return folder

    def store(self, part, plan, record):
        """Takes in what was built in a `part`: `plan` is the engine, `record` all but its hash and size."""
        key = record["key"]
        digest = hashlib.sha256(plan)
        size = _write(os.path.join(part, PLAN), plan)
        whole = dict(record, sha256=digest.hexdigest(), size_bytes=size)
        text = json.dumps(whole, indent=1, sort_keys=True, allow_nan=False)
        _write(os.path.join(part, RECORD), text.encode())
        sync(part)
        target, gone = self.folder(key), os.path.join(part, "replaced")
        with contextlib.suppress(FileNotFoundError):
            # Into the new one's own folder: wherever we are stopped, the next build finds no half of either.
            os.rename(target, gone)
        os.rename(part, target)
        sync(self.root)
        shutil.rmtree(os.path.join(target, "replaced"), ignore_errors=True)
        return whole

    def give_up(self, part):
        """Removes an engine that was not finished; its log stays, as the last failed one. Result: the log's path."""
        kept = os.path.join(self.root, FAILED_LOG)
        with contextlib.suppress(FileNotFoundError):
            os.replace(os.path.join(part, LOG), kept)
        shutil.rmtree(part, ignore_errors=True)
        return kept

    def keys(self):
        """Of all engines, sorted."""
        try:
            return sorted(name for name in os.listdir(self.root) if _KEY.fullmatch(name))
        except FileNotFoundError:
            return []

    def remove(self, key):
        """Removes an engine; returns the bytes that are free now."""
        folder = self.folder(key)
        size = folder_bytes(folder)
        # Its record first: what is left after a power cut is an engine that nobody finds.
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, RECORD))
        shutil.rmtree(folder, ignore_errors=True)
        return size

    def listed(self, tensorrt=None):
        """Every engine: {"key", "size_bytes", "sha256", "identity", "built_at", "stale"}, sorted by when it was built.

        Args:
            tensorrt: the version here; an engine of another one is "stale" with the reason, as is a damaged record.
        """
        return sorted((self._listed(key, tensorrt) for key in self.keys()), key=lambda one: one["built_at"] or "")

    def _listed(self, key, tensorrt):
        size, record = folder_bytes(self.folder(key)), self.record(key)
        if record is None:
            told = {"sha256": None, "identity": None, "built_at": None, "stale": "its record cannot be read"}
            return dict(told, key=key, size_bytes=size)
        return {
            "key": key,
            "size_bytes": size,
            "sha256": record.get("sha256"),
            "identity": record["identity"],
            "built_at": record.get("built_at"),
            "stale": _stale(record["identity"], tensorrt),
        }

    def _forget_parts(self):
        for name in os.listdir(self.root):
            found = _PART.fullmatch(name)
            if found and not _alive(int(found.group(1))):
                shutil.rmtree(os.path.join(self.root, name), ignore_errors=True)


def mismatch(wanted, have):
    """The refusal of an engine that is for something else, with what differs."""
    differ = identities.differences(wanted, have)
    told = "the engine on the board is for something else: %s" % "; ".join(differ)
    return Refusal("engine-mismatch", told, differences=differ)


def _stale(have, tensorrt):
    if tensorrt is None or have.get("tensorrt") == tensorrt:
        return None
    # trtexec tells three numbers of its version, the binding four.
    if have.get("builder") and have["tensorrt"].split(".") == tensorrt.split(".")[:3]:
        return None
    if have.get("version_compatible") and identities.runs(dict(have, tensorrt=tensorrt), have):
        return None
    return "built with TensorRT %s, %s is here" % (have.get("tensorrt"), tensorrt)


def write_whole(path, content):
    """Writes a file so that it is there whole or not at all."""
    part = "%s.%d.part" % (path, os.getpid())
    _write(part, content)
    os.replace(part, path)
    sync(os.path.dirname(path))


def _write(path, content):
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        return stream.tell()


def sync(folder):
    """Has the disk keep the folder's names."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def folder_bytes(folder):
    """What all files below a folder take."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.path.getsize(os.path.join(place, name))
    return total


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
