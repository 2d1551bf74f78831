"""The config: what is accepted, and that every refusal names file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesmith.config import load_config
from edgesmith.errors import ConfigError

MINIMAL = "model: m.keras\ndata:\n  evaluation: e.npz\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edgesmith.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    return str(caught.value)


def test_minimal_config_has_defaults(tmp_path: Path):
    config = load_config(write(tmp_path, MINIMAL)).config
    assert config.devices == ("local",)
    assert config.task.metric == "top1"
    assert config.data.evaluation.source == "e.npz"


def test_paths_are_relative_to_the_config(tmp_path: Path):
    loaded = load_config(write(tmp_path, MINIMAL))
    assert loaded.resolve(loaded.config.model) == tmp_path / "m.keras"


def test_step_without_parameters(tmp_path: Path):
    config = load_config(write(tmp_path, MINIMAL + "recipe:\n  - prune\n  - quantize:\n")).config
    assert config.recipe == ({"prune": {}}, {"quantize": {}})


def test_unknown_key_names_line_and_suggests(tmp_path: Path):
    text = refusal(tmp_path, MINIMAL + "budget:\n  latency_p95: 3\n")
    assert text == f"{tmp_path}/edgesmith.yaml:5: unknown key 'budget.latency_p95'; did you mean 'latency_p95_ms'?"


def test_unknown_key_far_from_any_lists_the_known(tmp_path: Path):
    text = refusal(tmp_path, MINIMAL + "task: {zzz: 1}\n")
    assert "edgesmith.yaml:4: unknown key 'task.zzz'; known keys: metric." in text


def test_unknown_key_inside_a_source(tmp_path: Path):
    text = refusal(tmp_path, "model: m\ndata:\n  evaluation: {source: e.npz, sampels: 3}\n")
    assert "edgesmith.yaml:3: unknown key 'data.evaluation.sampels'; did you mean 'samples'?" in text


def test_every_problem_is_told_at_once(tmp_path: Path):
    text = refusal(tmp_path, "modle: m\ndata: {evaluation: e.npz}\nmeasure: {windows: x}\n")
    assert "'model' is missing" in text
    assert "unknown key 'modle'" in text
    assert "edgesmith.yaml:3: 'measure.windows'" in text


def test_wrong_type_shows_the_value(tmp_path: Path):
    text = refusal(tmp_path, MINIMAL + "measure:\n  windows: many\n")
    assert "edgesmith.yaml:5: 'measure.windows'" in text
    assert "(it is 'many')" in text


def test_step_with_two_names(tmp_path: Path):
    text = refusal(tmp_path, MINIMAL + "recipe:\n  - {prune: {}, quantize: {}}\n")
    assert "step 1 must have exactly one name, it has ['prune', 'quantize']" in text


def test_missing_file_says_what_writes_one(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such config file") as caught:
        load_config(tmp_path / "nowhere.yaml")
    assert "edgesmith init" in caught.value.next_step


def test_broken_yaml_names_the_line(tmp_path: Path):
    assert "edgesmith.yaml:2: not valid YAML" in refusal(tmp_path, "model: [\nb: }\n")


def test_a_list_is_no_config(tmp_path: Path):
    assert "must hold keys and values, it holds list" in refusal(tmp_path, "- a\n")


def test_binary_file_is_refused(tmp_path: Path):
    path = tmp_path / "edgesmith.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)
