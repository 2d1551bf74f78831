"""The releases of one model on one board: the agent's methods, with errors that say which release answers now."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from device_tests.agent_client import Refused
from device_tests.deadline import Deadline
from device_tests.release_manifest import FilePart, Manifest
from device_tests.session import BoardSession
from edgesmith.errors import BoardError, GateFailed, InfrastructureError, InputError
from edgesmith.types import Device

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHORT_S = 60.0
_RECOVER_S = 240.0
_STAGE_S = 600.0
_SMOKE_S = 600.0

_BUILD_ANEW = (
    "The board has another TensorRT than when this release was made. `edgesmith deploy RUN_FOLDER` builds its engine "
    "for the one that is there now; `edgesmith run` measures it, too."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoke:
    """A smoke check that passed.

    Attributes:
        differences: per output, the largest difference from what was expected.
    """

    p50_ms: float
    runs: int
    runner: str
    differences: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release on a board; no manifest where it is damaged, then `problem` says how."""

    version: str
    manifest: Manifest | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReleases:
    """All releases of one model on a board, oldest first.

    Attributes:
        path: the folder there, absolute; `path`/current is what applications open.
        previous: what `rollback` would go back to.
        unconfirmed: the current release was never confirmed; the next deploy or rollback undoes it.
    """

    name: str
    path: str
    current: str | None
    previous: str | None
    unconfirmed: bool
    problem: str | None
    releases: tuple[Release, ...]

    @property
    def has_engines(self) -> bool:
        """Whether any release runs an engine of its own."""
        return any(release.manifest is not None and release.manifest.engine is not None for release in self.releases)

    def as_dict(self, tensorrt: str | None = None) -> dict[str, Any]:
        """For --json.

        Args:
            tensorrt: the version that the board has now, where it is known.
        """
        releases = [
            {
                "version": release.version,
                "problem": release.problem,
                "stale_engine": (release.manifest.stale_engine(tensorrt) or None) if release.manifest else None,
                "manifest": release.manifest and release.manifest.model_dump(mode="json"),
            }
            for release in self.releases
        ]
        return {
            "name": self.name,
            "path": self.path,
            "current": self.current,
            "previous": self.previous,
            "unconfirmed": self.unconfirmed,
            "problem": self.problem,
            "releases": releases,
        }

    def find(self, version: str | None) -> Release | None:
        """The release of that version."""
        return next((release for release in self.releases if release.version == version), None)


def releases_root(device: Device) -> str:
    """The folder on the board; on this machine it is below the home folder, as on any other."""
    return str(Path.home() / device.releases) if device.transport == "local" else device.releases


def check_name(name: str) -> str:
    """The name of a release, fit to be a folder.

    Raises:
        InputError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"'{name}' cannot name a release.",
            next_step="Use letters, digits and . _ - (a letter or digit first, at most 100): --name NAME.",
        )
    return name


class ReleaseBoard:
    """What the agent there does for the releases of one model."""

    def __init__(self, session: BoardSession, name: str) -> None:
        self._session = session
        self._name = check_name(name)

    @property
    def device(self) -> str:
        """The board's name."""
        return self._session.device.name

    def list(self) -> ModelReleases:
        """What is there. Changes nothing."""
        return list_releases(self._session, self._name)[0]

    @contextlib.contextmanager
    def staging(self, version: str, before: str | None) -> Iterator[None]:
        """What was staged and did not become current is removed, whatever goes wrong."""
        try:
            yield
        except BaseException as error:
            # Over a link that is gone, the agent does it by itself, or the next deploy does.
            with contextlib.suppress(InfrastructureError):
                self.recover()
            if isinstance(error, Refused):
                raise self._refused(version, error, f"it was removed; {answers(before)}") from None
            raise

    def recover(self) -> tuple[str, ...]:
        """Undoes what a deploy that was cut off left; returns what was done. Waits for an agent that is still at it."""
        return tuple(self._ask("release_recover", {}, _RECOVER_S)["recovered"])

    def stage(self, version: str, manifest_sha256: str) -> None:
        """Puts pushed files under the release's temporary name."""
        self._ask("release_stage", {"version": version, "manifest": manifest_sha256}, _STAGE_S)

    def smoke(self, version: str, then: str) -> Smoke:
        """Checks a release without making it current.

        Args:
            version: staged, or an earlier one.
            then: what is the case where it fails, for the message.
        """
        try:
            told = self._ask("release_smoke", {"version": version}, _SMOKE_S)
        except Refused as refused:
            raise self._refused(version, refused, then) from None
        return self._passed(version, told, then)

    def switch(self, version: str, then: str) -> Smoke:
        """Makes a release current and checks it as applications open it; undone there where it fails."""
        try:
            told = self._ask("release_switch", {"version": version}, _SMOKE_S)
        except Refused as refused:
            raise self._refused(version, refused, f"the switch was undone: {then}") from None
        return self._passed(version, told, f"the switch was undone: {then}")

    def room_for_engine(self, key: str, size_bytes: int) -> None:
        """Refuses where the disk has no room for an engine and its release.

        Raises:
            Refused: "no-space".
        """
        self._ask("release_room", {"key": key, "size_bytes": size_bytes}, _SHORT_S)

    def engine_files(self, key: str) -> tuple[FilePart, ...]:
        """The files of an engine that is there.

        Raises:
            Refused: it is gone, or damaged.
        """
        told = self._ask("release_engine", {"key": key}, _STAGE_S)
        return tuple(FilePart.model_validate(file) for file in told["files"])

    def prune(self, keep: int) -> tuple[str, ...]:
        """Removes the oldest releases beyond `keep`; never the current one, nor the one before it."""
        there = self.list()
        others = [release.version for release in there.releases if release.version != there.current]
        removed = tuple(v for v in others[: max(0, len(others) - max(1, keep))] if v != there.previous)
        for version in removed:
            self._ask("release_remove", {"version": version}, _SHORT_S)
        return removed

    def _ask(self, method: str, params: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        place = {"root": releases_root(self._session.device), "name": self._name}
        return self._session.ask(method, {**place, **params}, Deadline.after(seconds))

    def _passed(self, version: str, told: Mapping[str, Any], then: str) -> Smoke:
        if not told["passed"]:
            raise GateFailed(
                f"{self.device}: release {version} of {self._name} fails its smoke check: {told['why']}; {then}.",
                next_step="The board is not as it was in the run (its runtime, its load, its files?): "
                "`edgesmith run --remeasure` judges the model there anew.",
            )
        return Smoke(
            p50_ms=told["p50_ns"] / 1e6,
            runs=told["runs"],
            runner=told["runner"],
            differences=tuple(one["largest"] for one in told["differences"]),
        )

    def _refused(self, version: str, refused: Refused, then: str) -> BoardError:
        return BoardError(
            f"{self.device}: release {version} of {self._name}: {refused.message}; {then}.",
            next_step=_BUILD_ANEW if refused.code == "engine-mismatch" else refused.next_step,
        )


def list_releases(session: BoardSession, name: str | None = None) -> tuple[ModelReleases, ...]:
    """What is released on a board: of one model, or of all. Changes nothing.

    Raises:
        BoardError: the folder there is not one for releases.
    """
    params = {"root": releases_root(session.device), "name": name if name is None else check_name(name)}
    told = session.ask("release_list", params, Deadline.after(_SHORT_S))
    return tuple(_model(one) for one in told["models"])


def answers(version: str | None) -> str:
    """Which release answers, for messages."""
    return f"{version} answers" if version else "no release of it answers"


def _model(told: Mapping[str, Any]) -> ModelReleases:
    return ModelReleases(
        name=told["name"],
        path=told["path"],
        current=told["current"],
        previous=told["previous"],
        unconfirmed=told["unconfirmed"] is not None,
        problem=told["problem"],
        releases=tuple(_release(one) for one in told["releases"]),
    )


def _release(told: Mapping[str, Any]) -> Release:
    try:
        manifest = None if told["manifest"] is None else Manifest.model_validate(told["manifest"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return Release(version=told["version"], manifest=None, problem=f"its manifest: {where}: {first['msg']}")
    return Release(version=told["version"], manifest=manifest, problem=told["problem"])
