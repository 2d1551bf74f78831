"""The agent as a program: what it answers, when it leaves, and under which Pythons."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent.protocol import MARKER, PROTOCOL
from device_tests.agent_zip import build_agent
from tests.processes import runs, stat

AGENT = Path(__file__).resolve().parents[2] / "device_tests" / "agent"
PYENV = Path.home() / ".pyenv" / "versions"
OTHERS = [PYENV / version / "bin" / "python" for version in ("3.6.15", "3.8.18", "3.13.0")]
PYTHONS = [sys.executable, *(str(path) for path in OTHERS if path.exists())]


class Raw:
    """An agent at the other end of three pipes."""

    def __init__(self, python: str, zip_path: Path, folder: Path) -> None:
        self.folder = folder
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([python, "-u", zip_path], stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def write(self, data: bytes) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def ask(self, method: str, protocol: int = PROTOCOL, **params: object) -> Any:
        asked = {"id": 7, "protocol": protocol, "method": method, "params": params, "timeout_s": 60}
        return self.write(json.dumps(asked).encode())

    def end(self) -> tuple[int, str]:
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, log.decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Raw]]:
    started: list[Raw] = []

    def run(python: str = sys.executable) -> Raw:
        zip_path = tmp_path / "agent.zip"
        zip_path.write_bytes(build_agent().content)
        started.append(Raw(python, zip_path, tmp_path))
        return started[-1]

    yield run
    for agent in started:
        agent.process.kill()
        agent.process.communicate()


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).parents[1].name)
def test_hello_under_every_python_that_is_here(start: Callable[..., Raw], python: str):
    agent = start(python)
    assert agent.line() == MARKER
    told = agent.ask("hello", workdir="board")["result"]
    assert told["protocol"] == PROTOCOL
    assert told["cores"] >= 1
    assert told["pid"] == agent.process.pid
    assert set(told["runners"]) | set(told["missing"]) == {"onnxruntime", "tensorrt", "tflite"}
    if not told["runners"]:
        assert "No module named" in told["missing"]["tflite"]


def test_the_agent_needs_no_newer_python_than_3_6():
    vermin = Path(sys.executable).parent / "vermin"
    argv = [vermin, "-t=3.6-", "--no-tips", "--violations", AGENT]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_zip_of_the_same_sources_is_the_same_file():
    assert build_agent() == build_agent()


def test_unknown_method_wrong_version_and_nonsense_are_answers(start: Callable[..., Raw]):
    agent = start()
    agent.line()
    unknown = agent.ask("reboot")
    assert unknown["id"] == 7
    assert unknown["error"]["code"] == "unknown-method"
    assert unknown["error"]["message"].startswith("no method 'reboot'; there are ")
    assert ", hello, " in unknown["error"]["message"]
    other = agent.ask("hello", protocol=99, workdir="board")["error"]
    assert other["code"] == "version-mismatch"
    assert other["message"] == f"this agent speaks protocol {PROTOCOL}, the request is of protocol 99"
    assert agent.write(b"not json")["error"]["code"] == "bad-request"
    assert agent.write(b"[1]")["error"]["message"] == "a request is a JSON object, this is list"
    assert "say hello first" in agent.ask("have", sha256=[])["error"]["message"]
    assert "result" in agent.ask("hello", workdir="board")
    assert "not a sha256" in agent.ask("have", sha256=["../../etc/passwd"])["error"]["message"]
    assert agent.ask("have")["error"]["code"] == "internal"


def test_it_leaves_when_its_stdin_ends_and_takes_its_work_folder_along(start: Callable[..., Raw]):
    agent = start()
    agent.line()
    agent.ask("hello", workdir="board")
    work = agent.folder / "board" / "work"
    assert len([p for p in work.iterdir() if p.is_dir()]) == 1
    assert agent.end()[0] == 0
    assert [p for p in work.iterdir() if p.is_dir()] == []


def test_it_cleans_up_on_sigterm(start: Callable[..., Raw]):
    agent = start()
    agent.line()
    agent.ask("hello", workdir="board")
    agent.process.send_signal(signal.SIGTERM)
    assert agent.end()[0] == 0
    assert [p for p in (agent.folder / "board" / "work").iterdir() if p.is_dir()] == []


def test_the_next_agent_removes_what_a_killed_one_left_and_nothing_else(start: Callable[..., Raw]):
    killed, alive = start(), start()
    for agent in (killed, alive):
        agent.line()
        agent.ask("hello", workdir="board")
    killed.process.kill()
    killed.end()
    third = start()
    third.line()
    third.ask("hello", workdir="board")
    left = {int(p.name.split("-")[0]) for p in (third.folder / "board" / "work").iterdir() if p.is_dir()}
    assert left == {alive.process.pid, third.process.pid}


def test_an_upload_is_accepted_only_with_the_right_content(start: Callable[..., Raw]):
    import hashlib

    agent = start()
    agent.line()
    agent.ask("hello", workdir="board")
    incoming, blobs = agent.folder / "board" / "incoming", agent.folder / "board" / "blobs"
    right, wrong = hashlib.sha256(b"right").hexdigest(), hashlib.sha256(b"other").hexdigest()
    (incoming / "a").write_bytes(b"right")
    assert agent.ask("verify", path="incoming/a", sha256=right)["result"]["path"] == str(blobs / right)
    (incoming / "b").write_bytes(b"garbage")
    refused = agent.ask("verify", path="incoming/b", sha256=wrong)["error"]
    assert refused["code"] == "damaged"
    assert refused["free_bytes"] > 0
    assert not (incoming / "b").exists()
    assert agent.ask("have", sha256=[right, wrong])["result"]["have"] == [right]
    (blobs / right).write_bytes(b"rotten")
    assert agent.ask("have", sha256=[right])["result"]["have"] == []
    assert not (blobs / right).exists()


def test_its_children_are_gone_when_it_is_killed(start: Callable[..., Raw]):
    """SIGKILL leaves it no chance to end them: the end of their stdin does."""
    agent = start()
    agent.line()
    asked = {"id": 1, "protocol": PROTOCOL, "method": "hello", "params": {"workdir": "board"}, "timeout_s": 60}
    assert agent.process.stdin is not None
    agent.process.stdin.write(json.dumps(asked).encode() + b"\n")
    agent.process.stdin.flush()
    children = _until(lambda: _children(agent.process.pid))
    agent.process.kill()
    agent.end()
    _until(lambda: not any(runs(pid) for pid in children))


def _until(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)
    return found


def _children(pid: int) -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and stat(int(p.name))[1:2] == [str(pid)]]
