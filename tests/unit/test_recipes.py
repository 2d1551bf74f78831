"""Ready recipes: legal, runnable, and no list of steps that a config could not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from edgesmith.config import load_config
from edgesmith.errors import ConfigError
from edgesmith.types import Recipe
from optimizer import recipe as recipes
from optimizer.base import Context
from optimizer.recipe import apply_step, parse_recipe
from optimizer.recipes import READY, written_out
from tests import tiny_networks, zoo

DATA = "model: net.keras\ndata:\n  train: train.npz\n  calibration: train.npz\n  evaluation: test.npz\n"


def _parsed(tmp_path: Path, recipe: str, data: str = DATA) -> Recipe:
    path = tmp_path / "edgesmith.yaml"
    path.write_text(data + recipe, encoding="utf-8")
    return parse_recipe(load_config(path))


@pytest.mark.parametrize("name", READY)
def test_a_name_means_its_steps(name: str, tmp_path: Path):
    named = _parsed(tmp_path, f"recipe: {name}\n")
    assert named.steps
    assert named == _parsed(tmp_path, written_out(name))
    assert named == _parsed(tmp_path, f"recipe: [{name}]\n")
    assert yaml.safe_load(written_out(name)) == {"recipe": list(READY[name].steps)}
    trains = recipes.needs_training(named)
    assert trains == ("training samples" in READY[name].needs)
    if trains:
        with pytest.raises(ConfigError, match=r"edgesmith\.yaml:5: .* needs training data.*\n.*`recipe: no-training`"):
            _parsed(tmp_path, f"recipe: {name}\n", DATA.replace("  train: train.npz\n", ""))


def test_refusals(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"yaml:6: unknown recipe 'balancd'; did you mean 'balanced'"):
        _parsed(tmp_path, "recipe: balancd\n")
    with pytest.raises(ConfigError, match=r"yaml:8: 'balanced' is a ready recipe: it stands alone"):
        _parsed(tmp_path, "recipe:\n  - prune\n  - balanced\n")
    with pytest.raises(ConfigError, match=r"yaml:7: 'fastest' is a ready recipe.*\n`edgesmith recipes fastest` shows"):
        _parsed(tmp_path, "recipe:\n  - fastest: {epochs: 3}\n")
    with pytest.raises(ConfigError, match="unknown technique 'quantise'; did you mean 'quantize'"):
        _parsed(tmp_path, "recipe: quantise\n")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet8", "two_outputs"])
@pytest.mark.parametrize("name", READY)
def test_every_step_of_it_works_on_what_the_one_before_left(name: str, network: str, tmp_path: Path):
    """As a run does it, without labels, one epoch each; `apply_step` asserts what the steps promise each other."""
    kind = zoo.ZOO[network]
    model = kind.network()
    train = zoo.samples(model, 32, labels=False)
    for index, step in enumerate(_parsed(tmp_path, f"recipe: {name}\n").steps):
        params = dict(step.params)
        if params.get("epochs"):
            params |= {"epochs": 1, "batch_size": 16}
        if step.name == "prune_channels":
            params |= {"round_to": 1, "min_channels": 2}
        context = Context(workdir=tmp_path / str(index), train=train, calibration=train, original=kind.network)
        model = apply_step(model, type(step)(name=step.name, params=params), context).model
    answers = tiny_networks.answers(model, train.x)
    assert all(np.isfinite(answer).all() for answer in answers)
    assert [answer.shape[1:] for answer in answers] == [tuple(t.shape[1:]) for t in kind.network().outputs]
