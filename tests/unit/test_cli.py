"""The command line is light, and every error ends with a message and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("tensorflow", "keras", "tf_keras", "onnx", "onnxruntime", "matplotlib", "asyncssh", "h5py", "ai_edge_litert")


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["compare", "--help"],
        ["transfer", "--help"],
        ["targets"],
        ["techniques"],
        ["recipes"],
        ["doctor"],
        ["devices", "--help"],
        ["devices", "list"],
    ],
)
def test_light_verbs_import_nothing_heavy(arguments: list[str], tmp_path: Path):
    code = f"""
import sys
sys.argv = ["edgesmith", *{arguments!r}]
from edgesmith.cli import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
found = sorted(set({HEAVY!r}) & set(sys.modules))
print("HEAVY", found)
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("HEAVY []\n"), done.stdout


def edgesmith(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgesmith", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_no_config_here_says_what_writes_one(tmp_path: Path):
    done = edgesmith(tmp_path, "run")
    assert done.returncode == 2
    assert "ConfigError: edgesmith.yaml: no such config file." in done.stderr
    assert "edgesmith init" in done.stderr


def test_a_wrong_option_is_the_users(tmp_path: Path):
    done = edgesmith(tmp_path, "run", "--no-such-option")
    assert done.returncode == 2
    assert "no-such-option" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_result_exits_2(tmp_path: Path):
    done = edgesmith(tmp_path, "report", "nowhere")
    assert done.returncode == 2
    assert "nowhere/result.json: no such result." in done.stderr


def test_targets_and_techniques_are_listed(tmp_path: Path):
    listed = json.loads(edgesmith(tmp_path, "targets", "--json").stdout)
    assert [row["name"] for row in listed] == ["onnxruntime", "tensorrt", "tflite"]
    assert listed[1]["text"].endswith("; engines are built on the Jetson")
    assert all(row["ok"] for row in listed)
    known = {row["name"]: row for row in json.loads(edgesmith(tmp_path, "techniques", "--json").stdout)}
    assert set(known) >= {"prune", "quantize"}
    assert "final_sparsity" in known["prune"]["parameters"]["properties"]


def test_ready_recipes_are_listed_and_written_out(tmp_path: Path):
    listed = json.loads(edgesmith(tmp_path, "recipes", "--json").stdout)
    assert [row["name"] for row in listed] == ["balanced", "smallest", "fastest", "no-training", "deep-compression"]
    shown = edgesmith(tmp_path, "recipes", "no-training").stdout
    assert shown.endswith("recipe:\n  - prune_channels: {keep: 0.85, epochs: 0}\n  - quantize: {scheme: int8}\n")
    assert "there are: balanced, smallest" in edgesmith(tmp_path, "recipes", "tiny").stderr


def test_version(tmp_path: Path):
    done = edgesmith(tmp_path, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("edgesmith 0.")


def test_a_defect_of_ours_is_told_without_a_traceback(tmp_path: Path):
    code = """
import sys, edgesmith.starter as starter
def broken(*args, **kwargs): raise RuntimeError("boom")
starter.write_starter = broken
sys.argv = ["edgesmith", "init", "m", "d"]
from edgesmith.cli import main
main()
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 70
    assert "a defect of edgesmith: RuntimeError: boom" in done.stderr
    assert "Traceback" not in done.stderr
