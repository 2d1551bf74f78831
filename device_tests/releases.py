"""Releases on a board, from the workstation's side: deploy, roll back, list.

A new release is checked on the board before it answers, and again as applications open it. Where it fails, the one
before answers: the switch is made and undone on the board itself, so that no cut link leaves it half-way.
"""

from __future__ import annotations

import enum
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_tests import release_engine
from device_tests.release_board import ModelReleases, ReleaseBoard, Smoke, answers
from device_tests.release_manifest import FILE, EnginePart, Manifest
from device_tests.release_request import ReleaseRequest, make_manifest, new_version, write_files
from device_tests.session import BoardSession
from edgesmith.errors import InputError
from edgesmith.files import sha256_file, write_bytes
from edgesmith.progress import Progress


class State(enum.StrEnum):
    """How the release that answers came to."""

    DEPLOYED = "deployed"
    SAME = "already there"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A release that answers.

    Attributes:
        before: the version that answered until now; None where there was none.
        removed: versions that were no longer to be kept.
        recovered: what an unfinished deploy had left, and what was done about it.
        engine: that the release runs; None where it runs the model as it is, or was there before.
    """

    device: str
    name: str
    version: str
    state: State
    before: str | None
    smoke: Smoke
    bytes_sent: int = 0
    removed: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()
    engine: EnginePart | None = None


def deploy(session: BoardSession, request: ReleaseRequest, progress: Progress) -> Deployed:
    """Makes a model answer on a board, if it passes its smoke check there.

    Raises:
        GateFailed: it does not pass; the release before still answers, or answers again.
        BoardError: the board refused, built no engine, or the runtime crashed; the release before answers.
        ConnectionLost, DeadlineExceeded: the link; what was begun is undone by the agent there, or by the next deploy.
    """
    board = ReleaseBoard(session, request.name)
    sent_before = session.bytes_sent
    with (
        tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch,
        progress.task(f"release {request.name} on {board.device}", total=4) as task,
    ):
        recovered = board.recover()
        there = board.list()
        engine = release_engine.on_board(session, board, request)
        files = write_files(request, Path(scratch))
        manifest = make_manifest(
            request,
            files,
            version=new_version(request.artifact.sha256, [release.version for release in there.releases]),
            previous=there.current,
            device=board.device,
            info=session.info,
            engine=None if engine is None else engine.part,
            more=engine.files if engine else (),
        )
        if (version := _already_there(there, manifest)) is not None:
            smoke = board.smoke(version, "it is the current release and stays")
            return Deployed(
                device=board.device,
                name=request.name,
                version=version,
                state=State.SAME,
                before=version,
                smoke=smoke,
                recovered=recovered,
                engine=manifest.engine,
            )
        task.advance(1, "send")
        sent = _push(session, files, manifest, Path(scratch))
        task.advance(1, "check beside the current one")
        removed = f"it was removed; {answers(there.current)}"
        with board.staging(manifest.version, there.current):
            board.stage(manifest.version, sent)
            board.smoke(manifest.version, removed)
            task.advance(1, "switch, and check again")
            smoke = board.switch(manifest.version, removed)
    return Deployed(
        device=board.device,
        name=request.name,
        version=manifest.version,
        state=State.DEPLOYED,
        before=there.current,
        smoke=smoke,
        bytes_sent=session.bytes_sent - sent_before,
        removed=board.prune(request.keep),
        recovered=recovered,
        engine=manifest.engine,
    )


def rollback(session: BoardSession, name: str, progress: Progress, to: str | None = None) -> Deployed:
    """Makes an earlier release answer, if it passes its smoke check there.

    Args:
        session: the board.
        name: of the model.
        progress: where it tells how far it is.
        to: a version; None: the one that the current release took over from.

    Raises:
        InputError: there is no such release.
        GateFailed, BoardError, ConnectionLost, DeadlineExceeded: as in `deploy`.
    """
    board = ReleaseBoard(session, name)
    with progress.task(f"roll back {name} on {board.device}", total=2) as task:
        recovered = board.recover()
        there = board.list()
        target = to or there.previous
        if target is None or there.find(target) is None:
            raise _no_such(board.device, there, to)
        smoke, state = board.smoke(target, answers(there.current)), State.SAME
        if target != there.current:
            task.advance(1, "switch, and check again")
            smoke, state = board.switch(target, answers(there.current)), State.ROLLED_BACK
    return Deployed(
        device=board.device,
        name=name,
        version=target,
        state=state,
        before=there.current,
        smoke=smoke,
        recovered=recovered,
    )


def _already_there(there: ModelReleases, manifest: Manifest) -> str | None:
    """The current version, where it is what is to be released."""
    current = there.find(there.current)
    same = current is not None and current.manifest is not None and current.manifest.same_content(manifest)
    return there.current if same else None


def _no_such(device: str, there: ModelReleases, to: str | None) -> InputError:
    others = [release.version for release in there.releases if release.version != there.current]
    known = f"Others there: {', '.join(others)}; --to names one." if others else "`edgesmith deploy` puts one there."
    if to is not None:
        return InputError(f"{device}: there is no release {to} of {there.name}.", next_step=known)
    if there.current is None:
        return InputError(f"{device}: nothing of {there.name} is released.", next_step=known)
    return InputError(
        f"{device}: nothing of {there.name} came before {there.current}, or it is no longer there.", next_step=known
    )


def _push(session: BoardSession, files: Mapping[str, Path], manifest: Manifest, folder: Path) -> str:
    """Sends what the board does not have; returns the manifest's hash, by which the board finds all others."""
    written = folder / FILE
    write_bytes(written, manifest.content())
    for entry in manifest.files:
        if entry.file in files:  # an engine is taken from the board's own
            session.push(files[entry.file], entry.sha256)
    sha256 = sha256_file(written)
    session.push(written, sha256)
    return sha256
