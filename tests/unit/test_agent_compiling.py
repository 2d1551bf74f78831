"""What the agent makes of an artifact on the board: asked of children that are scripted, and of a real agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from device_tests.agent import child, compiling
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.tensorrt import identity
from device_tests.agent.tensorrt.engines import Engines
from device_tests.agent.work import Folders
from edgesmith.files import sha256_bytes
from tests.agent_process import running

DATA = Path(__file__).resolve().parents[1] / "data" / "agent"
ONNX = b"a network"
SHA = sha256_bytes(ONNX)
Answer = Callable[[str, dict[str, Any]], Any]


class ScriptedChild:
    """Stands where `supervisor.Child` does."""

    def __init__(self, asked: list[tuple[str, dict[str, Any]]], answer: Answer) -> None:
        self._asked, self._answer = asked, answer

    def call(self, method: str, params: dict[str, Any], _deadline: Deadline, event: Any = None) -> Any:
        self._asked.append((method, params))
        if event is not None:
            fraction = 0.5 if len(self._asked) == 1 else 0.1
            event({"id": 1, "event": "progress", "stage": "building", "fraction": fraction})
        return self._answer(method, params)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


class Board:
    """An agent's folders and what its children were asked."""

    def __init__(self, folder: Path) -> None:
        self.folders: Any = Folders(str(folder))
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.told: list[dict[str, Any]] = []
        self.answers: list[Any] = []

    def put(self, content: bytes) -> str:
        sha256 = sha256_bytes(content)
        (Path(self.folders.root) / "blobs" / sha256).write_bytes(content)
        return sha256

    def ask(self, method: str, **params: Any) -> Any:
        methods = compiling.Compiling(self, start=lambda: ScriptedChild(self.asked, self._next))
        return getattr(methods, method)(params, Deadline(60), lambda **told: self.told.append(told))

    def _next(self, _method: str, _params: dict[str, Any]) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    found = Board(tmp_path / "board")
    found.put(ONNX)
    yield found
    found.folders.clean()


ARTIFACT = {"sha256": SHA, "runner": "tensorrt"}


def killed() -> Refusal:
    return Refusal("runtime-crashed", "SIGKILL during 'build'", signal="SIGKILL", during="build")


def test_a_build_is_asked_of_a_child_with_everything_it_needs(board: Board):
    cache = board.put(b"a timing cache")
    board.answers = [{"key": "k"}]
    options = {"precision": ["fp16"], "timing_cache_sha256": cache, "onnx_sha256": "not the artifact's"}
    assert board.ask("build", artifact=ARTIFACT, options=options, rebuild=True) == {"key": "k"}
    ((method, params),) = board.asked
    assert method == "build"
    assert params == {
        "runner": "tensorrt",
        "path": board.folders.blob(SHA),
        "options": {"precision": ["fp16"], "onnx_sha256": SHA},
        "folder": str(Path(board.folders.root) / "engines"),
        "how": {"rebuild": True, "timing_cache": board.folders.blob(cache)},
    }
    assert board.told == [{"event": "progress", "stage": "building", "fraction": 0.5}]


def test_a_build_that_the_kernel_killed_is_tried_once_more_with_less_memory(board: Board):
    board.answers = [killed(), {"key": "k"}]
    assert board.ask("build", artifact=ARTIFACT, options={}) == {"key": "k"}
    assert [params["how"] for _, params in board.asked] == [
        {"rebuild": False},
        {"rebuild": False, "low_memory": True},
    ]
    assert [told["fraction"] for told in board.told] == [0.5, 0.5]


def test_a_build_that_was_killed_twice_ran_out_of_memory(board: Board):
    board.answers = [killed(), killed()]
    with pytest.raises(Refusal, match=r"killed twice, .* add swap") as caught:
        board.ask("build", artifact=ARTIFACT, options={})
    assert (caught.value.code, caught.value.facts["signal"]) == ("not-enough-memory", "SIGKILL")


@pytest.mark.parametrize("first", [True, False])
def test_other_refusals_are_passed_on(board: Board, first: bool):
    refused = Refusal("no-int8", "no")
    board.answers = [refused] if first else [killed(), refused]
    with pytest.raises(Refusal) as caught:
        board.ask("build", artifact=ARTIFACT, options={})
    assert caught.value is refused


def test_a_network_or_cache_that_is_not_there_is_refused_before_any_child(board: Board):
    with pytest.raises(Refusal, match="nothing with sha256"):
        board.ask("build", artifact={"sha256": "ab" * 32, "runner": "tensorrt"}, options={})
    with pytest.raises(Refusal, match="nothing with sha256"):
        board.ask("build", artifact=ARTIFACT, options={"timing_cache_sha256": "ab" * 32})
    assert board.asked == []


def test_a_profile_loads_warms_up_and_takes_runs_apart(board: Board):
    samples = board.put(b"samples")
    parts = {"in_ns": [1], "compute_ns": [2], "out_ns": [3]}
    board.answers = [{"name": "tensorrt 10.3.0"}, {"notes": ["no CUDA graph"]}, parts, {"layers": ["row"]}]
    artifact = dict(ARTIFACT, options={"precision": ["fp16"]})
    found = board.ask("profile", artifact=artifact, inputs={"sha256": samples, "dtype": "float32"}, runs=7)
    assert found == {"runner": "tensorrt 10.3.0", "parts": parts, "layers": ["row"], "notes": ["no CUDA graph"]}
    assert [method for method, _ in board.asked] == ["load", "warm_up", "parts", "layers"]
    assert board.asked[0][1]["options"] == {"precision": ["fp16"]}
    assert [params["runs"] for _, params in board.asked[2:]] == [7, 7]


def test_engines_are_listed_with_their_size_and_removed(board: Board):
    engines = Engines(board.folders.engines)
    for version in ("8.5.2", "10.3.0"):
        wanted = identity.identity({"onnx_sha256": SHA}, version, "8.7", "Orin")
        key = identity.key(wanted)
        engines.store(engines.part(key), b"plan", {"key": key, "identity": wanted, "built_at": version})
    found = board.ask("engines", tensorrt="10.3.0")
    stale = [one["key"] for one in found["engines"] if one["stale"]]
    assert (len(found["engines"]), len(stale)) == (2, 1)
    assert found["size_bytes"] == sum(one["size_bytes"] for one in found["engines"])
    freed = board.ask("remove", keys=stale)["freed_bytes"]
    assert freed == found["size_bytes"] - board.ask("engines")["size_bytes"]


def test_runners_that_run_what_they_are_given_build_nothing():
    with pytest.raises(Refusal, match="onnxruntime runs an artifact as it is: nothing is built for it") as caught:
        child.Child().build({"runner": "onnxruntime", "path": "", "options": {}, "folder": ""}, None, None)
    assert caught.value.code == "not-built"


def test_runners_without_parts_say_so(tmp_path: Path):
    import numpy as np

    holder = child.Child()
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    path, inputs = str(DATA / "dense.onnx"), str(tmp_path / "x.npy")
    asked = {"runner": "onnxruntime", "path": path, "threads": 1, "inputs": inputs, "inputs_dtype": "float32"}
    holder.load(asked, None, None)
    for method, code in ((holder.parts, "no-parts"), (holder.layers, "no-layers")):
        with pytest.raises(Refusal, match=r"^onnxruntime .* does not tell") as caught:
            method({"runs": 3}, None, None)
        assert caught.value.code == code


def test_a_real_agent_has_the_methods_and_no_tensorrt_here(tmp_path: Path):
    with running(tmp_path) as agent:
        assert agent.ask("engines")["code"] == "bad-request"
        hello = agent.ask("hello", workdir="board")
        assert "tensorrt" not in hello["runners"]
        assert hello["missing"]["tensorrt"] == "No module named 'tensorrt'"
        (tmp_path / "board" / "blobs" / SHA).write_bytes(ONNX)
        told = agent.ask("engines")
        assert (told["engines"], told["size_bytes"]) == ([], 0)
        assert told["free_bytes"] > 0
        told = agent.ask("build", artifact=dict(ARTIFACT, runner="onnxruntime"), options={})
        assert told["code"] == "not-built"
        told = agent.ask("build", artifact=ARTIFACT, options={})
        assert told["code"] in ("no-gpu", "runtime-missing")
