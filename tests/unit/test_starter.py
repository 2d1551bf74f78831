"""`edgesmith init` writes configs that load."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesmith.config import load_config
from edgesmith.errors import ConfigError, DataError, ModelError
from edgesmith.starter import write_starter


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "it's a model.keras"
    path.write_bytes(b"")
    return path


def test_one_npz_is_parted(tmp_path: Path, model: Path):
    (tmp_path / "all.npz").write_bytes(b"")
    write_starter(model, tmp_path / "all.npz", tmp_path / "edgesmith.yaml")
    loaded = load_config(tmp_path / "edgesmith.yaml")
    assert loaded.resolve(loaded.config.model) == model
    assert loaded.config.data.train is not None
    assert loaded.config.data.train.part == (0.0, 0.7)
    assert loaded.config.data.evaluation.part == (0.8, 1.0)
    assert [next(iter(step)) for step in loaded.config.recipe] == ["prune", "quantize"]


def test_folders_train_and_test(tmp_path: Path, model: Path):
    for name in ("train/cat", "test/cat"):
        (tmp_path / "pets" / name).mkdir(parents=True)
    for number in range(256):
        (tmp_path / "pets" / "train" / "cat" / f"{number}.jpg").touch()
    (tmp_path / "sub").mkdir()
    write_starter(model, tmp_path / "pets", tmp_path / "sub" / "edgesmith.yaml")
    config = load_config(tmp_path / "sub" / "edgesmith.yaml").config
    assert config.data.evaluation.source == "../pets/test"
    assert config.data.calibration is not None
    assert config.data.calibration.samples == 256

    (tmp_path / "pets" / "train" / "cat" / "0.jpg").unlink()
    write_starter(model, tmp_path / "pets", tmp_path / "sub" / "edgesmith.yaml", force=True)
    config = load_config(tmp_path / "sub" / "edgesmith.yaml").config
    assert config.data.calibration is not None
    assert config.data.calibration.samples is None


def test_an_onnx_model_is_not_trained(tmp_path: Path):
    model, data = tmp_path / "m.onnx", tmp_path / "d.npz"
    model.write_bytes(b"")
    data.write_bytes(b"")
    write_starter(model, data, tmp_path / "e.yaml")
    config = load_config(tmp_path / "e.yaml").config
    assert config.data.train is None
    assert [next(iter(step)) for step in config.recipe] == ["quantize"]


def test_an_existing_config_is_kept(tmp_path: Path, model: Path):
    (tmp_path / "d.npz").write_bytes(b"")
    (tmp_path / "e.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_starter(model, tmp_path / "d.npz", tmp_path / "e.yaml")
    assert (tmp_path / "e.yaml").read_text() == "mine"
    write_starter(model, tmp_path / "d.npz", tmp_path / "e.yaml", force=True)
    assert "model:" in (tmp_path / "e.yaml").read_text()


def test_what_is_not_there_is_named(tmp_path: Path, model: Path):
    with pytest.raises(ModelError, match="no such model"):
        write_starter(tmp_path / "none.keras", tmp_path, tmp_path / "e.yaml")
    with pytest.raises(DataError, match="no data that can be read"):
        write_starter(model, tmp_path / "none.npz", tmp_path / "e.yaml")
