"""What is remembered of boards: crash-safe, in its folder whatever the name, and by the rule."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.quarantine import BoardStates, HealthBand, boards_folder
from edgesmith.errors import ConfigError, InfrastructureError, Quarantined
from edgesmith.types import Device

PI = Device(name="pi", transport="ssh", host="10.0.0.7", user="pi")
BAND = HealthBand(model_sha256="ab", runner="tflite 2.3", median_ns=1000, set_at="2026-01-01T00:00:00+00:00")


@pytest.fixture
def states(tmp_path: Path) -> BoardStates:
    return BoardStates(tmp_path / "boards")


def test_a_board_nobody_knows_is_free(states: BoardStates, tmp_path: Path):
    states.check(PI)
    assert states.get(PI).errors_in_a_row == 0
    assert not (tmp_path / "boards").exists()  # looking writes nothing


def test_a_quarantined_board_is_refused_with_reason_time_and_way_out(states: BoardStates):
    states.quarantine(PI, "the ladder is at its end", "edgesmith")
    since = states.get(PI).quarantine.since
    with pytest.raises(Quarantined) as told:
        states.check(PI)
    assert told.value.what == f"pi: quarantined since {since} by edgesmith: the ladder is at its end"
    assert "`edgesmith devices health pi`" in told.value.next_step
    assert told.value.exit_code == 3
    assert not told.value.may_pass


def test_the_first_reason_stays(states: BoardStates):
    states.quarantine(PI, "first", "ann")
    states.quarantine(PI, "second", "edgesmith")
    assert states.get(PI).quarantine.reason == "first"


def test_lifting_sets_free_forgets_errors_and_keeps_the_band(states: BoardStates):
    states.record_error(PI, "the link was lost")
    states.set_band(PI, BAND)
    states.quarantine(PI, "why", "ann")
    states.lift(PI)
    states.check(PI)
    state = states.get(PI)
    assert (state.errors_in_a_row, state.last_error, state.band) == (0, "", BAND)


def test_errors_are_counted_until_a_run_without(states: BoardStates):
    assert states.record_error(PI, "one") == 1
    assert states.record_error(PI, "two") == 2
    assert states.get(PI).last_error == "two"
    states.record_success(PI)
    assert states.get(PI).errors_in_a_row == 0
    assert states.record_error(PI, "three") == 1


def test_this_machine_is_never_quarantined(states: BoardStates):
    with pytest.raises(ConfigError, match="this machine cannot be quarantined"):
        states.quarantine(Device(name="local", transport="local"), "why", "ann")


def test_another_board_under_the_same_name_is_another_board(states: BoardStates):
    states.quarantine(PI, "why", "ann")
    states.check(Device(name="pi", transport="ssh", host="10.0.0.8", user="pi"))
    states.check(Device(name="pi2", transport="ssh", host="10.0.0.7", user="pi"))


def test_a_damaged_file_says_which_and_what_to_do(states: BoardStates):
    states.record_error(PI, "why")
    states.path(PI).write_text("{")
    with pytest.raises(InfrastructureError, match=r"no state of a board") as told:
        states.check(PI)
    assert str(states.path(PI)) in told.value.what
    assert "Remove the file" in told.value.next_step


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    states = BoardStates(tmp_path / "file" / "boards")
    with pytest.raises(InfrastructureError, match="cannot be kept") as told:
        states.record_error(PI, "why")
    assert "XDG_STATE_HOME" in told.value.next_step


def test_two_runs_at_once_lose_no_error(states: BoardStates):
    threads = [threading.Thread(target=states.record_error, args=(PI, "why")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states.get(PI).errors_in_a_row == 20


def test_where_the_states_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert boards_folder() == tmp_path / "edgesmith" / "boards"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert boards_folder() == tmp_path / "home" / ".local" / "state" / "edgesmith" / "boards"


@given(st.text(min_size=1))
def test_whatever_the_name_the_file_stays_in_its_folder(name: str):
    folder = Path("/nowhere/boards")
    path = BoardStates(folder).path(Device(name=name, transport="ssh", host=name, user=name))
    assert path.parent == folder
    assert path.stem.isalnum()
