"""Deploying and rolling back, from the workstation's side; the board's agent is the real one, its runtime is not.

What fails on a real board is in tests/faults/test_release_faults.py.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.agent import releasing
from device_tests.agent.protocol import Deadline as AgentDeadline
from device_tests.agent.protocol import Refusal
from device_tests.agent.release_folder import ReleaseFolder, checked_name
from device_tests.agent.work import Folders
from device_tests.agent_client import Refused
from device_tests.deadline import Deadline
from device_tests.release_board import check_name, list_releases, releases_root
from device_tests.release_request import ReleaseRequest, new_version, tolerance
from device_tests.releases import State, deploy, rollback
from device_tests.session import BoardSession
from edgesmith.errors import BoardError, ConnectionLost, GateFailed, InputError
from edgesmith.files import sha256_file
from edgesmith.progress import Silent
from edgesmith.types import BoardInfo, Device
from tests.release_desk import X, request
from tests.tiny_artifacts import artifact

INFO = BoardInfo(
    machine="aarch64",
    system="Debian",
    kernel="6",
    python="3.11",
    numpy="2",
    model=None,
    cpu=None,
    cores=4,
    memory_bytes=None,
    runtimes={"onnxruntime": "1.23", "ai-edge-litert": "2.3"},
    emulated=False,
    agent_sha256="0" * 64,
)


class Session:
    """As much of a `BoardSession` as releases use, over the agent's own release methods.

    Attributes:
        check: the runtime's part of a smoke check: the reason it fails, or "".
        cut: the method during which the link goes away.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device = Device(name="pi", transport="ssh", releases=str(folder / "releases"))
        self.info = INFO
        self.bytes_sent = 0
        self.folders = Folders(str(folder / "work"))
        self.check: Callable[[Path], str] = lambda opened: ""
        self.cut = ""
        monkeypatch.setattr(releasing, "_UNFINISHED", releasing._Unfinished())
        monkeypatch.setattr(releasing, "smoke", self._smoke)
        self._methods = releasing.methods(self)

    def _smoke(self, folder: str, *_: object) -> dict[str, Any]:
        why = self.check(Path(folder))
        found = {"passed": not why, "why": why, "p50_ns": 1_500_000, "runs": 30, "runner": "onnxruntime 1.23"}
        return {**found, "differences": [{"largest": 0.0, "tolerance": 1.0, "unit": "steps"}]}

    def ask(self, method: str, params: Mapping[str, Any], deadline: Deadline) -> Mapping[str, Any]:
        if method == self.cut:
            raise ConnectionLost("pi: the link is gone.")
        try:
            told: Mapping[str, Any] = self._methods[method](params, AgentDeadline(60), lambda **_: None)
        except Refusal as refusal:
            raise Refused("pi", refusal.as_dict()) from None
        return told

    def push(self, path: Path, sha256: str) -> int:
        if self.folders.have([sha256]):
            return 0
        incoming = Path(self.folders.root) / "incoming" / "x"
        incoming.write_bytes(path.read_bytes())
        self.folders.verify(str(incoming), sha256)
        self.bytes_sent += path.stat().st_size
        return path.stat().st_size


class Desk:
    """A board and models for it; a model is as many bytes as its number says."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.fake = session
        self.session = cast("BoardSession", session)
        self.releases = folder / "releases" / "double"
        self._folder = folder

    def request(self, number: int, **changes: Any) -> ReleaseRequest:
        path = self._folder / f"{number}.onnx"
        path.write_bytes(b"m" * number)
        made = dataclasses.replace(artifact("dense.onnx", "onnx"), path=path, sha256=sha256_file(path))
        return dataclasses.replace(request(made, "onnxruntime", X), **changes)

    def deploy(self, number: int, **changes: Any) -> str:
        return deploy(self.session, self.request(number, **changes), Silent()).version

    @property
    def answers(self) -> int:
        return (self.releases / "current" / "model.onnx").stat().st_size

    def names(self) -> list[str]:
        return sorted(path.name for path in self.releases.iterdir())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    session = Session(tmp_path, monkeypatch)
    yield Desk(session, tmp_path)
    session.folders.clean()


def test_what_is_current_already_is_checked_and_not_sent(desk: Desk):
    first = deploy(desk.session, desk.request(1), Silent())
    assert (first.state, first.before, first.bytes_sent > 0) == (State.DEPLOYED, None, True)
    again = deploy(desk.session, desk.request(1), Silent())
    assert (again.state, again.version, again.bytes_sent) == (State.SAME, first.version, 0)
    desk.fake.check = lambda opened: "output 0 is off"
    with pytest.raises(GateFailed, match="output 0 is off; it is the current release and stays"):
        deploy(desk.session, desk.request(1), Silent())
    assert desk.answers == 1


@pytest.mark.parametrize(
    "changes", [{"threads": 4}, {"outputs": (X * 2,)}, {"x": X * 2}, {"name": "double"}], ids=lambda c: next(iter(c))
)
def test_the_same_model_in_other_use_is_another_release(desk: Desk, changes: dict[str, Any]):
    first = desk.deploy(1)
    second = deploy(desk.session, desk.request(1, **changes), Silent())
    assert (second.version == first) is (changes == {"name": "double"})


def test_new_figures_alone_are_no_new_release(desk: Desk):
    base = desk.request(1)
    first = deploy(desk.session, base, Silent())
    faster = base.measured.model_copy(update={"p50_ms": 0.9})
    again = deploy(desk.session, dataclasses.replace(base, measured=faster, run_id="later"), Silent())
    assert (again.state, again.version) == (State.SAME, first.version)


@pytest.mark.parametrize("cut", ["release_stage", "release_smoke", "release_switch"])
def test_a_link_that_goes_away_is_told_as_such(desk: Desk, cut: str):
    first = desk.deploy(1)
    desk.fake.cut = cut
    with pytest.raises(ConnectionLost, match="the link is gone"):
        desk.deploy(2)
    desk.fake.cut = ""
    assert desk.names() == [first, "current"]


def test_rolling_back_goes_to_the_one_before_and_never_to_and_fro(desk: Desk):
    versions = [desk.deploy(number) for number in (1, 2, 3)]
    back = rollback(desk.session, "double", Silent())
    assert (back.state, back.version, back.before) == (State.ROLLED_BACK, versions[1], versions[2])
    assert desk.answers == 2
    assert rollback(desk.session, "double", Silent()).version == versions[0]
    assert desk.answers == 1
    with pytest.raises(InputError, match=f"pi: nothing of double came before {versions[0]}") as refused:
        rollback(desk.session, "double", Silent())
    assert refused.value.next_step == f"Others there: {versions[1]}, {versions[2]}; --to names one."


def test_rolling_back_to_a_version(desk: Desk):
    versions = [desk.deploy(number) for number in (1, 2, 3)]
    assert rollback(desk.session, "double", Silent(), to=versions[0]).version == versions[0]
    assert desk.answers == 1
    assert rollback(desk.session, "double", Silent(), to=versions[2]).version == versions[2]
    assert desk.answers == 3
    same = rollback(desk.session, "double", Silent(), to=versions[2])
    assert (same.state, same.before) == (State.SAME, versions[2])
    with pytest.raises(InputError, match="there is no release 2020 of double"):
        rollback(desk.session, "double", Silent(), to="2020")
    with pytest.raises(InputError, match="nothing of other is released") as refused:
        rollback(desk.session, "other", Silent())
    assert refused.value.next_step == "`edgesmith deploy` puts one there."


def test_a_target_that_fails_is_not_rolled_back_to(desk: Desk):
    first, second = desk.deploy(1), desk.deploy(2)
    desk.fake.check = lambda opened: "output 0 is off"
    with pytest.raises(GateFailed, match=f"release {first} of double fails its smoke check: .*; {second} answers"):
        rollback(desk.session, "double", Silent())
    desk.fake.check = lambda opened: "output 0 is off" if opened.name == "current" else ""
    with pytest.raises(GateFailed, match=f"the switch was undone: {second} answers"):
        rollback(desk.session, "double", Silent())
    assert (desk.answers, desk.names()) == (2, [first, second, "current"])


def test_a_damaged_target_is_not_rolled_back_to(desk: Desk):
    first, second = desk.deploy(1), desk.deploy(2)
    (desk.releases / first / "model.onnx").write_text("rotten")
    with pytest.raises(BoardError, match=f"release {first} of double: .*is not what its manifest.*; {second} answers"):
        rollback(desk.session, "double", Silent())
    assert desk.answers == 2


def test_a_switch_that_nobody_confirmed_is_told_and_undone(desk: Desk):
    first, second = desk.deploy(1), desk.deploy(2)
    folder = ReleaseFolder(desk.fake.device.releases, "double")
    folder.begin(first, second, fresh=False)
    folder.point(first)
    (there,) = list_releases(desk.session)
    assert (there.current, there.unconfirmed) == (first, True)
    third = deploy(desk.session, desk.request(3), Silent())
    assert third.before == second
    assert third.recovered == (f"the switch to {first} was never confirmed: {second} answers again",)
    (there,) = list_releases(desk.session)
    assert (there.current, there.previous, there.unconfirmed) == (third.version, second, False)


def test_a_rollback_starts_from_what_was_confirmed(desk: Desk):
    first, second = desk.deploy(1), desk.deploy(2)
    folder = ReleaseFolder(desk.fake.device.releases, "double")
    folder.begin(first, second, fresh=False)
    folder.point(first)
    back = rollback(desk.session, "double", Silent())
    assert (back.state, back.version, back.before) == (State.ROLLED_BACK, first, second)
    assert len(back.recovered) == 1
    assert rollback(desk.session, "double", Silent(), to=first).recovered == ()


def test_old_releases_go_and_the_one_before_stays(desk: Desk):
    versions = [desk.deploy(number) for number in (1, 2, 3)]
    fourth = deploy(desk.session, desk.request(4), Silent())
    assert fourth.removed == (versions[0],)
    fifth = deploy(desk.session, desk.request(5, keep=1), Silent())
    assert fifth.removed == (versions[1], versions[2])
    assert desk.names() == [fourth.version, fifth.version, "current"]


def test_the_one_before_stays_even_where_it_is_the_oldest(desk: Desk):
    versions = [desk.deploy(number, keep=9) for number in (1, 2, 3)]
    rollback(desk.session, "double", Silent(), to=versions[0])
    last = deploy(desk.session, desk.request(4, keep=1), Silent())
    assert last.before == versions[0]
    assert last.removed == (versions[1],)
    assert rollback(desk.session, "double", Silent()).version == versions[0]


def test_a_manifest_that_this_edgesmith_cannot_read_hides_nothing_else(desk: Desk):
    first, second = desk.deploy(1), desk.deploy(2)
    place = desk.releases / first / "manifest.json"
    text = place.read_text().replace('"threads": 1', '"threads": "many"')
    place.unlink()
    place.write_text(text)
    (there,) = list_releases(desk.session)
    oldest, newest = there.releases
    assert (oldest.version, oldest.manifest) == (first, None)
    assert oldest.problem is not None
    assert oldest.problem.startswith("its manifest: threads: ")
    assert newest.manifest is not None
    assert newest.manifest.version == second
    assert newest.manifest.runtime == {"onnxruntime": "1.23"}


def test_a_disk_without_room_leaves_the_old_one(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    first = desk.deploy(1)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            desk.deploy(2)
    assert (desk.answers, desk.names()) == (1, [first, "current"])


def test_a_version_is_the_time_here_and_sorts_after_all_that_are_there():
    moment = dt.datetime(2026, 11, 22, 7, 15, 30, tzinfo=dt.UTC)
    assert new_version("ab12cd34ef", (), moment) == "20261122-071530-ab12cd34"
    assert new_version("ab12cd34ef", ["20261122-071530-ff000000"], moment) == "20261122-071531-ab12cd34"
    clock_ahead = ["20310101-000000-00000000", "20261122-071530-ff000000", "99999999-999999-00000000"]
    assert new_version("ab12cd34ef", clock_ahead, moment) == "20310101-000001-ab12cd34"


@pytest.mark.parametrize(
    ("expected", "precision", "allowed"),
    [
        (np.array([-128, 127], np.int8), "int8", 1.0),
        (np.array([0.5, -2.0], np.float32), "float32", 2e-4),
        (np.array([0.5, -2.0], np.float32), "int8-float-io", 2e-2),
        (np.array([0.5, -2.0], np.float16), "float16", 2e-2),
        (np.zeros(3, np.float32), "float32", 1e-4),
    ],
)
def test_tolerance_follows_what_computes(expected: np.ndarray, precision: str, allowed: float):
    assert tolerance(expected, precision) == pytest.approx(allowed)


@given(name=st.one_of(st.text(max_size=12), st.from_regex(r"[A-Za-z0-9._/$-]{0,12}")))
def test_both_sides_refuse_the_same_names(name: str):
    def refuses(check: Callable[[Any], object], error: type[Exception]) -> bool:
        try:
            check(name)
        except error:
            return True
        return False

    assert refuses(check_name, InputError) is refuses(checked_name, Refusal)


def test_a_name_that_is_no_folder_says_what_a_name_is():
    with pytest.raises(InputError, match=r"'\.\./x' cannot name a release") as refused:
        check_name("../x")
    assert "--name NAME" in refused.value.next_step


def test_on_this_machine_releases_are_below_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert releases_root(Device(name="local", transport="local")) == str(tmp_path / ".local/share/edgesmith/releases")
    assert releases_root(Device(name="pi", transport="ssh")) == ".local/share/edgesmith/releases"
