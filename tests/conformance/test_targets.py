"""One suite, every target: a new file in `targets/` is covered by its existence."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import targets
from edgesmith import files, frameworks
from edgesmith.errors import ConfigError, DataError, ModelError
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, Scheme
from targets import keras_model
from targets.base import CompileRequest, default_bounds
from targets.divergence import sqnr_db
from targets.sparsity import assert_kernels_keep_zeros
from tests import tiny_networks
from tests.tiny_plans import plan_folder

LISTED = {
    line.split("#")[0].strip()
    for line in (Path(__file__).parent / "expected_skips.txt").read_text(encoding="utf-8").splitlines()
} - {""}
NAMES = [name for name in targets.names() if name not in LISTED]
CASES = [(name, scheme) for name in NAMES for scheme in sorted(targets.get(name).capabilities().schemes)]
IDS = [f"{name}-{scheme}" for name, scheme in CASES]

Requested = Callable[..., CompileRequest]
Compiled = Callable[[str, Scheme], Artifact]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_networks.record(tiny_networks.network(), tmp_path_factory.mktemp("model") / "net.keras")


@pytest.fixture(scope="session")
def planned(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scheme], Path]:
    """The folder of the one plan that all targets follow, for each scheme that has one."""
    return functools.cache(lambda scheme: plan_folder(model, scheme, tmp_path_factory.mktemp("plan")))


@pytest.fixture(scope="session")
def requested(tmp_path_factory: pytest.TempPathFactory, planned: Callable[[Scheme], Path]) -> Requested:
    calibration = tiny_networks.samples(tiny_networks.pictures(32))

    def request(scheme: Scheme, **changes: object) -> CompileRequest:
        made = CompileRequest(
            scheme=scheme,
            calibration=calibration,
            out_dir=tmp_path_factory.mktemp("out"),
            name="net",
            board_isa="x86_64",
            plan=planned(scheme) if scheme.needs_calibration else None,
        )
        return dataclasses.replace(made, **changes)

    return request


@pytest.fixture(scope="session")
def compiled(model: Model, requested: Requested) -> Compiled:
    made: dict[tuple[str, Scheme], Artifact] = {}

    def compile_once(name: str, scheme: Scheme) -> Artifact:
        if (name, scheme) not in made:
            made[name, scheme] = targets.get(name).compile(model, requested(scheme), Silent())
        return made[name, scheme]

    return compile_once


def test_every_target_is_available_or_listed():
    states = {name: targets.get(name).state() for name in targets.names()}
    missing = {name: f"{state.reason}; {state.fix}" for name, state in states.items() if not state.available}
    assert set(missing) == LISTED, f"available or not, other than expected_skips.txt says: {missing or LISTED}"


@pytest.mark.parametrize(("name", "scheme"), CASES, ids=IDS)
def test_compiling_twice_gives_the_same_bytes(
    name: str, scheme: Scheme, model: Model, requested: Requested, compiled: Compiled
):
    again = targets.get(name).compile(model, requested(scheme), Silent())
    assert again.sha256 == compiled(name, scheme).sha256
    assert again.path.read_bytes() == compiled(name, scheme).path.read_bytes()


@pytest.mark.parametrize(("name", "scheme"), CASES, ids=IDS)
def test_outputs_are_within_the_stated_bounds(name: str, scheme: Scheme, model: Model, compiled: Compiled):
    artifact = compiled(name, scheme)
    x = tiny_networks.pictures(48, seed=7)
    (reference,) = tiny_networks.answers(keras_model.load(model), x)
    (found,) = targets.get(name).outputs(artifact.path, x)
    bounds = default_bounds(artifact.precision)
    assert found.shape == reference.shape
    assert sqnr_db(reference, found) >= bounds.min_sqnr_db
    cosine = float(np.sum(reference * found) / np.sqrt(np.sum(reference**2) * np.sum(found**2)))
    assert cosine >= bounds.min_cosine


@pytest.mark.parametrize(("name", "scheme"), CASES, ids=IDS)
def test_the_signature_is_kept(name: str, scheme: Scheme, model: Model, compiled: Compiled):
    artifact = compiled(name, scheme)
    for wanted, found in (
        (model.signature.inputs, artifact.signature.inputs),
        (model.signature.outputs, artifact.signature.outputs),
    ):
        assert [spec.shape[1:] for spec in found] == [spec.shape[1:] for spec in wanted]
        allowed = ("float32", "int8") if scheme is Scheme.INT8 else ("float32",)
        assert all(spec.dtype in allowed for spec in found)


@pytest.mark.parametrize(("name", "scheme"), CASES, ids=IDS)
def test_the_record_describes_the_file(name: str, scheme: Scheme, model: Model, compiled: Compiled):
    artifact = compiled(name, scheme)
    assert artifact.target == name
    assert targets.get(name).signature(artifact.path) == artifact.signature
    assert artifact.path.suffix == f".{artifact.format}" == f".{targets.get(name).FORMAT}"
    assert artifact.precision == scheme.precision
    assert artifact.sha256 == files.sha256_file(artifact.path)
    assert artifact.size_bytes == artifact.path.stat().st_size
    assert artifact.gzip_bytes == files.gzip_size(artifact.path)
    assert artifact.made_from == model.sha256
    assert {"edgesmith", "python", "keras", "tensorflow"} < set(artifact.toolchain)


@pytest.mark.parametrize(("name", "scheme"), CASES, ids=IDS)
def test_pruned_kernels_keep_their_zeros(name: str, scheme: Scheme, model: Model, compiled: Compiled):
    artifact = compiled(name, scheme)
    wanted = tiny_networks.kernels(keras_model.load(model))
    shipped = targets.get(name).kernels(artifact.path)
    assert set(wanted) == set(tiny_networks.PRUNED)
    assert_kernels_keep_zeros(wanted, shipped, artifact=artifact.path.name)
    # Depthwise kernels are not pruned: of 28,000 weights they are 288.
    assert 0.49 <= artifact.sparsity <= 0.55


@pytest.mark.parametrize(("name", "scheme"), CASES, ids=IDS)
def test_every_layer_can_be_compared(name: str, scheme: Scheme, model: Model, compiled: Compiled):
    found = dict(targets.get(name).tensors(compiled(name, scheme).path, tiny_networks.pictures(3)))
    assert all(values.dtype == np.float32 and len(values) == 3 for values in found.values())
    assert len(found) >= 8, sorted(found)


@pytest.mark.parametrize("name", NAMES)
def test_artifacts_run_in_a_fresh_process(name: str, compiled: Compiled, tmp_path: Path):
    """The child imports no Keras: what runs there runs from the file alone."""
    x = tiny_networks.pictures(4, seed=3)
    np.save(tmp_path / "x.npy", x)
    artifacts = [compiled(name, scheme) for case, scheme in CASES if case == name]
    script = (
        "import sys, numpy, targets, pathlib\n"
        "for index, path in enumerate(sys.argv[3:]):\n"
        "    found, = targets.get(sys.argv[1]).outputs(pathlib.Path(path), numpy.load(sys.argv[2] + '/x.npy'))\n"
        "    numpy.save(f'{sys.argv[2]}/{index}.npy', found)\n"
        "assert 'keras' not in sys.modules\n"
    )
    _run(script, name, str(tmp_path), *(str(artifact.path) for artifact in artifacts))
    for index, artifact in enumerate(artifacts):
        (here,) = targets.get(name).outputs(artifact.path, x)
        np.testing.assert_array_equal(np.load(tmp_path / f"{index}.npy"), here)


@pytest.mark.slow
def test_another_process_compiles_the_same_bytes(model: Model, compiled: Compiled, tmp_path: Path):
    """Names and order of exported graphs follow Python's hashes and counters: the child has others."""
    script = (
        "import sys, json, pathlib, numpy, dataclasses, targets\n"
        "from tests import tiny_networks\n"
        "from tests.tiny_plans import plan_folder\n"
        "from edgesmith.progress import Silent\n"
        "from edgesmith.types import Scheme\n"
        "from targets.base import CompileRequest\n"
        "tiny_networks.network()\n"
        "model = tiny_networks.record(tiny_networks.network(), pathlib.Path(sys.argv[1]) / 'other.keras')\n"
        "model = dataclasses.replace(model, path=pathlib.Path(sys.argv[2]))\n"
        "(pathlib.Path(sys.argv[1]) / 'plan').mkdir()\n"
        "plan = plan_folder(model, Scheme.INT8, pathlib.Path(sys.argv[1]) / 'plan')\n"
        "request = CompileRequest(scheme=Scheme.INT8, out_dir=pathlib.Path(sys.argv[1]), name='n', plan=plan,\n"
        "                         board_isa='x86_64', calibration=tiny_networks.samples(tiny_networks.pictures(32)))\n"
        "print(json.dumps({n: targets.get(n).compile(model, request, Silent()).sha256 for n in sys.argv[3:]}))\n"
    )
    told = _run(script, str(tmp_path), str(model.path), *NAMES, hash_seed="4321")
    assert json.loads(told.splitlines()[-1]) == {name: compiled(name, Scheme.INT8).sha256 for name in NAMES}


def _run(script: str, *arguments: str, hash_seed: str = "0") -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_corrupt_model_is_refused(name: str, model: Model, requested: Requested, tmp_path: Path):
    cut = tmp_path / "cut.keras"
    cut.write_bytes(model.path.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"cut\.keras: Keras cannot load it: ") as caught:
        targets.get(name).compile(dataclasses.replace(model, path=cut), requested(Scheme.NONE), Silent())
    assert "Save it again" in caught.value.next_step


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_another_signature_is_refused(name: str, model: Model, requested: Requested, tmp_path: Path):
    keras = frameworks.import_keras()
    other = tmp_path / "other.keras"
    with frameworks.third_party_warnings():
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]).save(other)
    with pytest.raises(ModelError, match=r"other\.keras: its inputs are float32\[None, 8, 8, 1\], and image: float32"):
        targets.get(name).compile(dataclasses.replace(model, path=other), requested(Scheme.NONE), Silent())


@pytest.mark.parametrize("name", NAMES)
def test_an_unsupported_scheme_is_refused_before_any_work(
    name: str, model: Model, requested: Requested, monkeypatch: pytest.MonkeyPatch
):
    target = targets.get(name)
    fewer = dataclasses.replace(target.capabilities(), schemes=frozenset({Scheme.NONE}))
    monkeypatch.setattr(target, "capabilities", lambda board_isa=None: fewer)
    _no_work(monkeypatch)
    with pytest.raises(ConfigError, match=f"{name} cannot make scheme 'int8'") as caught:
        target.compile(model, requested(Scheme.INT8), Silent())
    assert caught.value.next_step == "It makes: none."


@pytest.mark.parametrize("name", NAMES)
def test_missing_calibration_is_refused_before_any_work(
    name: str, model: Model, requested: Requested, monkeypatch: pytest.MonkeyPatch
):
    _no_work(monkeypatch)
    with pytest.raises(DataError, match=f"{name}: scheme 'int8' needs calibration samples, and there are none"):
        targets.get(name).compile(model, requested(Scheme.INT8, calibration=None), Silent())


@pytest.mark.parametrize("name", NAMES)
def test_calibration_of_another_shape_is_refused_before_any_work(
    name: str, model: Model, requested: Requested, monkeypatch: pytest.MonkeyPatch
):
    _no_work(monkeypatch)
    wrong = tiny_networks.samples(np.zeros((4, 9, 8, 3), np.float32))
    with pytest.raises(
        DataError, match=r"samples are float32\[4, 9, 8, 3\], the model takes image: float32\[\?, 8, 8, 3\]"
    ):
        targets.get(name).compile(model, requested(Scheme.INT8, calibration=wrong), Silent())


def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(_: Model) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(keras_model, "load", loaded)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_artifact_is_refused(name: str, compiled: Compiled, tmp_path: Path):
    target = targets.get(name)
    broken = tmp_path / f"broken.{target.FORMAT}"
    broken.write_bytes(compiled(name, Scheme.NONE).path.read_bytes()[:200])
    for read in (target.kernels, lambda path: target.outputs(path, tiny_networks.pictures(1))):
        with pytest.raises(ModelError, match=rf"broken\.{target.FORMAT}"):
            read(broken)
