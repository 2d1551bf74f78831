"""Recipes are refused with file and line before any work; what is accepted is plain JSON with every default."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.config import load_config
from edgesmith.errors import ConfigError, InternalError, ModelError
from edgesmith.frameworks import import_keras
from edgesmith.types import Model, Recipe, SampleSet, Scheme, Signature, StepSpec
from optimizer import recipe as recipes
from optimizer import techniques
from optimizer.base import Applied, Context, Property, Stage
from optimizer.techniques import prune

HEAD = "model: net.keras\ndata:\n  train: train.npz\n  evaluation: test.npz\nrecipe:\n"


def parse(tmp_path: Path, steps: str, head: str = HEAD) -> Recipe:
    path = tmp_path / "edgesmith.yaml"
    path.write_text(head + steps, encoding="utf-8")
    return recipes.parse_recipe(load_config(path))


def refusal(tmp_path: Path, steps: str, head: str = HEAD) -> str:
    with pytest.raises(ConfigError) as error:
        parse(tmp_path, steps, head)
    return str(error.value).replace(f"{tmp_path}/", "")


def test_parameters_are_filled_in_and_plain_json(tmp_path: Path):
    recipe = parse(tmp_path, "  - prune: {final_sparsity: 0.7}\n  - quantize\n")
    assert [step.name for step in recipe.steps] == ["prune", "quantize"]
    assert recipe.steps[0].params["final_sparsity"] == 0.7
    assert recipe.steps[0].params["epochs"] == 2
    assert recipe.steps[1].params["scheme"] == "int8"
    assert recipe.steps[1].params["keep_float"] == []
    assert json.loads(json.dumps(recipe.steps[0].params)) == recipe.steps[0].params


def test_an_empty_recipe_asks_for_float_and_no_training(tmp_path: Path):
    recipe = parse(tmp_path, "  []\n")
    assert recipe == Recipe(steps=())
    assert recipes.quant_request(recipe) == recipes.QuantRequest(scheme=Scheme.NONE, per_channel=True)
    assert not recipes.needs_training(recipe)


def test_what_the_compilers_are_asked_for(tmp_path: Path):
    recipe = parse(tmp_path, "  - prune: {epochs: 0}\n  - quantize: {scheme: int8-float-io, per_channel: false}\n")
    request = recipes.quant_request(recipe)
    assert (request.scheme, request.per_channel) == (Scheme.INT8_FLOAT_IO, False)
    assert request.plan is not None
    assert request.plan.settings.scheme == "int8-float-io"
    assert request.plan.settings.per_channel is False
    compared = recipes.quant_request(parse(tmp_path, "  - quantize: {plan: runtime}\n"))
    assert compared == recipes.QuantRequest(scheme=Scheme.INT8)
    assert not recipes.needs_training(recipe)
    assert recipes.needs_training(parse(tmp_path, "  - prune\n"))


def test_an_unknown_technique_suggests_one(tmp_path: Path):
    assert refusal(tmp_path, "  - quantize\n  - prun: {}\n") == (
        "edgesmith.yaml:7: unknown technique 'prun'; did you mean 'prune'?\n`edgesmith techniques` lists them."
    )


def test_an_unknown_technique_without_a_neighbour_lists_all(tmp_path: Path):
    assert f"unknown technique 'xyz'; there are: {', '.join(sorted(techniques.names()))}." in refusal(
        tmp_path, "  - xyz\n"
    )


def test_an_unknown_key_suggests_one(tmp_path: Path):
    steps = "  - prune:\n      epochs: 1\n      final_sparsty: 0.5\n"
    assert refusal(tmp_path, steps) == (
        "edgesmith.yaml:8: unknown key 'recipe.0.prune.final_sparsty'; did you mean 'final_sparsity'?"
    )


def test_an_unknown_scheme_lists_them(tmp_path: Path):
    text = refusal(tmp_path, "  - quantize: {scheme: int4}\n")
    assert text.startswith("edgesmith.yaml:6: 'recipe.0.quantize.scheme': Input should be 'none', 'int8', ")
    assert all(f"'{scheme}'" in text for scheme in Scheme)
    assert "(it is 'int4')" in text


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ("final_sparsity: 1.0", "'recipe.0.prune.final_sparsity': Input should be less than 1 (it is 1.0)"),
        ("loss: hinge", "must be one of auto, sparse_categorical_crossentropy"),
        ("schedule: linear", "Input should be 'polynomial', 'constant', 'iterative' or 'one_shot'"),
        ("initial_sparsity: 0.6", "initial_sparsity 0.6 is above final_sparsity 0.5: zeros are not given back"),
        ("schedule: constant, initial_sparsity: 0.1", "a constant schedule has no initial_sparsity"),
        ("begin_step: 9, end_step: 9", "begin_step 9 must come before end_step 9"),
        ("epochs: -1", "'recipe.0.prune.epochs': Input should be greater than or equal to 0"),
    ],
)
def test_wrong_values_name_line_and_key(tmp_path: Path, params: str, text: str):
    refused = refusal(tmp_path, f"  - prune: {{{params}}}\n")
    assert refused.startswith("edgesmith.yaml:6: 'recipe.0.prune")
    assert text in refused


def test_runtimes_are_not_asked_for_what_they_would_make_otherwise(tmp_path: Path):
    for what in ("scheme: int16x8", "scheme: int4-weights", "keep_float: [head]"):
        text = refusal(tmp_path, f"  - quantize: {{plan: runtime, {what}}}\n")
        assert "the runtimes' own quantizers" in text
        assert "take `plan: auto`" in text


def test_quantize_is_last(tmp_path: Path):
    assert refusal(tmp_path, "  - quantize\n  - prune\n") == (
        "edgesmith.yaml:7: 'prune' cannot come after 'quantize': integer weights come out of the compiler and cannot "
        "be trained or changed.\nPut 'prune' before 'quantize'."
    )


def test_quantize_comes_once(tmp_path: Path):
    assert refusal(tmp_path, "  - quantize\n  - quantize: {scheme: float16}\n") == (
        "edgesmith.yaml:7: 'quantize' comes twice; an artifact has one kind of numbers."
    )


def test_pruning_twice_is_legal(tmp_path: Path):
    assert len(parse(tmp_path, "  - prune: {final_sparsity: 0.3}\n  - prune: {final_sparsity: 0.6}\n").steps) == 2


def test_fine_tuning_needs_training_data(tmp_path: Path):
    head = "model: net.keras\ndata: {evaluation: test.npz}\nrecipe:\n"
    assert refusal(tmp_path, "  - prune\n", head) == (
        "edgesmith.yaml:4: 'prune' fine-tunes and needs training data with labels, and the config has no 'data.train'."
        "\nGive data.train, or set `epochs: 0` to do it in one shot."
    )
    assert parse(tmp_path, "  - prune: {epochs: 0}\n", head).steps[0].name == "prune"


@pytest.mark.parametrize(
    "step", ["prune: {criterion: obs", "prune_channels: {criterion: taylor", "low_rank: {rank: error"]
)
def test_steps_that_look_at_samples_need_some(step: str, tmp_path: Path):
    head = "model: net.keras\ndata: {evaluation: test.npz}\nrecipe:\n"
    body = f"  - {step}, epochs: 0}}\n"
    assert refusal(tmp_path, body, head) == (
        f"edgesmith.yaml:4: '{step.partition(':')[0]}' needs calibration samples, and the config has no "
        "'data.calibration'.\nGive data.calibration (labels are not needed), or data.train."
    )
    found = parse(tmp_path, body, head.replace("{eval", "{calibration: some.npz, eval"))
    assert not recipes.needs_training(found)
    assert recipes.needs_training(found, calibration=False)  # then those of data.train are looked at
    assert parse(tmp_path, body, head.replace("{eval", "{train: some.npz, eval")).steps == found.steps


class Made:
    """A technique that is not in the folder, for orders that today's techniques do not allow."""

    SUMMARY = "made here"
    COMPILE_TIME = False
    Params = prune.Params
    needs = staticmethod(lambda params: prune.Needs())
    check = staticmethod(lambda model, params, context: None)

    def __init__(
        self, stage: Stage, makes: set[Property] = frozenset(), preserves: set[Property] = frozenset(Property)
    ) -> None:
        self.STAGE, self.MAKES, self.PRESERVES = stage, frozenset(makes), frozenset(preserves)


def _with(monkeypatch: pytest.MonkeyPatch, **made: Made) -> None:
    found = techniques.get
    monkeypatch.setattr(techniques, "get", lambda name: made.get(name) or found(name))


def test_structure_comes_before_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _with(monkeypatch, channels=Made(Stage.STRUCTURE))
    assert refusal(tmp_path, "  - prune\n  - channels\n") == (
        "edgesmith.yaml:7: 'channels' cannot come after 'prune': removing channels changes the shape of every kernel "
        "around them.\nPut 'channels' before 'prune'."
    )


def test_a_step_that_would_destroy_zeros_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _with(monkeypatch, noise=Made(Stage.CLUSTER, preserves=set()))
    assert refusal(tmp_path, "  - prune\n  - noise\n") == (
        "edgesmith.yaml:7: 'noise' would destroy the zeros that 'prune' made.\n"
        "Put 'noise' before 'prune', or leave one of them out."
    )


def _onnx(tmp_path: Path) -> Model:
    signature = Signature(inputs=(), outputs=())
    path = tmp_path / "net.onnx"
    return Model(kind="onnx", path=path, sha256="", signature=signature, origin="ONNX net.onnx", parameters=1)


def test_an_onnx_model_is_quantized_and_not_pruned(tmp_path: Path):
    model = _onnx(tmp_path)
    recipes.check_against_model(parse(tmp_path, "  - quantize\n"), model)
    with pytest.raises(ModelError) as error:
        recipes.check_against_model(parse(tmp_path, "  - prune: {epochs: 0}\n"), model)
    assert str(error.value) == (
        "recipe step 1 (prune) changes and trains weights, and net.onnx is an ONNX model, which cannot be trained "
        "here.\nGive the Keras model that the ONNX file was exported from, or take the step out (quantize works on "
        "ONNX)."
    )


def _net() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
    )


def test_every_step_is_checked_on_the_model_before_the_first_runs(tmp_path: Path):
    recipe = parse(tmp_path, "  - prune: {epochs: 0}\n  - prune: {epochs: 0, exclude: [softmax]}\n")
    with pytest.raises(ModelError) as error:
        recipes.check_steps(recipe, _net(), Context(workdir=tmp_path), where=lambda index: f"edgesmith.yaml:{index}")
    assert str(error.value) == (
        "edgesmith.yaml:1: recipe step 2 (prune): The layer pattern 'softmax' matches no prunable layer.\n"
        "Prunable layers of this model: hidden, out."
    )


def test_a_schedule_that_training_is_too_short_for_is_refused_before_it(tmp_path: Path):
    train = SampleSet(role="train", x=np.zeros((64, 4), np.float32), y=np.zeros(64, np.int64), sha256="", source="")
    recipe = parse(tmp_path, "  - prune: {epochs: 2, batch_size: 32, end_step: 50}\n")
    with pytest.raises(ConfigError, match=r"recipe step 1 \(prune\): The final sparsity would be reached at step"):
        recipes.check_steps(recipe, _net(), Context(workdir=tmp_path, train=train))


def test_a_step_that_gives_zeros_a_value_again_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = recipes.apply_step(_net(), parse(tmp_path, "  - prune: {epochs: 0}\n").steps[0], Context(workdir=tmp_path))

    def spoil(model: Any, params: Any, context: Any) -> Applied:
        model.layers[1].kernel.assign(np.ones((6, 2), np.float32))
        return Applied(model=model)

    broken = Made(Stage.CLUSTER)
    broken.apply = spoil
    _with(monkeypatch, noise=broken)
    with pytest.raises(InternalError, match=r"Step 'noise' gave 6 of 6 zeros in out/kernel a value again"):
        recipes.apply_step(model.model, StepSpec(name="noise", params={}), Context(workdir=tmp_path))


def test_parsing_a_recipe_imports_no_framework(tmp_path: Path):
    path = tmp_path / "edgesmith.yaml"
    path.write_text(HEAD + "  - prune\n  - quantize\n", encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from edgesmith.config import load_config;"
        "from optimizer import recipe, techniques; recipe.parse_recipe(load_config(Path(sys.argv[1])));"
        "techniques.names(); heavy = {'tensorflow', 'keras', 'onnx', 'onnxruntime', 'tf_keras'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
