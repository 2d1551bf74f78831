"""The whole way to a board over SSH, and what a board that is cut off leaves behind."""

from __future__ import annotations

import pytest

from device_tests.loopback import LoopbackBoard
from tests.e2e.project import Project, write_inventory


@pytest.mark.slow
def test_the_same_artifacts_on_this_machine_and_over_ssh(digits: Project, board: LoopbackBoard):
    """Same file, same answers: only the link differs. The second run sends nothing."""
    write_inventory(digits.root, board.device("pi"))
    digits.write_config(devices=["local", "pi"])
    first = digits.edgesmith("run")
    assert first.returncode == 0, first.stdout + first.stderr
    result = digits.result()
    rows = {(row["device"], row["target"], row["variant"]): row for row in result["results"]}
    assert len(rows) == 8
    for target in ("tflite", "onnxruntime"):
        for variant in ("float", "compressed"):
            here, there = rows["local", target, variant], rows["pi", target, variant]
            assert here["artifact"]["sha256"] == there["artifact"]["sha256"]
            assert here["outputs_sha256"] == there["outputs_sha256"]
            assert here["accuracy"] == there["accuracy"]
            assert there["latency_ms"]["n"] >= 50
    assert result["work"]["bytes_sent"] > 100_000

    again = digits.edgesmith("run", "--remeasure")
    assert again.returncode == 0, again.stdout + again.stderr
    work = digits.result()["work"]
    assert (work["measurements"], work["bytes_sent"], work["compiled_artifacts"]) == (8, 0, 0)


def test_a_pinned_key_that_changed_is_an_error_of_the_board_not_of_the_model(digits: Project, board: LoopbackBoard):
    device = board.device("pi")
    write_inventory(digits.root, device)
    board.new_host_key()
    digits.write_config(devices=["pi"])
    done = digits.edgesmith("run")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "host key" in done.stderr.lower()
    assert board.fingerprint in done.stderr
    assert "Traceback" not in done.stderr
