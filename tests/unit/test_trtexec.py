"""trtexec on the board, driven for real: a fake program of each version, its processes, its deadline, its failures."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import memory_plan, onnx_nodes, trtexec, trtexec_engine
from device_tests.agent.tensorrt.log import Log
from device_tests.fake_jetson.trtexec_tool import PLACE, write_trtexec
from tests.board_trees import Tree
from tests.fake_tensorrt_board import MIB, VERSIONS, network

COMPUTE_MS = 2.0
BANNER = "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b17] # trtexec --help"
NO_INSPECTOR = "this TensorRT has no inspector: what its layers are is not told"
BUILT_WITH = {"precision": ["fp16"]}


class Board:
    """A tree with a fake trtexec, and a network on it."""

    def __init__(self, folder: Path, version: str, **script: Any) -> None:
        self.folder = folder
        self.root = Root(str(folder / "root"))
        Tree(folder / "root").write("/proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 24576000 kB\n")
        write_trtexec(folder / "root" / PLACE, version, **script)
        self.onnx = str(folder / "net.onnx")
        Path(self.onnx).write_bytes(network(quantized=True).SerializeToString())
        self.plan = str(folder / "engine.plan")
        self.log = Log()
        self.events: list[dict[str, Any]] = []

    @functools.cached_property
    def tool(self) -> Any:
        return trtexec.find(self.root)

    def build(self, seconds: float = 60, **options: Any) -> dict[str, Any]:
        limits = memory_plan.plan(self.root, None, Path(self.onnx).stat().st_size)
        return trtexec_engine.build(
            self.tool,
            self.onnx,
            self.plan,
            {**BUILT_WITH, **options},
            limits,
            self.log,
            Deadline(seconds),
            lambda **told: self.events.append(told),
            timing_cache=str(self.folder / "timing.cache"),
        )

    def measure(self, **options: Any) -> dict[str, Any]:
        folder = self.folder / "measured"
        folder.mkdir(exist_ok=True)
        nodes = onnx_nodes.read(self.onnx)
        return trtexec_engine.measure(self.tool, self.plan, options, str(folder), self.log, Deadline(60), nodes)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_and_measures_the_same(tmp_path: Path, version: str):
    board = Board(tmp_path, version)
    built = board.build()
    assert built["version"].startswith(version + ".")
    assert built["tool"] == f"FAKE trtexec of TensorRT {built['version']}"
    assert built["size_bytes"] == (tmp_path / "engine.plan").stat().st_size > 0
    assert (tmp_path / "timing.cache").exists()
    found = board.measure()
    # What its command line asks for is transfers, no graph, no spinning and no overlap, in the words of this version:
    # any other would show here, see `trtexec_program`.
    assert found["runs"] >= 100
    assert set(found["samples"]["h2d_ms"]) == {0.125}
    assert set(found["samples"]["d2h_ms"]) == {0.0625}
    assert min(found["samples"]["compute_ms"]) == COMPUTE_MS
    assert max(found["samples"]["compute_ms"]) < COMPUTE_MS + 1
    assert found["percentiles"]["latency_ms"]["99"] in found["samples"]["latency_ms"]
    # It ran for as long as it was to, by its own clock.
    assert sum(found["samples"]["latency_ms"]) >= 1000 * trtexec_engine.SECONDS - COMPUTE_MS
    names = [node.name for node in onnx_nodes.read(board.onnx)]
    assert [row["name"] for row in found["layers"]] == names
    assert all(row["sources"] == [row["name"]] for row in found["layers"])
    assert sum(row["time_ms"] for row in found["layers"]) == pytest.approx(COMPUTE_MS)
    assert found["inputs_outputs"] == ([] if version == "8.0" else ["in", "out"])
    assert found["notes"] == ([NO_INSPECTOR] if version == "8.0" else [])
    assert "Both run one query at a time" in found["difference"][1]
    assert not board.log.errors
    assert not board.log.warnings


@pytest.mark.parametrize("version", ["8.2", "10.3", "11.0"])
def test_what_is_asked_for_beside_that_is_measured(tmp_path: Path, version: str):
    board = Board(tmp_path, version)
    board.build()
    compute = {
        name: min(board.measure(**{name: True})["samples"]["compute_ms"]) for name in ("cuda_graph", "spin_wait")
    }
    assert compute == {"cuda_graph": 1.75, "spin_wait": 1.875}
    assert min(board.measure(overlap=True)["samples"]["compute_ms"]) == 2.5
    assert set(board.measure(no_transfers=True)["samples"]["h2d_ms"]) == {0.0}


def test_the_program_on_the_path_comes_first(tmp_path: Path):
    write_trtexec(tmp_path / PLACE, "8.2")
    assert trtexec.find(Root(str(tmp_path))).version == (8, 2, 1)
    write_trtexec(tmp_path / "usr/bin", "10.3")
    assert trtexec.find(Root(str(tmp_path))).version == (10, 3, 0)


def test_a_board_without_one(tmp_path: Path):
    with pytest.raises(Refusal, match="no trtexec: sudo apt-get install libnvinfer-bin") as caught:
        trtexec.find(Root(str(tmp_path)))
    assert caught.value.code == "no-trtexec"


@pytest.mark.parametrize(
    ("told", "why"),
    [("echo hello", "does not tell its version; it says: hello"), ("exit 1", "it says: nothing")],
)
def test_another_program_of_that_name(tmp_path: Path, told: str, why: str):
    _program(tmp_path, told)
    with pytest.raises(Refusal, match=why) as caught:
        trtexec.find(Root(str(tmp_path)))
    assert caught.value.code == "no-trtexec"


def test_one_that_does_not_start(tmp_path: Path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/trtexec").write_bytes(b"\x7fELF, of another machine")
    (tmp_path / "usr/bin/trtexec").chmod(0o755)
    with pytest.raises(Refusal, match="does not start"):
        trtexec.find(Root(str(tmp_path)))


def _program(root: Path, text: str) -> None:
    place = root / "usr/bin"
    place.mkdir(parents=True)
    (place / "trtexec").write_text(f"#!/bin/sh\n{text}\n")
    (place / "trtexec").chmod(0o755)


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("v8001", (8, 0, 1)),
        ("v8201", (8, 2, 1)),
        ("v8412", (8, 4, 12)),
        ("v8502", (8, 5, 2)),
        ("v8602", (8, 6, 2)),
        ("v100300", (10, 3, 0)),
        ("v100300] [b17", (10, 3, 0)),
        ("v101303", (10, 13, 3)),
        ("v101602] [b72", (10, 16, 2)),
        ("v110000", (11, 0, 0)),
        ("v110401", (11, 4, 1)),
        ("v11.1.0.106] [b48", (11, 1, 0, 106)),
    ],
)
def test_the_banner_tells_the_version(tmp_path: Path, banner: str, version: tuple[int, ...]):
    _program(tmp_path, f"echo '&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec --help'")
    found = trtexec.find(Root(str(tmp_path)))
    assert (found.version, found.fake) == (version, False)


def test_a_network_that_is_not_read(tmp_path: Path):
    board = Board(tmp_path, "8.2", fails="parse")
    with pytest.raises(Refusal, match="cannot read the network: node ") as caught:
        board.build()
    assert caught.value.code == "parse-failed"
    (error,) = caught.value.facts["errors"]
    assert error["name"] == onnx_nodes.read(board.onnx)[0].name
    assert "In function importConv" in error["text"]


def test_a_layer_without_a_kernel_is_named(tmp_path: Path):
    board = Board(tmp_path, "8.5", fails="kernel")
    with pytest.raises(Refusal) as caught:
        board.build()
    assert caught.value.code == "no-implementation"
    assert caught.value.facts["nodes"] == [onnx_nodes.read(board.onnx)[0].name]


@pytest.mark.parametrize("version", ["8.2", "10.3"])
def test_out_of_memory_is_tried_again_with_less(tmp_path: Path, version: str):
    board = Board(tmp_path, version, fails="memory")
    built = board.build()
    assert built["memory"]["low"]
    assert built["memory"]["workspace_bytes"] == 128 * MIB
    assert any("ran out of memory" in note for note in built["notes"])


def test_no_gpu(tmp_path: Path):
    with pytest.raises(Refusal, match="CUDA initialization failure with error: 35") as caught:
        Board(tmp_path, "10.3", fails="gpu").build()
    assert caught.value.code == "no-gpu"


def test_an_option_that_it_does_not_know(tmp_path: Path):
    board = Board(tmp_path, "8.0")
    tool = trtexec.Trtexec(board.tool.path, (8, 6, 2))
    limits = memory_plan.plan(board.root, None, 1000)
    with pytest.raises(Refusal) as caught:
        trtexec_engine.build(tool, board.onnx, board.plan, {}, limits, board.log, Deadline(60), lambda **_: None)
    assert caught.value.code == "trtexec-option"
    assert caught.value.facts["options"] == ["--skipInference", "--profilingVerbosity", "--memPoolSize"]


def test_an_engine_of_another_version(tmp_path: Path):
    Board(tmp_path, "8.2").build()
    with pytest.raises(Refusal, match="not compatible with this version of TensorRT") as caught:
        Board(tmp_path, "8.5").measure()
    assert caught.value.code == "engine-refused"


def test_a_run_that_fails(tmp_path: Path):
    board = Board(tmp_path, "10.3", fails="memory", at="run")
    board.build()
    with pytest.raises(Refusal, match="OutOfMemory") as caught:
        board.measure()
    assert caught.value.code == "not-enough-memory"


def test_a_crash_names_its_signal(tmp_path: Path):
    with pytest.raises(Refusal, match="SIGSEGV ended trtexec") as caught:
        Board(tmp_path, "10.3", fails="crashes").build()
    assert (caught.value.code, caught.value.facts["signal"]) == ("runtime-crashed", "SIGSEGV")


def test_an_engine_that_was_not_written(tmp_path: Path):
    board = Board(tmp_path, "10.3")
    Path(board.plan).write_text("an older one")
    _program(tmp_path / "root", f"echo '{BANNER}'")
    with pytest.raises(Refusal, match="ended well, and wrote no engine") as caught:
        board.build()
    assert caught.value.code == "build-failed"


def test_an_exit_status_of_0_does_not_hide_a_failure(tmp_path: Path):
    _program(tmp_path, "echo '&&&& FAILED TensorRT.trtexec [TensorRT v100300] # '")
    log = Log()
    status = trtexec.Trtexec(str(tmp_path / "usr/bin/trtexec"), (10, 3, 0)).run([], Deadline(10), log)
    assert status == 1


def test_layer_times_that_cannot_be_read_are_noted_and_the_latency_stays(tmp_path: Path):
    """trtexec writes a layer's name as it is: with quotation marks in it the file is no JSON."""
    board = Board(tmp_path, "10.3")
    board.build()
    header = json.loads(Path(board.plan).read_text())
    Path(board.plan).write_text(json.dumps({**header, "layers": ['a "quoted" name', "conv"]}))
    found = board.measure()
    assert found["runs"] >= 100
    assert [(row["name"], row["time_ms"]) for row in found["layers"]] == [('a "quoted" name', None), ("conv", None)]
    assert len(found["notes"]) == 1
    assert "profile.json cannot be read" in found["notes"][0]


def test_dynamic_sizes_that_it_chose_itself_are_told(tmp_path: Path):
    board = Board(tmp_path, "10.3")
    warning = (
        "Dynamic dimensions required for input: x, but no shapes were provided. Automatically overriding shape to: 1x3"
    )
    program = (
        f"echo '&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # '\necho '[W] {warning}'\necho plan > {board.plan}"
    )
    _program(tmp_path / "root", program)
    assert board.build()["notes"] == [warning]


@pytest.mark.timeout(60)
def test_at_the_deadline_it_is_ended_with_all_it_has_started(tmp_path: Path):
    helper_file = tmp_path / "helper.pid"
    board = Board(tmp_path, "8.6", fails="hangs", helper_pid_file=helper_file)
    began = time.monotonic()
    with pytest.raises(Refusal, match="not done in time") as caught:
        board.build(seconds=1.5)
    assert caught.value.code == "timeout"
    assert time.monotonic() - began < 20
    assert _is_gone(int(helper_file.read_text()))


def test_one_that_never_stops_talking_is_ended_as_well(tmp_path: Path):
    _program(tmp_path, "while true; do echo talk; done")
    log, began = Log(), time.monotonic()
    with pytest.raises(Refusal) as caught:
        trtexec.Trtexec(str(tmp_path / "usr/bin/trtexec"), (10, 3, 0)).run([], Deadline(0.5), log)
    assert caught.value.code == "timeout"
    assert time.monotonic() - began < 15


_PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from device_tests.agent.protocol import Deadline
from device_tests.agent.tensorrt.trtexec import Trtexec
Trtexec(sys.argv[2], (8, 6, 2)).run([], Deadline(60), None, lambda line: print(line, flush=True))
"""


@pytest.mark.timeout(60)
def test_it_does_not_outlive_the_process_that_has_started_it(tmp_path: Path):
    _program(tmp_path, "echo $$\nexec sleep 50")
    project = str(Path(__file__).parents[2])
    argv = [sys.executable, "-c", _PARENT, project, str(tmp_path / "usr/bin/trtexec")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
    assert _is_gone(pid)


def _is_gone(pid: int) -> bool:
    """Within ten seconds; a zombie that nobody has buried is gone as well."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
