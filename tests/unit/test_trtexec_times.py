"""The files that trtexec writes, in each version's layout; and its percentiles."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import trtexec_times

# The layout of trtexec's own files, down to spaces and line ends; the figures are made up.
TIMES_82 = """[
  { "startEnqMs" : 0.0412,   "endEnqMs" : 0.3,   "startH2dMs" : 0.1,   "endH2dMs" : 0.2,   "startComputeMs" : 0.2\
,   "endComputeMs" : 9.2,   "startD2hMs" : 9.2,   "endD2hMs" : 9.3,   "h2dMs" : 0.1,   "computeMs" : 9\
,   "d2hMs" : 0.1,   "latencyMs" : 9.2,   "endToEndMs" : 9.2 }
, { "startEnqMs" : 200.1, "endEnqMs" : 200.3, "startH2dMs" : 200.1, "endH2dMs" : 200.25, "startComputeMs" : 200.5\
, "endComputeMs" : 202.5, "startD2hMs" : 202.5, "endD2hMs" : 202.75, "h2dMs" : 0.15, "computeMs" : 2\
, "d2hMs" : 0.25, "latencyMs" : 2.4, "endToEndMs" : 2.65 }
, { "startEnqMs" : 203, "endEnqMs" : 203.3, "startH2dMs" : 203, "endH2dMs" : 203.25, "startComputeMs" : 203.25\
, "endComputeMs" : 206.25, "startD2hMs" : 206.25, "endD2hMs" : 206.5, "h2dMs" : 0.25, "computeMs" : 3\
, "d2hMs" : 0.25, "latencyMs" : 3.5, "endToEndMs" : 3.5 }
]
"""

TIMES_10 = """[
  { "startEnqMs" : 1000.1, "endEnqMs" : 1000.3, "startH2dMs" : 1000.1, "endH2dMs" : 1000.2, "startComputeMs" : 1000.2\
, "endComputeMs" : 1002.2, "startD2hMs" : 1002.2, "endD2hMs" : 1002.3, "h2dMs" : 0.125, "computeMs" : 2\
, "d2hMs" : 0.0625, "latencyMs" : 2.1875 }
]
"""

PROFILE_82 = """[
  { "count" : 100 }
, { "name" : "conv + relu", "timeMs" : 150, "averageMs" : 1.5, "percentage" : 75 }
, { "name" : "dense", "timeMs" : 50, "averageMs" : 0.5, "percentage" : 25 }
]
"""

PROFILE_85 = """[
  { "count" : 4 }
, { "name" : "conv + relu", "timeMs" : 6, "averageMs" : 1.5, "medianMs" : 1.4, "percentage" : 75 }
, { "name" : "copy", "timeMs" : 1, "averageMs" : 0.25, "medianMs" : 0.2, "percentage" : 12.5 }
, { "name" : "copy", "timeMs" : 1, "averageMs" : 0.25, "medianMs" : 0.2, "percentage" : 12.5 }
]
"""


def _file(folder: Path, text: str) -> str:
    path = folder / "told.json"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_times_of_8_2_with_its_warm_up_left_out(tmp_path: Path):
    found = trtexec_times.times(_file(tmp_path, TIMES_82), 200)
    assert found["h2d_ms"] == [0.15, 0.25]
    assert found["compute_ms"] == [2.0, 3.0]
    assert found["d2h_ms"] == [0.25, 0.25]
    assert found["latency_ms"] == [pytest.approx(2.4), pytest.approx(3.5)]
    # From the first moment to the last, with the gap before the computing.
    assert found["span_ms"] == [pytest.approx(2.65), pytest.approx(3.5)]


def test_the_times_of_10_hold_no_warm_up(tmp_path: Path):
    found = trtexec_times.times(_file(tmp_path, TIMES_10), 1000)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(trtexec_times.PARTS, 1)
    assert found["latency_ms"] == [2.1875]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot be read"),
        (TIMES_10[:200], "cannot be read"),
        ("{}", "holds no list"),
        ("[]", "no query after the warm-up, and 0 in it"),
        ('[{"startComputeMs": 2000}]', "a query without 'startH2dMs'"),
        ("[1]", "a query without"),
        (TIMES_10.replace(": 2,", ": nan,"), "cannot be read"),
        (TIMES_10.replace(": 2,", ": NaN,"), "NaN is no time"),
    ],
)
def test_times_that_are_not_are_refused(tmp_path: Path, text: str, told: str):
    with pytest.raises(Refusal) as caught:
        trtexec_times.times(_file(tmp_path, text), 200)
    assert caught.value.code == "trtexec-unreadable"
    assert told in caught.value.message


def test_a_file_that_was_not_written_is_named(tmp_path: Path):
    with pytest.raises(Refusal, match=r"trtexec wrote no such file.*gone\.json"):
        trtexec_times.times(str(tmp_path / "gone.json"), 200)


def test_all_in_the_warm_up_is_nothing_measured(tmp_path: Path):
    with pytest.raises(Refusal, match="no query after the warm-up, and 3 in it"):
        trtexec_times.times(_file(tmp_path, TIMES_82), 5000)


def test_the_profiles_of_8_2_and_8_5(tmp_path: Path):
    assert trtexec_times.profile(_file(tmp_path, PROFILE_82)) == ({"conv + relu": 1.5, "dense": 0.5}, 100)
    assert trtexec_times.profile(_file(tmp_path, PROFILE_85)) == ({"conv + relu": 1.5, "copy": 0.5}, 4)


@pytest.mark.parametrize("text", ["[]", '[{"name": "a"}]', '[{"count": 3}, {"name": "a"}]', "[3]"])
def test_profiles_that_are_none_are_refused(tmp_path: Path, text: str):
    with pytest.raises(Refusal) as caught:
        trtexec_times.profile(_file(tmp_path, text))
    assert caught.value.code == "trtexec-unreadable"


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ({"Layers": ["conv", "dense"], "Bindings": ["x", "y"]}, ["x", "y"]),
        ({"Layers": [{"Name": "conv"}], "Bindings": ["x", "y"]}, ["x", "y"]),
        ({"Layers": [{"Name": "conv"}], "I/O Tensors": [{"Name": "x"}, {"Name": "y"}]}, ["x", "y"]),
        ({"Layers": []}, []),
    ],
)
def test_layers_before_and_from_11(tmp_path: Path, told: dict[str, Any], names: list[str]):
    text, found = trtexec_times.layer_text(_file(tmp_path, json.dumps(told)))
    assert found == names
    assert json.loads(text) == told


def test_what_holds_no_layers_is_refused(tmp_path: Path):
    with pytest.raises(Refusal, match="holds no layers"):
        trtexec_times.layer_text(_file(tmp_path, "[]"))


def test_percentiles_by_hand():
    hundred = list(range(1, 101))
    # In float32 1 - 0.99 is a little less than a hundredth, so that nothing is left out; 1 - 0.9 is a little more than
    # a tenth, so that ten are.
    assert trtexec_times.percentile(hundred, 99) == 100
    assert trtexec_times.percentile(hundred, 90) == 90
    assert trtexec_times.percentile(hundred, 95) == 95
    assert trtexec_times.percentile(hundred, 50) == 50
    assert trtexec_times.percentile(hundred, 100) == 100
    assert trtexec_times.percentile(hundred, 0) == 1
    assert trtexec_times.percentile([7.5], 99) == 7.5


def _numpy_percentile(values: list[float], percent: float) -> float:
    """The same formula, by numpy's float32."""
    count = np.float32(len(values))
    exclude = int((np.float32(1) - np.float32(percent) / np.float32(100)) * count)
    return sorted(values)[max(len(values) - 1 - exclude, 0)]


@given(
    st.lists(st.floats(min_value=0.0, max_value=1e4), min_size=1, max_size=400),
    st.one_of(st.sampled_from([0.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0]), st.floats(min_value=0, max_value=100)),
)
def test_percentiles_against_a_sorted_list(values: list[float], percent: float):
    found = trtexec_times.percentile(values, percent)
    assert found == _numpy_percentile(values, percent)
    ordered = sorted(values)
    # Of exact arithmetic it is the value at that place, or the one above.
    exact = len(values) - 1 - math.floor((100 - percent) * len(values) / 100)
    near = {ordered[min(max(exact + step, 0), len(values) - 1)] for step in (-1, 0, 1)}
    assert found in near


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], -1), ([1.0], 100.1)])
def test_what_is_no_percentile(values: list[float], percent: float):
    with pytest.raises(ValueError, match="no "):
        trtexec_times.percentile(values, percent)


def test_the_difference_is_told_in_words():
    plain = trtexec_times.difference({"inputs": {"x": "x.raw"}})
    assert len(plain) == 2
    assert "Both run one query at a time" in plain[1]
    told = " ".join(trtexec_times.difference({"overlap": True, "no_transfers": True, "spin_wait": True}))
    assert "two queries under way" in told
    assert "only the computing can be compared" in told
    assert "spun" in told
    assert "random numbers" in told
    assert "one query at a time, trtexec" not in told
