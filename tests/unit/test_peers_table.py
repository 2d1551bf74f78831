"""What `bench/peers.py` says of its figures: computed from them, also where we do not lead."""

from __future__ import annotations

from typing import Any

import pytest

from bench.compressors.methods import METHODS, epochs
from bench.compressors.table import markdown, verdicts
from optimizer.recipes import READY


def row(method: str, **figures: Any) -> dict[str, Any]:
    ours = method.startswith("edgesmith")
    return {
        "method": method,
        "ours": ours,
        "format": "tflite",
        "trained": False,
        "accuracy": 75.0,
        "agreement": 95.0,
        "equal_accuracy": True,
        "equal_agreement": True,
        "drop_pp": 0.0,
        "drop_pp_half_width_95": 0.3,
        "size_bytes": 100,
        "gzip_bytes": 80,
        "packed_bytes": None,
        "p50_ms": 1.0,
        "p50_ratio_to_float": 0.5,
        **figures,
    }


def said(rows: list[dict[str, Any]], column: str, at: str) -> tuple[bool, str]:
    (found,) = (each for each in verdicts(rows) if (each["column"], each["at"]) == (column, at))
    return found["ours_leads"], found["text"]


EQUAL, NEAR = "equal accuracy", "at most 1 pp lost"


@pytest.mark.parametrize(
    ("theirs", "column", "expected"),
    [
        ({"size_bytes": 150}, "size_bytes", (True, "edgesmith leads: peer is 50 % larger")),
        ({"size_bytes": 80}, "size_bytes", (False, "peer leads: edgesmith is 25 % larger")),
        ({"p50_ratio_to_float": 0.49}, "p50_ratio_to_float", (True, "edgesmith and peer are level (2.0 %)")),
        ({"p50_ratio_to_float": 0.25}, "p50_ratio_to_float", (False, "peer leads: edgesmith is 100 % slower")),
        ({"p50_ratio_to_float": 0.25, "equal_accuracy": False}, "p50_ratio_to_float", (True, "no peer is as accurate")),
    ],
)
def test_a_column_is_led_by_the_smallest_that_is_as_accurate(
    theirs: dict[str, Any], column: str, expected: tuple[bool, str]
) -> None:
    assert said([row("edgesmith"), row("peer", **theirs)], column, EQUAL) == expected


def test_a_smaller_file_of_ours_does_not_lead_where_it_is_less_accurate() -> None:
    lossy = row("edgesmith small", size_bytes=10, equal_accuracy=False, drop_pp=2.0)
    rows = [lossy, row("peer", size_bytes=90)]
    assert said(rows, "size_bytes", EQUAL) == (False, "none of ours is as accurate")
    assert said(rows, "size_bytes", NEAR) == (False, "none of ours is as accurate")
    rows.append(row("edgesmith", drop_pp=0.9))
    assert said(rows, "size_bytes", NEAR) == (False, "peer leads: edgesmith is 11 % larger")


def test_what_trains_is_not_compared_with_what_does_not() -> None:
    rows = [row("edgesmith"), row("peer"), row("edgesmith fast", trained=True, size_bytes=10)]
    assert {each["trained"] for each in verdicts(rows)} == {False}


def test_the_table_tells_every_method_and_verdict() -> None:
    rows = [row("edgesmith"), row("peer", size_bytes=80), row("peer slow", trained=True, p50_ms=None)]
    model = {"parameters": 9, "evaluated_on": 10, "trained_on": 5, "rows": rows, "verdicts": verdicts(rows)}
    text = markdown({"models": {"net": {**model, "failed": {"nncf": "no such op"}}}, "not_compared": {"A": "why"}})
    assert "| peer slow† | tflite | 75.00 |" in text
    assert "size: peer leads: edgesmith is 25 % larger" in text
    assert "nncf could not be had: no such op" in text


@pytest.mark.parametrize(
    ("peer", "recipe"), [("tfmot-qat", "balanced"), ("tfmot-prune", "fastest"), ("tfmot-prune-cluster", "smallest")]
)
def test_tfmot_trains_as_long_as_the_recipe_beside_it(peer: str, recipe: str) -> None:
    (method,) = (each for each in METHODS if each.name == peer)
    assert method.stages is not None
    assert sum(stage["epochs"] for stage in method.stages.values()) == epochs(READY[recipe].steps)
