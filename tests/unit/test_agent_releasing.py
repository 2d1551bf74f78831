"""Releases as the board's agent keeps them: whole or absent, and never a moment without the one that answers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.agent import release_folder, releasing
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.release_folder import ReleaseFolder
from device_tests.agent.work import Folders

FIRST, SECOND, THIRD = (f"2026112{day}-071530-ab12cd3{day}" for day in (1, 2, 3))
PASSED = {"passed": True, "why": "", "p50_ns": 1000, "runs": 30, "runner": "r 1", "differences": []}
FAILED = {**PASSED, "passed": False, "why": "output 0 is off by up to 9 (steps), at most 1 is allowed"}

Smoke = Callable[[str, dict[str, Any]], dict[str, Any]]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Board:
    """The agent's release methods over a folder, with a smoke check of our own.

    Attributes:
        verdict: what the smoke check says; called with the folder it opens and the manifest there.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root / "releases"
        self.folders = Folders(str(root / "work"))
        self.verdict: Smoke = lambda folder, manifest: PASSED
        self.unfinished = releasing._Unfinished()
        monkeypatch.setattr(releasing, "_UNFINISHED", self.unfinished)
        monkeypatch.setattr(
            releasing, "smoke", lambda folder, manifest, scratch, deadline, event: self.verdict(folder, manifest)
        )
        self._methods = releasing.methods(self)

    def ask(self, method: str, **params: Any) -> Any:
        asked = {"root": str(self.root), "name": "kws", **params}
        return self._methods[method](asked, Deadline(60), lambda **_: None)

    def upload(self, content: bytes) -> str:
        incoming = Path(self.folders.root) / "incoming" / "x"
        incoming.write_bytes(content)
        self.folders.verify(str(incoming), sha256(content))
        return sha256(content)

    def manifest(self, version: str, /, **changes: Any) -> dict[str, Any]:
        """A manifest with its files uploaded; the model's content is the version."""
        contents = {"model.onnx": version.encode(), "smoke-inputs.npy": b"in", "smoke-outputs-0.npy": b"out"}
        files = [{"file": name, "sha256": self.upload(c), "size_bytes": len(c)} for name, c in contents.items()]
        smoke = {"inputs": "smoke-inputs.npy", "outputs": [{"file": "smoke-outputs-0.npy", "tolerance": 1.0}]}
        base = {"schema_version": 1, "name": "kws", "version": version, "model": "model.onnx", "files": files}
        return {**base, "smoke": smoke, "previous": None, **changes}

    def stage(self, version: str, /, **changes: Any) -> Any:
        sha = self.upload(json.dumps(self.manifest(version, **changes)).encode())
        return self.ask("release_stage", version=version, manifest=sha)

    def release(self, version: str, /, **changes: Any) -> None:
        self.stage(version, **changes)
        assert self.ask("release_switch", version=version)["current"] == version

    @property
    def home(self) -> Path:
        return self.root / "kws"

    @property
    def answers(self) -> str:
        """What an application reads."""
        return (self.home / "current" / "model.onnx").read_text()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.home.iterdir())


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    made = Board(tmp_path, monkeypatch)
    yield made
    made.folders.clean()


def test_a_release_is_staged_switched_to_and_listed(board: Board):
    assert board.stage(FIRST) == {"recovered": [], "path": str(board.home / f".{FIRST}.part")}
    assert board.names() == [f".{FIRST}.part"]
    assert board.ask("release_smoke", version=FIRST)["passed"]
    told = board.ask("release_switch", version=FIRST)
    assert (told["current"], told["before"], told["recovered"]) == (FIRST, None, [])
    assert board.names() == [FIRST, "current"]
    assert (board.home / "current").readlink() == Path(FIRST)
    assert board.answers == FIRST
    files = {path.name: path.stat().st_mode & 0o777 for path in (board.home / FIRST).iterdir()}
    names = ("manifest.json", "model.onnx", "smoke-inputs.npy", "smoke-outputs-0.npy")
    assert files == dict.fromkeys(names, 0o644)
    (model,) = board.ask("release_list", name=None)["models"]
    assert (model["name"], model["current"], model["previous"], model["unconfirmed"]) == ("kws", FIRST, None, None)
    assert [release["version"] for release in model["releases"]] == [FIRST]


def test_the_switch_is_checked_as_applications_open_it_and_the_link_never_dangles(board: Board):
    board.release(FIRST)
    seen = []

    def watch(folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
        seen.append((Path(folder).name, board.answers, manifest["version"]))
        return PASSED

    board.verdict = watch
    board.stage(SECOND, previous=FIRST)
    board.ask("release_smoke", version=SECOND)
    board.ask("release_switch", version=SECOND)
    assert seen == [(f".{SECOND}.part", FIRST, SECOND), ("current", SECOND, SECOND)]
    assert board.ask("release_list")["models"][0]["previous"] == FIRST


def test_a_switch_whose_check_fails_is_undone_and_the_failure_is_gone(board: Board):
    board.release(FIRST)
    board.stage(SECOND)
    board.verdict = lambda folder, manifest: FAILED
    told = board.ask("release_switch", version=SECOND)
    assert (told["passed"], told["current"], told["before"]) == (False, FIRST, FIRST)
    assert board.answers == FIRST
    assert board.names() == [FIRST, "current"]


def test_the_first_release_of_all_that_fails_leaves_none(board: Board):
    board.stage(FIRST)
    board.verdict = lambda folder, manifest: FAILED
    assert board.ask("release_switch", version=FIRST)["current"] is None
    assert board.names() == []


def test_an_earlier_release_that_fails_its_check_is_kept(board: Board):
    board.release(FIRST)
    board.release(SECOND, previous=FIRST)
    board.verdict = lambda folder, manifest: FAILED
    assert board.ask("release_switch", version=FIRST)["current"] == SECOND
    assert board.names() == [FIRST, SECOND, "current"]


@pytest.mark.parametrize("error", [Refusal("runtime-crashed", "SIGSEGV during 'load'"), OSError(28, "No space left")])
def test_a_check_that_cannot_be_made_undoes_the_switch(board: Board, error: Exception):
    board.release(FIRST)
    board.stage(SECOND)

    def fail(folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
        raise error

    board.verdict = fail
    with pytest.raises(type(error)):
        board.ask("release_switch", version=SECOND)
    assert (board.answers, board.names()) == (FIRST, [FIRST, "current"])


def test_an_agent_that_leaves_in_the_middle_goes_back_and_changes_nothing_after(board: Board):
    board.release(FIRST)
    board.stage(SECOND)

    def leave(folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
        assert board.answers == SECOND
        board.unfinished.abandon()
        return PASSED

    board.verdict = leave
    with pytest.raises(Refusal, match="the agent is leaving"):
        board.ask("release_switch", version=SECOND)
    assert (board.answers, board.names()) == (FIRST, [FIRST, "current"])
    with pytest.raises(Refusal, match="the agent is leaving"):
        board.stage(THIRD)


def test_two_agents_never_undo_each_other(board: Board, monkeypatch: pytest.MonkeyPatch):
    """The one of a link that was cut is still leaving when the next is there."""
    board.release(FIRST)
    board.stage(SECOND)
    first = board.unfinished
    monkeypatch.setattr(releasing, "_UNFINISHED", second := releasing._Unfinished())
    monkeypatch.setattr(releasing, "HOLD_S", 0.2)
    for method, params in (("stage", {"manifest": "0" * 64}), ("switch", {}), ("remove", {}), ("recover", {})):
        with pytest.raises(Refusal, match=r"another agent is at work in .*/kws"):
            board.ask(f"release_{method}", version=THIRD, **params)
    first.abandon()
    for _, handle in first._held.values():
        os.close(handle)  # as the end of the process does
    board.stage(THIRD)
    board.ask("release_switch", version=THIRD)
    second.abandon()
    assert (board.answers, board.names()) == (THIRD, [FIRST, THIRD, "current"])


def test_an_agent_that_leaves_undoes_only_what_is_its_own(board: Board, monkeypatch: pytest.MonkeyPatch):
    board.release(FIRST)
    first = board.unfinished
    monkeypatch.setattr(releasing, "_UNFINISHED", releasing._Unfinished())
    board.stage(SECOND)
    first.abandon()
    assert board.names() == [f".{SECOND}.part", FIRST, "current"]


def test_an_agent_that_leaves_removes_what_it_staged(board: Board):
    board.release(FIRST)
    board.stage(SECOND)
    board.unfinished.abandon()
    assert board.names() == [FIRST, "current"]


def test_what_a_power_cut_left_is_undone_by_the_next_deploy(board: Board):
    board.release(FIRST)
    board.stage(SECOND)
    folder = ReleaseFolder(str(board.root), "kws")
    folder.begin(SECOND, FIRST, True)
    Path(folder.part(SECOND)).rename(folder.folder(SECOND))
    folder.point(SECOND)
    (board.home / f".{THIRD}.part").mkdir()
    (board.home / ".current.part").symlink_to("nowhere")
    listed = board.ask("release_list")["models"][0]
    assert listed["unconfirmed"] == {"version": SECOND, "before": FIRST, "fresh": True}
    assert board.stage(THIRD)["recovered"] == [
        f"the switch to {SECOND} was never confirmed: {FIRST} answers again",
        f".{THIRD}.part was unfinished and was removed",
    ]
    assert (board.answers, board.names()) == (FIRST, [f".{THIRD}.part", FIRST, "current"])


def test_a_rollback_after_a_power_cut_starts_from_what_was_confirmed(board: Board):
    board.release(FIRST)
    board.release(SECOND, previous=FIRST)
    folder = ReleaseFolder(str(board.root), "kws")
    folder.begin(FIRST, SECOND, False)
    folder.point(FIRST)
    told = board.ask("release_switch", version=FIRST)
    assert (told["before"], told["current"]) == (SECOND, FIRST)
    assert told["recovered"] == [f"the switch to {FIRST} was never confirmed: {SECOND} answers again"]
    assert board.names() == [FIRST, SECOND, "current"]


def test_a_note_that_cannot_be_written_leaves_all_as_it_was(board: Board, monkeypatch: pytest.MonkeyPatch):
    board.release(FIRST)
    board.stage(SECOND)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        board.ask("release_switch", version=SECOND)
    monkeypatch.undo()
    assert board.answers == FIRST


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "other"}, "the manifest is that of other"),
        ({"version": THIRD}, "the manifest is that of kws"),
        ({"schema_version": 2}, "no manifest of schema version 1"),
        ({"model": "../../../etc/passwd"}, "does not say which files the release is made of"),
        ({"model": "absent.onnx"}, "does not say which files the release is made of"),
        ({"files": [{"file": "../x", "sha256": "0" * 64}]}, "not a name: '../x'"),
        ({"files": [{"file": "manifest.json", "sha256": "0" * 64}]}, "does not say which files"),
        ({"files": None}, "does not say which files the release is made of"),
        ({"smoke": {}}, "does not say which files the release is made of"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_and_nothing_stays(board: Board, changes: dict[str, Any], why: str):
    board.release(FIRST)
    with pytest.raises(Refusal, match=why):
        board.stage(SECOND, **changes)
    assert board.names() == [FIRST, "current"]


def test_an_upload_that_is_not_there_is_refused_and_nothing_stays(board: Board):
    manifest = board.manifest(FIRST)
    manifest["files"][0]["sha256"] = "0" * 64
    sha = board.upload(json.dumps(manifest).encode())
    with pytest.raises(Refusal, match="nothing with sha256 0000"):
        board.ask("release_stage", version=FIRST, manifest=sha)
    assert board.names() == []


def test_a_rotten_upload_is_refused(board: Board):
    sha = board.upload(json.dumps(board.manifest(FIRST)).encode())
    (Path(board.folders.root) / "blobs" / sha256(FIRST.encode())).write_bytes(b"rotten")
    with pytest.raises(Refusal, match=r"model\.onnx is not what its manifest says"):
        board.ask("release_stage", version=FIRST, manifest=sha)
    assert board.names() == []


def test_a_disk_without_hard_links_gets_copies(board: Board, monkeypatch: pytest.MonkeyPatch):
    def no_links(source: str, target: str) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    board.release(FIRST)
    assert board.answers == FIRST
    assert (board.home / FIRST / "model.onnx").stat().st_nlink == 1


def test_a_release_that_rotted_is_not_switched_to(board: Board):
    board.release(FIRST)
    board.release(SECOND, previous=FIRST)
    (board.home / FIRST / "model.onnx").write_bytes(b"rotten")
    with pytest.raises(Refusal, match="is not what its manifest says"):
        board.ask("release_switch", version=FIRST)
    assert board.answers == SECOND
    (board.home / FIRST / "manifest.json").unlink()
    listed = board.ask("release_list")["models"][0]["releases"]
    assert listed[0]["manifest"] is None
    assert listed[0]["problem"].endswith("manifest.json is missing")
    assert listed[1]["problem"] is None


def test_a_version_that_is_there_is_not_staged_again(board: Board):
    board.release(FIRST)
    with pytest.raises(Refusal, match="has a release 20261121-071530-ab12cd31 already"):
        board.stage(FIRST)
    with pytest.raises(Refusal, match=f"there is no release {SECOND} of kws"):
        board.ask("release_switch", version=SECOND)
    assert board.answers == FIRST


def test_what_is_needed_cannot_be_removed(board: Board):
    board.release(FIRST)
    board.release(SECOND, previous=FIRST)
    board.release(THIRD, previous=SECOND)
    for version in (THIRD, SECOND):
        with pytest.raises(Refusal, match="is the current release of kws, or the one before"):
            board.ask("release_remove", version=version)
    board.ask("release_remove", version=FIRST)
    with pytest.raises(Refusal, match="there is no release"):
        board.ask("release_remove", version=FIRST)
    assert board.names() == [SECOND, THIRD, "current"]


def test_a_current_that_is_not_ours_is_never_touched(board: Board):
    board.home.mkdir(parents=True)
    (board.home / "current").symlink_to("/etc")
    board.stage(FIRST)
    with pytest.raises(Refusal, match="current is no link to a release beside it"):
        board.ask("release_switch", version=FIRST)
    assert (board.home / "current").readlink() == Path("/etc")
    assert "no link to a release" in board.ask("release_list")["models"][0]["problem"]


@pytest.mark.parametrize("place", ["releases", "releases/kws"])
def test_a_link_in_place_of_a_folder_is_refused(board: Board, tmp_path: Path, place: str):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(elsewhere)
    with pytest.raises(Refusal, match="is a link; releases stay in a folder of their own"):
        board.stage(FIRST)
    assert list(elsewhere.iterdir()) == []


def test_nothing_is_there_before_the_first(board: Board):
    assert board.ask("release_list", name=None)["models"] == []
    assert board.ask("release_list")["models"][0]["releases"] == []
    assert not board.root.exists()


ESCAPES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["..", ".", "", "a/b", "../x", "/etc", "a\0b", "$(id)", "`id`", "a b", "-rf", ".part", "x" * 101]),
)


@given(name=ESCAPES)
def test_a_name_is_one_folder_or_refused(name: str):
    try:
        folder = ReleaseFolder("/releases", name)
    except Refusal:
        return
    assert Path(folder.path).parts == ("/", "releases", name)
    assert all(char.isascii() and (char.isalnum() or char in "._-") for char in name)


@given(version=ESCAPES)
def test_a_version_is_one_folder_or_refused(version: str):
    folder = ReleaseFolder("/releases", "kws")
    for place in (folder.folder, folder.part, folder.has):
        with pytest.raises(Refusal, match="not a release's version"):
            place(version)
    with pytest.raises(Refusal):
        release_folder.checked_version(version + "\n")


@given(value=st.one_of(st.none(), st.integers(), st.lists(st.text(), max_size=2)))
def test_what_is_no_text_is_refused(value: object):
    for check in (release_folder.checked_name, release_folder.checked_version, release_folder.releases_root):
        with pytest.raises(Refusal):
            check(value)
