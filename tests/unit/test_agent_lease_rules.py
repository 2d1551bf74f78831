"""Who may have a board: by the board's uptime and boot id alone, with hand-made clocks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.agent import lease_rules
from device_tests.agent.lease_rules import Moment
from device_tests.agent.protocol import Refusal

BOOT = "boot-1"
ONE, TWO = {"pid": 11, "started": 1}, {"pid": 22, "started": 2}


def at(uptime_s: float, boot_id: str = BOOT) -> Moment:
    return Moment(boot_id, uptime_s)


def claim(
    record: dict[str, Any],
    now: Moment,
    who: str,
    *,
    process: dict[str, int] = ONE,
    ttl_s: float = 60.0,
    token: str = "",
) -> Any:
    params = {"owner": f"{who}@ws", "run_id": f"run-{who}", "token": token or who, "ttl_s": ttl_s}
    return lease_rules.lease(record, now, params, process)


def reserve(record: dict[str, Any], now: Moment, who: str, seconds: float = 3600.0, *, force: bool = False) -> Any:
    return lease_rules.hold(record, now, {"owner": f"{who}@ws", "seconds": seconds, "force": force}, ONE)


def test_a_free_board_is_granted_and_a_second_claim_is_told_who_has_it():
    record: dict[str, Any] = {}
    assert claim(record, at(100), "ann") == {"granted": True, "taken_over": None}
    assert claim(record, at(130), "bob") == {
        "granted": False,
        "holder": {"kind": "run", "owner": "ann@ws", "run_id": "run-ann", "held_s": 30.0, "expires_in_s": 30.0},
    }


def test_it_is_taken_over_when_it_has_lapsed_and_not_before_and_the_one_before_is_named():
    record: dict[str, Any] = {}
    claim(record, at(100), "ann")
    assert lease_rules.renew(record, at(150), "ann", ONE)
    assert not claim(record, at(209.9), "bob")["granted"]
    taken = claim(record, at(210), "bob")
    assert taken["granted"]
    assert taken["taken_over"]["owner"] == "ann@ws"
    assert taken["taken_over"]["held_s"] == 110.0
    assert taken["taken_over"]["expires_in_s"] == 0.0


def test_who_lost_it_cannot_renew_nor_end_it():
    record: dict[str, Any] = {}
    claim(record, at(0), "ann", process=ONE)
    claim(record, at(61), "bob", process=TWO)
    assert not lease_rules.renew(record, at(62), "ann", ONE)
    assert not lease_rules.unlease(record, "ann", ONE)
    assert lease_rules.is_of(record, "bob", TWO)


def test_a_late_heartbeat_saves_a_lapsed_lease_that_nobody_has_taken():
    record: dict[str, Any] = {}
    claim(record, at(0), "ann")
    assert lease_rules.renew(record, at(500), "ann", ONE)
    assert not claim(record, at(501), "bob")["granted"]


def test_after_a_restart_a_record_means_nothing_however_young_it_is():
    record: dict[str, Any] = {}
    claim(record, at(100), "ann")
    taken = claim(record, at(101, "boot-2"), "bob")
    assert taken["granted"]
    assert taken["taken_over"]["owner"] == "ann@ws"
    assert taken["taken_over"]["expires_in_s"] == 0.0


def test_the_same_token_comes_back_at_once_and_its_earlier_agent_is_known_and_out():
    record: dict[str, Any] = {}
    claim(record, at(100), "ann", process=ONE)
    assert claim(record, at(110), "ann", process=TWO) == {"granted": True, "taken_over": None}
    assert lease_rules.earlier_agents(record, TWO) == [ONE]
    assert record["run"]["claimed_s"] == 100
    assert not lease_rules.renew(record, at(111), "ann", ONE)
    assert lease_rules.renew(record, at(111), "ann", TWO)


def test_the_same_token_after_a_restart_has_no_earlier_agents():
    record: dict[str, Any] = {}
    claim(record, at(100), "ann", process=ONE)
    claim(record, at(1, "boot-2"), "ann", process=TWO)
    assert lease_rules.earlier_agents(record, TWO) == []


def test_a_hold_lets_its_owners_runs_in_one_at_a_time_and_keeps_the_others_out():
    record: dict[str, Any] = {}
    assert reserve(record, at(0), "ann", 3600)["granted"]
    told = claim(record, at(10), "bob")
    assert told["holder"]["kind"] == "hold"
    assert told["holder"]["expires_in_s"] == 3590.0
    assert claim(record, at(10), "ann", token="first")["granted"]
    assert claim(record, at(11), "ann", token="second")["holder"]["kind"] == "run"
    assert lease_rules.unlease(record, "first", ONE)
    assert not claim(record, at(12), "bob")["granted"]
    assert claim(record, at(3600), "bob")["taken_over"]["kind"] == "hold"
    assert "hold" not in record


def test_a_hold_needs_no_heartbeat_and_is_made_longer_by_its_owner():
    record: dict[str, Any] = {}
    reserve(record, at(0), "ann", 1000)
    assert reserve(record, at(900), "ann", 1000) == {"granted": True, "taken_over": None}
    assert not claim(record, at(1899), "bob")["granted"]


def test_a_hold_of_somebody_else_is_taken_only_by_force_and_a_run_not_even_so():
    record: dict[str, Any] = {}
    reserve(record, at(0), "ann")
    assert reserve(record, at(1), "bob")["holder"]["owner"] == "ann@ws"
    taken = reserve(record, at(2), "bob", force=True)
    assert taken["taken_over"]["owner"] == "ann@ws"
    assert record["hold"]["owner"] == "bob@ws"
    claim(record, at(3), "bob")
    assert reserve(record, at(4), "ann", force=True)["holder"]["kind"] == "run"


def test_giving_back_ends_what_is_ones_own_or_lapsed_and_everything_only_by_force():
    record: dict[str, Any] = {}
    reserve(record, at(0), "ann")
    claim(record, at(0), "ann")
    not_mine = lease_rules.unhold(record, at(1), {"owner": "bob@ws"})
    assert not_mine == {"released": [], "holder": at(1).holder(record["run"])}
    mine = lease_rules.unhold(record, at(1), {"owner": "ann@ws"})
    assert [one["kind"] for one in mine["released"]] == ["hold"]
    assert mine["holder"]["kind"] == "run"
    assert [one["kind"] for one in lease_rules.unhold(record, at(61), {"owner": "bob@ws"})["released"]] == ["run"]
    claim(record, at(70), "ann")
    forced = lease_rules.unhold(record, at(71), {"owner": "bob@ws", "force": True})
    assert forced["released"][0]["owner"] == "ann@ws"
    assert record == {}


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"ttl_s": 0}, "ttl_s is not between 0 and 3600 seconds: 0"),
        ({"ttl_s": 1e9}, "ttl_s is not between 0 and 3600 seconds"),
        ({"ttl_s": float("nan")}, "ttl_s is not between 0 and 3600 seconds: nan"),
        ({"ttl_s": True}, "ttl_s is not between"),
        ({"owner": ""}, "owner is no text of at most 200 characters: ''"),
        ({"owner": "x" * 201}, "owner is no text of at most 200 characters"),
        ({"owner": None}, "owner is no text"),
        ({"token": ""}, "a lease needs a token"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(changed: dict[str, Any], text: str):
    params = {"owner": "ann@ws", "run_id": "r", "token": "t", "ttl_s": 60.0} | changed
    record: dict[str, Any] = {}
    with pytest.raises(Refusal) as refused:
        lease_rules.lease(record, at(0), params, ONE)
    assert refused.value.code == "bad-params"
    assert text in refused.value.message
    assert record == {}


def test_what_others_leave_in_a_shared_folder_is_no_record():
    record: dict[str, Any] = {}
    claim(record, at(0), "ann")
    reserve(record, at(0), "ann")
    assert lease_rules.is_record(record)
    assert lease_rules.is_record({})
    entry = record["run"]
    for foreign in (
        [],
        {"run": {}},
        {"run": 1},
        {"other": entry},
        {"hold": entry},
        {"run": dict(entry, renewed_s="soon")},
        {"run": dict(entry, process={"pid": "1"})},
        {"run": dict(entry, stale=[1])},
    ):
        assert not lease_rules.is_record(foreign)


events = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cid"]), st.sampled_from(["claim", "renew", "end"]), st.floats(0, 50)),
    max_size=40,
)


@given(events)
def test_whatever_happens_one_owner_at_a_time(steps: list[tuple[str, str, float]]):
    """A model: the holder is who was granted last, until the end or the lapse of its lease."""
    record: dict[str, Any] = {}
    holder, until, clock = "", 0.0, 0.0
    for who, what, wait in steps:
        clock += wait
        now = at(clock)
        if what == "claim":
            free = not holder or holder == who or clock >= until
            assert claim(record, now, who)["granted"] is free
            if free:
                holder, until = who, clock + 60.0
        elif what == "renew":
            assert lease_rules.renew(record, now, who, ONE) is (holder == who)
            until = clock + 60.0 if holder == who else until
        else:
            assert lease_rules.unlease(record, who, ONE) is (holder == who)
            holder = "" if holder == who else holder
