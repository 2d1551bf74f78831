"""Has a method make its files for a network; what was made once is kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.cifar.networks import float_file
from bench.compressors.methods import BATCH, HERE, Method
from bench.int8 import data, models, peers
from bench.int8.peers import ChildFailed, Format
from edgesmith.errors import InternalError
from edgesmith.files import sha256_file, sha256_json, write_json
from edgesmith.types import Recipe, StepSpec
from optimizer.recipe import quant_request
from optimizer.techniques import quantize

CALIBRATION: Final = 256
TRAINED_ON: Final = 8_000
EVALUATION, QUICK_EVALUATION = 10_000, 2_000
WHOLE: Final = "cifar_"
"""Networks that were trained on all of CIFAR-10 but its last pictures, which calibrate."""
FORMATS: Final[tuple[Format, ...]] = ("tflite", "onnx")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """A float network, ready for all.

    Attributes:
        keras: the model.
        folder: holds float.onnx, float.tflite, calibration.npy and, in full runs, train.npz.
        evaluation: samples that no method sees.
        trained_on: how many samples train.npz holds.
        facts: "parameters", "sha256".
    """

    name: str
    keras: Path
    folder: Path
    evaluation: data.Split
    trained_on: int
    facts: Mapping[str, Any]

    def job(self, **more: Any) -> dict[str, Any]:
        """What a child is told."""
        files: dict[str, Any] = {kind: self.folder / f"float.{kind}" for kind in FORMATS}
        return {**files, "keras": self.keras, "samples": self.folder / "calibration.npy", **more}

    def classes(self, path: Path) -> NDArray[np.int64]:
        """What a file answers on the evaluation samples; kept beside it.

        Raises:
            ChildFailed: its runtime does not run it.
        """
        kept = path.with_name(f"{path.name}.{sha256_file(path)[:12]}-{len(self.evaluation.y)}.npy")
        if not kept.is_file():
            try:
                found = peers.outputs(path, self.evaluation.x).argmax(axis=1)
            except (RuntimeError, ValueError) as error:
                raise ChildFailed(f"{path.name} cannot be run: {str(error).splitlines()[0]}") from error
            np.save(kept, found)
        return np.asarray(np.load(kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Files of a method, by format.

    Attributes:
        told: "seconds" on the wall, "versions" and facts of the children.
    """

    files: Mapping[str, Path]
    told: Mapping[str, Any]


def prepare(name: str, cache: Path, *, quick: bool, trained_on: int = TRAINED_ON) -> Network:
    """Loads or trains the float network, and exports it.

    Args:
        name: in `bench.int8.models`, or "cifar_" and a name in `bench.cifar.networks`.
        quick: the bundled network and its own few samples.
        trained_on: training samples that each method gets.
    """
    count = QUICK_EVALUATION if quick else EVALUATION
    whole = name.startswith(WHOLE)
    kind = "bundled" if quick else "cifar" if whole else models.entry(name).data
    samples = data.load(kind, cache, calibration=CALIBRATION, evaluation=count)
    keras = float_file(name.removeprefix(WHOLE), cache) if whole else models.model_file(name, cache, samples)
    folder = cache / "work" / ("compressors-quick" if quick else "compressors") / name
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "calibration.npy", samples.calibration.x)
    if not quick:
        np.savez(folder / "train.npz", x=samples.train.x[:trained_on], y=samples.train.y[:trained_on])
    facts = folder / "float.json"
    job = {"keras": keras, "out": folder, "result": facts}
    peers.run_child(Path(sys.executable), "peer_prepare.py", job, folder / "prepare")
    return Network(
        name=name,
        keras=keras,
        folder=folder,
        evaluation=samples.evaluation,
        trained_on=min(trained_on, len(samples.train.y)),
        facts=json.loads(facts.read_text()),
    )


def make(method: Method, network: Network, python: Path, *, again: bool = False) -> Made:
    """The files of a method, made or kept.

    Args:
        python: of the method's environment.
        again: make them although they are kept.

    Raises:
        ChildFailed: it could not make them.
    """
    folder = network.folder / method.name.replace(" ", "-")
    if again:  # its checkpoints, too
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    record = folder / "kept.json"
    key = sha256_json([method.what, network.facts["sha256"], CALIBRATION, network.trained_on if method.trained else 0])
    files: dict[str, Path] = {kind: folder / f"net.{kind}" for kind in method.formats}
    if not again and record.is_file():
        kept = json.loads(record.read_text())
        if kept["key"] == key and all(path.is_file() for path in files.values()):
            return Made(files=files, told=kept["told"])
    record.unlink(missing_ok=True)
    if method.ours:
        told = _by_us(method, network, folder)
    elif method.stages is not None:
        told = _by_tfmot(method.stages, network, folder, python)
    else:
        told = _by_peer(method, network, folder, python)
    write_json(record, {"key": key, "told": told})
    return Made(files=files, told=told)


def _by_us(method: Method, network: Network, folder: Path) -> dict[str, Any]:
    """The recipe's steps, then the plan and both its files."""
    python, wall, facts = Path(sys.executable), 0.0, {}
    job = network.job()
    if any(not _compiles(step) for step in method.steps):
        job |= {"folder": folder, "out": folder / "compressed.keras", "result": folder / "recipe.json"}
        job |= {"steps": list(method.steps), "train": network.folder / "train.npz" if method.trained else None}
        peers.run_child(python, str(HERE / "recipe.py"), job, folder / "recipe")
        found = json.loads((folder / "recipe.json").read_text())
        wall, facts = found["seconds"]["wall"], found["facts"]
        prepared = {"keras": folder / "compressed.keras", "out": folder, "result": folder / "prepared.json"}
        peers.run_child(python, "peer_prepare.py", prepared, folder / "prepare")
        job |= {kind: folder / f"float.{kind}" for kind in FORMATS}
    job |= {"out": folder, "result": folder / "plan.json", "settings": _settings(method)}
    peers.run_child(python, "ours.py", job, folder / "plan")
    for kind in FORMATS:
        (folder / f"ours.{kind}").replace(folder / f"net.{kind}")
    found = json.loads((folder / "plan.json").read_text())
    seconds = {kind: round(wall + one["wall"], 1) for kind, one in found["seconds"].items()}
    return {"seconds": seconds, "commit": _commit(), **facts}


def _commit() -> str:
    """Of the sources that make our files: a kept one may be older than the rest of a record."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, check=False, capture_output=True)
    return found.stdout.decode().strip() or "unknown"


def _compiles(step: Mapping[str, Any]) -> bool:
    return set(step) == {"quantize"}


def _settings(method: Method) -> dict[str, Any]:
    """Of the plan that the recipe's `quantize` step asks for."""
    (given,) = (step["quantize"] for step in method.steps if _compiles(step))
    spec = StepSpec(name="quantize", params=quantize.Params.model_validate(given).model_dump(mode="json"))
    plan = quant_request(Recipe(steps=(spec,))).plan
    if plan is None:
        raise InternalError(f"{method.name} quantizes without a plan")
    return plan.settings.plain()


def _by_peer(method: Method, network: Network, folder: Path, python: Path) -> dict[str, Any]:
    if method.peer is None:
        raise InternalError(f"{method.name} has nothing that makes it")
    job = network.job(out=folder / f"net.{method.formats[0]}", result=folder / "told.json", **method.peer.settings)
    peers.run_child(python, method.peer.script, job, folder / "child")
    return _told(folder / "told.json", method.formats[0])


def _by_tfmot(stages: Mapping[str, Mapping[str, Any]], network: Network, folder: Path, python: Path) -> dict[str, Any]:
    twin = network.folder / "keras2.h5"
    facts = twin.with_suffix(".json")
    if not facts.is_file() or json.loads(facts.read_text())["of"] != network.facts["sha256"]:
        job = network.job(out=twin, result=facts)
        peers.run_child(python, str(HERE / "peer_keras2.py"), job, network.folder / "keras2")
        write_json(facts, {**json.loads(facts.read_text()), "of": network.facts["sha256"]})
    job = network.job(
        keras2=twin,
        train=network.folder / "train.npz",
        batch=BATCH,
        out=folder / "net.tflite",
        result=folder / "told.json",
        **{stage: stages.get(stage) for stage in ("prune", "cluster", "quantize")},
    )
    peers.run_child(python, str(HERE / "peer_tfmot.py"), job, folder / "child")
    apart = json.loads(facts.read_text())["largest_difference"]
    return {**_told(folder / "told.json", "tflite"), "keras2_largest_difference": apart}


def _told(path: Path, kind: str) -> dict[str, Any]:
    found = json.loads(path.read_text())
    return {
        "seconds": {kind: round(found["seconds"]["wall"], 1)},
        "versions": found["versions"],
        **found.get("facts", {}),
    }
