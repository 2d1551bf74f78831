"""The releases of one model on the board: folders that never change, and links that change in one step.

<releases>/<name>/<version>/         a release: the model, its engine where it has one, its manifest.json, its smoke
                                     inputs and outputs
<releases>/<name>/current            -> <version>; what an application opens
<releases>/<name>/.<version>.part/   a release on its way: not checked yet
<releases>/<name>/.unconfirmed       a switch whose check is not over, with the version to go back to
"""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import time

from device_tests.agent.protocol import Refusal
from device_tests.agent.release_files import sync
from device_tests.agent.tensorrt.engines import PLAN, RECORD
from device_tests.agent.work import sha256_file

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile("[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")
_SHA256 = re.compile("[0-9a-f]{64}")
_LARGEST_MANIFEST = 1 << 20


def checked_name(name):
    """A model's or a file's name, fit to be one folder or file below ours."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refusal("bad-name", "not a name: %r; letters, digits and . _ - are, from a letter or digit on" % (name,))
    return name


def checked_version(version):
    """A release's folder name: time of the workstation and hash of the model."""
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise Refusal("bad-name", "not a release's version: %r" % (version,))
    return version


def releases_root(root):
    """The folder of all releases, absolute; it need not be there yet."""
    if not isinstance(root, str) or not root or "\0" in root:
        raise Refusal("bad-name", "not a folder for releases: %r" % (root,))
    path = os.path.abspath(root)
    _refuse_link(path)
    return path


def names(root):
    """The models that have releases below `root`, sorted."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(
            name for name in os.listdir(root) if _NAME.fullmatch(name) and _is_folder(os.path.join(root, name))
        )
    return []


class ReleaseFolder:
    """The releases of one model.

    Attributes:
        path: `<releases>/<name>`.
        current_path: what an application opens.
    """

    def __init__(self, root, name):
        self.name = checked_name(name)
        self.path = os.path.join(releases_root(root), self.name)
        self.current_path = os.path.join(self.path, "current")
        self._marker = os.path.join(self.path, ".unconfirmed")
        _refuse_link(self.path)

    def create(self):
        """Makes the folder."""
        os.makedirs(self.path, exist_ok=True)

    def folder(self, version):
        """Where a release lies, or would."""
        return os.path.join(self.path, checked_version(version))

    def part(self, version):
        """Where a release lies before it was checked."""
        return os.path.join(self.path, "." + checked_version(version) + ".part")

    def versions(self):
        """The releases that are here, oldest first."""
        return [name for name in _entries(self.path) if _VERSION.fullmatch(name) and _is_folder(self.folder(name))]

    def has(self, version):
        """Whether that release is here."""
        return _is_folder(self.folder(version))

    def current(self):
        """The version that answers; None before the first."""
        try:
            target = os.readlink(self.current_path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            target = None
        if target is None or not _VERSION.fullmatch(target):
            raise Refusal("not-ours", "%s is no link to a release beside it; move it away" % self.current_path)
        return target

    def previous(self):
        """The release that the current one took over from, where it is still here; else None."""
        current = self.current()
        if current is None or not self.has(current):
            return None
        before = manifest(self.folder(current)).get("previous")
        return before if isinstance(before, str) and _VERSION.fullmatch(before) and self.has(before) else None

    def unconfirmed(self):
        """{"version", "before", "fresh"} of a switch whose check is not over; None without one."""
        try:
            with open(self._marker) as stream:
                told = json.load(stream)
        except FileNotFoundError:
            return None
        if told["before"] is not None:
            checked_version(told["before"])
        checked_version(told["version"])
        return told

    def begin(self, version, before, fresh):
        """Notes, before anything changes, how a switch is undone.

        Args:
            version: what will be current.
            before: what is; None where nothing is.
            fresh: the release was never current: it goes where it fails.
        """
        part = self._marker + ".part"
        with open(part, "w") as stream:
            json.dump({"version": version, "before": before, "fresh": fresh}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(part, self._marker)
        sync(self.path)

    def confirm(self):
        """The switch stays."""
        _unlink(self._marker)
        sync(self.path)

    def point(self, version):
        """Makes a version current in one step; None: none is."""
        if version is None:
            _unlink(self.current_path)
        else:
            link = os.path.join(self.path, ".current.part")
            _unlink(link)
            os.symlink(version, link)
            os.rename(link, self.current_path)
        sync(self.path)

    def go_back(self):
        """Undoes a switch that was not confirmed. Returns what was done, one line each; empty where all was well."""
        switch = self.unconfirmed()
        if switch is None:
            return []
        self.point(switch["before"])
        if switch["fresh"]:
            remove_folder(self.folder(switch["version"]))
        self.confirm()
        back = "%s answers again" % switch["before"] if switch["before"] else "none answers"
        return ["the switch to %s was never confirmed: %s" % (switch["version"], back)]

    def remove_parts(self):
        """Removes what never became a release. Returns what was done, one line each."""
        parts = [name for name in _entries(self.path) if name.startswith(".") and name.endswith(".part")]
        for name in parts:
            remove_folder(os.path.join(self.path, name))
        return ["%s was unfinished and was removed" % name for name in parts]

    def remove(self, version):
        """Removes a release that nothing needs: its name goes in one step, its content after."""
        grave = self.part(version)
        remove_folder(grave)
        os.rename(self.folder(version), grave)
        sync(self.path)
        remove_folder(grave)


def manifest(folder):
    """The manifest of a release; what this agent reads of it is there and names no file outside the folder."""
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, "rb") as stream:
            content = stream.read(_LARGEST_MANIFEST + 1)
        found = json.loads(content.decode()) if len(content) <= _LARGEST_MANIFEST else None
    except FileNotFoundError:
        raise Refusal("damaged", "%s is missing" % path) from None
    except ValueError as error:
        raise Refusal("damaged", "%s is no JSON: %s" % (path, error)) from None
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION:
        raise Refusal("damaged", "%s is no manifest of schema version %d" % (path, SCHEMA_VERSION))
    try:
        here = {checked_name(file["file"]) for file in found["files"] if _SHA256.fullmatch(file["sha256"])}
        smoke = found["smoke"]
        used = {found["model"], smoke["inputs"]} | {output["file"] for output in smoke["outputs"]}
        if found.get("engine") is not None:
            checked_name(found["engine"]["key"])
            used |= {PLAN, RECORD}
        named = isinstance(found["name"], str) and isinstance(found["version"], str)
        whole = named and len(here) == len(found["files"]) and used <= here and MANIFEST not in here
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise Refusal("damaged", "%s does not say which files the release is made of" % path)
    return found


def check_files(folder, told):
    """Refuses a folder whose files are not those of its manifest, every byte."""
    for file in told["files"]:
        path = os.path.join(folder, file["file"])
        if not os.path.isfile(path) or os.path.islink(path):
            raise Refusal("damaged", "%s is missing" % path)
        if sha256_file(path) != file["sha256"]:
            raise Refusal("damaged", "%s is not what its manifest says (sha256)" % path)


def remove_folder(path):
    """Removes a folder or file, even while another thread is still writing there."""
    for _ in range(20):
        if os.path.islink(path) or os.path.isfile(path):
            _unlink(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        time.sleep(0.05)
    raise Refusal("system", "%s could not be removed" % path)


def _entries(path):
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def _is_folder(path):
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _refuse_link(path):
    if os.path.islink(path):
        raise Refusal("not-ours", "%s is a link; releases stay in a folder of their own: name the real one" % path)


def _unlink(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
