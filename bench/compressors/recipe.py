"""Child: the steps of a recipe of ours that change the Keras model; packed, too, where it has zeros or shared values.

    python recipe.py JOB.json    # {"keras", "train", "samples", "folder", "out", "result", "steps": [{name: params}]}

Its `quantize` step is left to what makes the files. A training that was killed goes on from its last whole epoch. Runs
in the project's environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from calibration.samples import digest
from edgesmith.files import replacing
from edgesmith.types import SampleSet, StepSpec
from optimizer import techniques
from optimizer.base import Context
from optimizer.packing.packed import save_packed
from optimizer.recipe import apply_step


def _samples(
    role: Literal["train", "calibration"], x: NDArray[np.float32], y: NDArray[np.int64] | None = None
) -> SampleSet:
    return SampleSet(role=role, x=x, y=y, sha256=digest(x, y), source="bench")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(job["folder"])
    calibration = _samples("calibration", np.load(job["samples"]))
    train = None
    if job["train"]:
        with np.load(job["train"]) as file:
            train = _samples("train", file["x"], file["y"])

    def original() -> Any:
        return keras.saving.load_model(job["keras"], compile=False)

    start, busy = time.perf_counter(), time.process_time()
    model, notes = original(), []
    for number, step in enumerate(job["steps"]):
        ((name, given),) = step.items()
        technique = techniques.get(name)
        if technique.COMPILE_TIME:
            continue
        workdir = folder / f"{number}-{name}"
        workdir.mkdir(parents=True, exist_ok=True)
        params = technique.Params.model_validate(given).model_dump(mode="json")
        context = Context(workdir=workdir, train=train, calibration=calibration, original=original)
        applied = apply_step(model, StepSpec(name=name, params=params), context)
        model = applied.model
        notes += [f"{name}: {note}" for note in applied.notes]
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - busy}
    with replacing(Path(job["out"])) as part:
        model.save(part)
    facts: dict[str, Any] = {"parameters": int(model.count_params()), "notes": notes}
    if any({"prune", "cluster"} & set(step) for step in job["steps"]):
        facts["packed_bytes"] = save_packed(model, folder / "net.esm").size_bytes
    Path(job["result"]).write_text(json.dumps({"seconds": seconds, "facts": facts}))


if __name__ == "__main__":
    main()
