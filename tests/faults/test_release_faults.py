"""A release that fails on a real board: whatever fails, the model that answered goes on answering."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from device_tests.agent_zip import build_agent
from device_tests.loopback import LoopbackBoard
from device_tests.release_board import list_releases
from device_tests.releases import State, deploy
from edgesmith.errors import BoardError, ConnectionLost, GateFailed
from edgesmith.files import sha256_file
from edgesmith.progress import Silent
from tests.release_desk import CURRENT, PATIENCE_S, STAGED, Application, Desk, X, request, wait_for
from tests.tiny_artifacts import artifact

pytestmark = pytest.mark.slow  # tests/unit/test_releases.py and test_agent_releasing.py have the rules

FAULTS = {
    "wrong": (GateFailed, r"fails its smoke check: output 0 is off by up to 255 \(absolute\), at most 0\.0765 is all"),
    "slow": (GateFailed, r"its latency is not sane: p50 [23]\d\.\d+ ms, at most 11\.000 ms expected"),
    "crash": (BoardError, "SIGSEGV during 'load'"),
}
MOMENTS = [STAGED, CURRENT]


@pytest.fixture
def desk(board: LoopbackBoard, tmp_path: Path) -> Desk:
    """A board with an agent that knows the runtime of tests/release_desk.py."""
    return Desk(board, tmp_path)


def test_a_release_holds_all_that_an_application_needs_and_is_sent_once(desk: Desk):
    with desk.session() as session:
        first = deploy(session, desk.request(2), Silent())
        assert (first.state, first.before, first.removed, first.recovered) == (State.DEPLOYED, None, (), ())
        assert first.bytes_sent > 0
        assert first.smoke.differences == (0.0,)
        assert first.smoke.runner == "abacus 1.0"
        again = deploy(session, desk.request(2), Silent())
        assert (again.state, again.version, again.bytes_sent) == (State.SAME, first.version, 0)
        second = deploy(session, desk.request(3), Silent())
        assert (second.state, second.before) == (State.DEPLOYED, first.version)
        (model,) = list_releases(session)
    assert desk.factor() == 3
    assert desk.names() == [first.version, second.version, "current"]
    assert (model.name, model.current, model.previous) == ("double", second.version, first.version)
    assert model.path == str(desk.releases)
    assert not model.unconfirmed
    newest = model.find(second.version)
    assert newest is not None
    manifest = newest.manifest
    assert manifest is not None
    assert json.loads((desk.releases / "current/manifest.json").read_bytes()) == manifest.model_dump(mode="json")
    for file in manifest.files:
        place = desk.releases / "current" / file.file
        assert (sha256_file(place), place.stat().st_size) == (file.sha256, file.size_bytes)
    assert [file.file for file in manifest.files] == ["model.json", "smoke-inputs.npy", "smoke-outputs-0.npy"]
    assert (manifest.runner, manifest.threads) == ("abacus", 1)
    assert manifest.runtime["abacus"] == "1.0"
    assert manifest.previous == first.version
    assert manifest.run_id == "20261122-071500-beef"
    assert manifest.inputs[0].shape == (None, 4)
    assert manifest.model_sha256 == desk.request(3).artifact.sha256
    np.testing.assert_array_equal(np.load(desk.releases / "current/smoke-outputs-0.npy"), X * 3)


def test_a_release_that_fails_beside_the_one_that_answers_is_never_seen(desk: Desk):
    with desk.session() as session:
        first = desk.in_use(session)
        with Application(desk.releases) as application:
            for fault, (kind, why) in FAULTS.items():
                with pytest.raises(kind, match=why) as failed:
                    deploy(session, desk.request(3, fault, STAGED), Silent())
                assert f"it was removed; {first} answers." in str(failed.value)
                assert desk.names() == [first, "current"]
    assert (application.factors, application.gaps) == ({2}, [])
    assert application.openings > 0


def test_a_release_that_fails_once_it_is_current_is_undone_by_itself(desk: Desk):
    with desk.session() as session:
        first = desk.in_use(session)
        with Application(desk.releases) as application:
            for fault in ("wrong", "crash"):
                kind, why = FAULTS[fault]
                with pytest.raises(kind, match=why) as failed:
                    deploy(session, desk.request(3, fault, CURRENT), Silent())
                assert f"the switch was undone: it was removed; {first} answers." in str(failed.value)
                assert desk.factor() == 2
                assert desk.names() == [first, "current"]
    assert application.gaps == []
    assert application.factors <= {2, 3}


@contextlib.contextmanager
def hanging(desk: Desk, where: str) -> Iterator[int]:
    """A deploy whose model hangs in its check; yields its agent's process id. The link is to be lost inside."""

    def attempt() -> None:
        with desk.session() as session:
            deploy(session, desk.request(3, "hang", where), Silent())

    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(attempt)
        wait_for(desk.note.exists)
        yield int(desk.note.read_text())
        with pytest.raises((ConnectionLost, BoardError)):
            deploying.result(PATIENCE_S)


@pytest.mark.parametrize("where", MOMENTS)
def test_a_link_cut_in_the_middle_leaves_the_old_one_and_no_trace(desk: Desk, where: str):
    with desk.session() as session:
        first = desk.in_use(session)
    with Application(desk.releases) as application:
        with hanging(desk, where):
            desk.board.drop()
        wait_for(lambda: desk.names() == [first, "current"])
        assert desk.factor() == 2
    assert application.gaps == []
    assert application.factors == ({2} if where == STAGED else {2, 3})


def test_a_second_try_right_after_a_cut_link_does_not_meet_the_first(desk: Desk):
    with desk.session() as session:
        first = desk.in_use(session)
    with hanging(desk, CURRENT) as agent:
        desk.board.drop()
        with desk.session() as session:
            second = deploy(session, desk.request(4), Silent())
            wait_for(lambda: not Path(f"/proc/{agent}").exists())
            assert list_releases(session)[0].previous == first
    assert (second.before, second.recovered) == (first, ())
    assert (desk.factor(), desk.names()) == (4, [first, second.version, "current"])


@pytest.mark.parametrize("where", MOMENTS)
def test_an_agent_that_is_killed_in_the_middle_is_cleaned_up_after_by_the_next_deploy(desk: Desk, where: str):
    with desk.session() as session:
        first = desk.in_use(session)
    with hanging(desk, where) as agent:
        os.kill(agent, signal.SIGKILL)
    assert len(desk.names()) > 2
    with desk.session() as session:
        (model,) = list_releases(session)
        assert model.unconfirmed is (where == CURRENT)
        third = deploy(session, desk.request(4), Silent())
        assert list_releases(session)[0].previous == third.before == first
    assert len(third.recovered) == 1
    assert ("was unfinished and was removed" if where == STAGED else f"{first} answers again") in third.recovered[0]
    assert desk.names() == [first, third.version, "current"]
    assert desk.factor() == 4


def test_real_models_of_both_runtimes_pass_their_check(desk: Desk):
    """dense: y = x @ K / 4 (tests/data/agent); its int8 outputs are steps of 0.5 above -128."""
    expected = np.array([[1, 2, 3]], np.float32)
    steps = np.array([[-126, -124, -122]], np.int8)
    with desk.session(build_agent()) as session:
        for file, runner, outputs in (
            ("dense.tflite", "tflite", expected),
            ("dense_int8.tflite", "tflite", steps),
            ("dense.onnx", "onnxruntime", expected),
        ):
            done = deploy(session, request(artifact(file, Path(file).suffix[1:]), runner, outputs, x=X[:1]), Silent())
            assert done.smoke.differences == (0.0,)
        wrong = request(artifact("dense_int8.tflite", "tflite"), "tflite", steps + np.int8(2), x=X[:1])
        with pytest.raises(GateFailed, match=r"output 0 is off by up to 2 \(steps\), at most 1 is allowed"):
            deploy(session, wrong, Silent())
        other = request(artifact("dense_int8.tflite", "tflite"), "tflite", expected, x=X[:1])
        with pytest.raises(GateFailed, match=r"output 0 is int8 \[1, 3\], expected float32 \[1, 3\]"):
            deploy(session, other, Silent())
    assert (desk.releases / "current" / "model.onnx").is_file()
