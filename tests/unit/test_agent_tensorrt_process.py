"""A real agent with the fake TensorRT and libcudart in its children's way: from hello to measured and taken apart."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.agent.protocol import PROTOCOL
from device_tests.fake_jetson.site import write_site
from edgesmith.files import sha256_bytes
from tests.agent_process import AgentProcess, running
from tests.fake_tensorrt_board import cudart, expected, network, pictures

pytestmark = pytest.mark.slow  # the fake libcudart needs a C compiler

INT8 = {"precision": ["fp16", "int8"], "cuda": "ctypes"}
PROTOCOL_ASKED = {
    "windows": 2,
    "min_runs": 6,
    "min_seconds": 0.05,
    "timeout_seconds": 60,
    "threads": 1,
    "warmup_max_seconds": 0.2,
}


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentProcess]:
    """An agent on a board with TensorRT 8.2."""
    monkeypatch.setenv("EDGESMITH_LIBCUDART", str(cudart()))
    monkeypatch.setenv("PYTHONPATH", str(write_site(tmp_path / "site", "8.2", compute="7.2")))
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_COMPUTE", "7.2")
    with running(tmp_path) as found:
        found.hello = found.ask("hello", workdir="board")  # type: ignore[attr-defined]
        yield found


def put(folder: Path, content: bytes) -> str:
    sha256 = sha256_bytes(content)
    (folder / "board" / "blobs" / sha256).write_bytes(content)
    return sha256


def samples(folder: Path) -> dict[str, str]:
    stream = io.BytesIO()
    np.save(stream, pictures(3))
    return {"sha256": put(folder, stream.getvalue()), "dtype": "float32"}


def told_and_answer(agent: AgentProcess, method: str, **params: Any) -> tuple[list[Any], Any]:
    """Progress events, and the answer."""
    agent.say(json.dumps({"id": 5, "protocol": PROTOCOL, "method": method, "params": params, "timeout_s": 90}).encode())
    events = []
    while True:
        told = json.loads(agent._line())
        if "event" not in told:
            return events, told.get("result", told.get("error"))
        events.append(told)


def test_from_hello_to_measured(agent: AgentProcess, tmp_path: Path):
    hello = agent.hello  # type: ignore[attr-defined]
    assert "tensorrt" in hello["runners"]
    assert {name: hello["runtimes"][name] for name in ("tensorrt", "cuda", "compute")} == {
        "tensorrt": "8.2.1.8",
        "cuda": "12.6",
        "compute": "7.2",
    }
    sha256 = put(tmp_path, network(quantized=True).SerializeToString())
    artifact = {"sha256": sha256, "runner": "tensorrt"}
    events, record = told_and_answer(agent, "build", artifact=artifact, options=INT8)
    assert not record["cached"], record
    assert (events[0]["event"], events[0]["id"], events[0]["fraction"]) == ("progress", 5, 0.0)
    assert events[0]["stage"].endswith(", 0 s")
    assert record["path"] == str(tmp_path / "board" / "engines" / record["key"] / "engine.plan")
    assert record["precisions"] == {"fp16": 4, "int8": 1}
    assert Path(record["timing_cache"]["path"]).is_file()
    _, again = told_and_answer(agent, "build", artifact=artifact, options=INT8)
    assert again["cached"]

    inputs = samples(tmp_path)
    asked = [dict(artifact, options=INT8)]
    _, found = told_and_answer(agent, "measure", artifacts=asked, inputs=inputs, protocol=PROTOCOL_ASKED)
    (measured,) = found["artifacts"]
    assert measured["runner"].startswith("FAKE tensorrt 8.2.1.8 (CUDA 12.6 by ctypes")
    outputs = np.load(measured["outputs"][0]["path"])
    path = str(tmp_path / "board" / "blobs" / sha256)
    np.testing.assert_allclose(outputs, [expected(path, x[None])[0][0] for x in pictures(3)], rtol=1e-5, atol=1e-6)

    profiled = agent.ask("profile", artifact=asked[0], inputs=inputs, runs=4, warmup_max_seconds=0.2)
    assert {name: len(ns) for name, ns in profiled["parts"].items()} == {"in_ns": 4, "compute_ns": 4, "out_ns": 4}
    by_precision = [row["precision"] for row in profiled["layers"]]
    assert by_precision.count("int8") == 1

    (listed,) = agent.ask("engines", tensorrt="8.2.1.8")["engines"]
    assert (listed["key"], listed["stale"]) == (record["key"], None)
    plain = [dict(artifact, options={})]
    _, other = told_and_answer(agent, "measure", artifacts=plain, inputs=inputs, protocol=PROTOCOL_ASKED)
    assert other["artifacts"][0]["error"]["code"] == "engine-mismatch"
    assert agent.ask("engines_remove", keys=[record["key"]])["freed_bytes"] == listed["size_bytes"]
    _, gone = told_and_answer(agent, "measure", artifacts=asked, inputs=inputs, protocol=PROTOCOL_ASKED)
    assert gone["artifacts"][0]["error"]["code"] == "engine-missing"


def test_refusals_come_through_with_their_facts(agent: AgentProcess, tmp_path: Path):
    sha256 = put(tmp_path, b"no network")
    _, told = told_and_answer(agent, "build", artifact={"sha256": sha256, "runner": "tensorrt"}, options={})
    assert told["code"] == "parse-failed"
    assert any("Failed to parse" in line for line in told["stderr"])
    assert Path(told["log"]).read_text().startswith("[W] FAKE TensorRT 8.2.1.8")
