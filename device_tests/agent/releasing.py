"""Releases on the board: staged beside the one that answers, checked, switched to in one step, undone where they fail.

Nothing here can leave the board without a model that answers. A release is checked under its temporary name first.
The switch is noted before it is made, and undone when its own check fails, when the agent has to leave, or by the
next agent after a power cut.
"""

import contextlib
import fcntl
import os
import threading
import time

from device_tests.agent import release_files, release_folder
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.release_files import sync
from device_tests.agent.release_folder import MANIFEST, ReleaseFolder, check_files, manifest
from device_tests.agent.smoke import smoke
from device_tests.agent.tensorrt.engines import PLAN, RECORD, Engines
from device_tests.agent.work import sha256_file

HOLD_S = 90.0


class _Unfinished:
    """The folders in which this agent has begun something, each held against other agents.

    After a cut link the agent of before may still be leaving when the next one is there: neither may undo what the
    other does. And an agent leaves in a thread of its own, while its main thread may be at work: from then on that
    changes nothing.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._held = {}
        self._leaving = False

    def hold(self, folder, deadline):
        """Keeps other agents out of a folder until `let_go`, or until this agent is gone.

        Raises:
            Refusal: "busy": another one did not leave in time.
        """
        if folder.path in self._held:
            return
        handle = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
        patience = Deadline(min(HOLD_S, deadline.remaining_s * 0.5))
        while not _locked(handle):
            if not patience.remaining_s:
                os.close(handle)
                raise Refusal("busy", "another agent is at work in %s" % folder.path)
            time.sleep(0.05)
        self._held[folder.path] = (folder, handle)

    def let_go(self, folder):
        """Nothing of ours is unfinished there any more."""
        with self._lock:
            if folder.path in self._held and not self._leaving:
                os.close(self._held.pop(folder.path)[1])

    @contextlib.contextmanager
    def changing(self):
        """For the main thread's changes."""
        with self._lock:
            if self._leaving:
                raise Refusal("leaving", "the agent is leaving")
            yield

    def abandon(self):
        """Undoes what is unfinished, for good."""
        with self._lock:
            self._leaving = True
            for folder, _ in list(self._held.values()):
                # What fails here is found and undone by the next agent.
                with contextlib.suppress(OSError, Refusal):
                    folder.go_back()
                    folder.remove_parts()


_UNFINISHED = _Unfinished()


def abandon():
    """Undoes switches that are not confirmed and removes what is staged: this agent is leaving."""
    _UNFINISHED.abandon()


def methods(agent):
    """Name -> function(params, deadline, event), for `Agent.methods`."""
    releasing = Releasing(agent)
    return {
        "release_list": releasing.list,
        "release_stage": releasing.stage,
        "release_smoke": releasing.smoke,
        "release_switch": releasing.switch,
        "release_recover": releasing.recover,
        "release_remove": releasing.remove,
        "release_room": releasing.room,
        "release_engine": releasing.engine,
    }


class Releasing:
    """The methods. Every one takes `root`, the folder of all releases, and the model's `name`."""

    def __init__(self, agent):
        self._agent = agent

    def list(self, params, _deadline, _event):
        """What is there, of one `name` or, where it is None, of all. Changes nothing."""
        root = release_folder.releases_root(params["root"])
        wanted = release_folder.names(root) if params.get("name") is None else [params["name"]]
        return {"root": root, "models": [_listed(ReleaseFolder(root, name)) for name in wanted]}

    def stage(self, params, deadline, _event):
        """Makes a release under its temporary name from verified uploads; what an earlier agent left there goes.

        Until it is switched to or recovered from, no other agent gets in. Params: `version`, `manifest`: sha256 of the
        upload that names all others.
        """
        folder, version = _folder(params), params["version"]
        part = folder.part(version)
        folder.create()
        _UNFINISHED.hold(folder, deadline)
        try:
            with _UNFINISHED.changing():
                recovered = folder.go_back() + folder.remove_parts()
                if folder.has(version):
                    raise Refusal("exists", "%s has a release %s already" % (folder.path, version))
                os.mkdir(part)
            self._fill(part, folder.name, version, params["manifest"])
        except BaseException:
            with _UNFINISHED.changing():
                folder.remove_parts()
            _UNFINISHED.let_go(folder)
            raise
        return {"recovered": recovered, "path": part}

    def smoke(self, params, deadline, event):
        """Checks the release `version`, staged or an earlier one; it need not be current."""
        folder, version = _folder(params), params["version"]
        staged = folder.part(version)
        return self._smoke(staged if os.path.isdir(staged) else folder.folder(version), deadline, event)

    def switch(self, params, deadline, event):
        """Makes `version`, staged or an earlier one, current, and checks it as applications open it.

        Where that check fails, the one before is current again before the answer goes out.
        """
        folder, version = _folder(params), params["version"]
        with self._alone_in(folder, deadline):
            with _UNFINISHED.changing():
                recovered = folder.go_back()
            before = folder.current()
            fresh = not folder.has(version)
            if fresh and not os.path.isdir(folder.part(version)):
                raise Refusal("not-found", "there is no release %s of %s" % (version, folder.name))
            try:
                with _UNFINISHED.changing():
                    folder.begin(version, before, fresh)
                    if fresh:
                        os.rename(folder.part(version), folder.folder(version))
                    folder.point(version)
                found = self._smoke(folder.current_path, deadline, event)
            except BaseException:
                with _UNFINISHED.changing():
                    folder.go_back()
                raise
            with _UNFINISHED.changing():
                if found["passed"]:
                    folder.confirm()
                else:
                    folder.go_back()
            return dict(found, current=folder.current(), before=before, recovered=recovered)

    def recover(self, params, deadline, _event):
        """Undoes what was begun and not finished, by us or by an agent that is gone: switches and staged releases."""
        folder = _folder(params)
        if not os.path.isdir(folder.path):
            return {"recovered": []}
        with self._alone_in(folder, deadline), _UNFINISHED.changing():
            return {"recovered": folder.go_back() + folder.remove_parts()}

    def remove(self, params, deadline, _event):
        """Removes the release `version`; never the current one, nor the one to go back to."""
        folder, version = _folder(params), params["version"]
        with self._alone_in(folder, deadline), _UNFINISHED.changing():
            if version in (folder.current(), folder.previous()):
                raise Refusal("in-use", "%s is the current release of %s, or the one before" % (version, folder.name))
            if not folder.has(version):
                raise Refusal("not-found", "there is no release %s of %s" % (version, folder.name))
            folder.remove(version)
        return {}

    def room(self, params, _deadline, _event):
        """Refuses where the disk has no room for an engine and a release of it; see `release_files.room_for_engine`.

        Params: `key` and `size_bytes` of the engine, as it was measured.
        """
        root = release_folder.releases_root(params["root"])
        release_files.room_for_engine(self._folders(), root, params["key"], params["size_bytes"])
        return {}

    def engine(self, params, _deadline, _event):
        """The files of the engine `key`, its content checked. Result: {"files": [{"file", "sha256", "size_bytes"}]}."""
        engines = Engines(self._folders().engines)
        record = engines.record(params["key"])
        if record is None:
            raise Refusal("engine-missing", "no engine %s is on the board" % params["key"])
        engines.read(record)
        paths = {name: os.path.join(engines.folder(params["key"]), name) for name in (PLAN, RECORD)}
        return {
            "files": [
                {"file": name, "sha256": sha256_file(path), "size_bytes": os.path.getsize(path)}
                for name, path in paths.items()
            ]
        }

    @contextlib.contextmanager
    def _alone_in(self, folder, deadline):
        """For changes that are finished when the answer goes out."""
        if not os.path.isdir(folder.path):
            raise Refusal("not-found", "nothing of %s is released" % folder.name)
        _UNFINISHED.hold(folder, deadline)
        try:
            yield
        finally:
            _UNFINISHED.let_go(folder)

    def _fill(self, part, name, version, sha256):
        folders = self._folders()
        release_files.take(part, {MANIFEST: folders.blob(sha256)})
        told = manifest(part)
        if (told["name"], told["version"]) != (name, version):
            raise Refusal("damaged", "the manifest is that of %s %s" % (told["name"], told["version"]))
        files = {file["file"]: file["sha256"] for file in told["files"]}
        release_files.take(part, {file: release_files.source(folders, told, file, files[file]) for file in files})
        check_files(part, told)
        sync(part)
        sync(os.path.dirname(part))

    def _folders(self):
        if self._agent.folders is None:
            raise Refusal("bad-request", "say hello first: it names the workdir")
        return self._agent.folders

    def _smoke(self, place, deadline, event):
        told = manifest(place)
        check_files(place, told)
        scratch = self._folders().new()
        # A little earlier than ours, so that the child's end is still an answer.
        inner = Deadline(deadline.remaining_s * 0.95)
        try:
            return smoke(place, told, scratch, inner, event)
        finally:
            self._folders().forget(scratch)


def _locked(handle):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folder(params):
    return ReleaseFolder(params["root"], params["name"])


def _listed(folder):
    """One model's releases; what is broken there is told, and hides nothing else."""
    releases, problem, current, previous = [], None, None, None
    for version in folder.versions():
        try:
            releases.append({"version": version, "manifest": manifest(folder.folder(version)), "problem": None})
        except Refusal as refusal:
            releases.append({"version": version, "manifest": None, "problem": refusal.message})
    try:
        current = folder.current()
        previous = folder.previous()
    except Refusal as refusal:
        problem = refusal.message
    return {
        "name": folder.name,
        "path": folder.path,
        "current": current,
        "previous": previous,
        "unconfirmed": folder.unconfirmed(),
        "problem": problem,
        "releases": releases,
    }
