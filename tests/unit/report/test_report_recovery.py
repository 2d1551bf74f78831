"""What was done about a board that failed, and whose lease was taken over, in every report."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console

from edgesmith.pipeline.assemble import lease_findings, lease_record
from edgesmith.report import render_html, render_markdown
from edgesmith.report.console import print_result
from edgesmith.report.statement import remarks
from edgesmith.result import RecoveryRecord
from edgesmith.types import Lease, LeaseHolder, Rung

LOST = "pi5-lab: the connection was lost."


def climbed(*steps: tuple[Rung, str]) -> dict[str, object]:
    records = [
        RecoveryRecord(device="pi5-lab", rung=rung, reason=LOST, outcome=outcome, seconds=1.0)
        for rung, outcome in steps
    ]
    return {"recovery": tuple(records)}


def texts(made: Any) -> tuple[str, ...]:
    out = io.StringIO()
    print_result(made.result, console=Console(file=out, width=120, color_system=None))
    shown = (out.getvalue(), render_markdown(made.result), render_html(made.result, made.run_dir))
    return tuple(" ".join(text.split()) for text in shown)


def test_a_board_that_was_mended_is_told_of_once(one_pair: Callable[..., Any]):
    made = one_pair(run=climbed((Rung.RECONNECT, "did not help"), (Rung.KILL_AGENT, "helped")))
    (found,) = [remark for remark in remarks(made.result) if remark.finding.code == "recovered"]
    assert found.where == "pi5-lab"
    assert found.finding.severity == "warning"
    said = f"The board failed: {LOST} Done about it: reconnect did not help, kill the stale agent helped."
    assert found.finding.text == said
    assert not found.finding.next_step
    for text in texts(made):
        assert "Done about it: reconnect did not help, kill the stale agent helped." in text


def test_a_quarantined_board_says_what_sets_it_free(one_pair: Callable[..., Any]):
    made = one_pair(
        run=climbed(
            (Rung.RECONNECT, "did not help"),
            (Rung.REBOOT, "not possible: no `reboot:` is set for it"),
            (Rung.QUARANTINE, "until `edgesmith devices health pi5-lab` passes"),
        )
    )
    (found,) = [remark for remark in remarks(made.result) if remark.finding.code == "quarantined"]
    said = f"The board failed: {LOST} Done about it: reconnect did not help. It is quarantined now."
    assert found.finding.text == said
    assert found.finding.next_step == "When it is mended: `edgesmith devices health pi5-lab`."
    for text in texts(made):
        assert "It is quarantined now." in text


def test_a_lapsed_lease_that_was_taken_over_is_a_finding_of_the_rows():
    before = LeaseHolder(kind="run", owner="ann@ws", run_id="run-7", held_s=90.0, expires_in_s=0.0)
    lease = Lease(device="pi", owner="bob@ci", run_id="run-8", token="t", ttl_s=60.0, taken_over=before, waited_s=3.0)
    (finding,) = lease_findings(lease)
    assert (finding.severity, finding.code) == ("warning", "lease_taken_over")
    assert finding.text == "The board's lease was taken over from ann@ws (run run-7) after it had lapsed."
    record = lease_record(lease).model_dump()
    assert record["taken_over"] == {"kind": "run", "owner": "ann@ws", "run_id": "run-7", "held_s": 90.0}
    assert "token" not in record


def test_a_free_board_gives_no_finding():
    lease = Lease(device="pi", owner="me", run_id="1", token="t", ttl_s=60.0, taken_over=None, waited_s=0.0)
    assert lease_findings(lease) == ()
    assert lease_findings(None) == ()
    assert lease_record(lease).taken_over is None
