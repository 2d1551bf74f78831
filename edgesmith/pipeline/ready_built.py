"""A ready model takes the place of what `build` makes: nothing is compiled, the files are only kept as they are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

import targets
from device_tests.accuracy import dequantize
from edgesmith.errors import InfrastructureError, InternalError, ModelError
from edgesmith.pipeline import assemble
from edgesmith.pipeline.build import Built, Wanted, as_emulated
from edgesmith.pipeline.host import Outputs
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.stages import Stage
from edgesmith.pipeline.store import Store
from edgesmith.result import Variant
from edgesmith.types import Artifact, BoardInfo, Device, Finding, Scheme
from targets import tensorrt_asked, tensorrt_ready
from targets.base import RuntimeFacts
from targets.board_runtime import runtime_facts


def take_ready(
    stage: Stage, devices: Sequence[Device], prepared: Prepared
) -> tuple[Outputs | None, Mapping[str, tuple[Built, ...]]]:
    """What is measured of a ready model, and what it is compared with.

    Returns:
        The reference's outputs on this machine, None where no reference was named; and for each device its artifacts,
        the reference as float first.
    """
    items = ready_items(prepared, stage.work.store)
    reference = None if prepared.reference is None else _reference_outputs(stage, items[0].artifact, prepared)
    made = {device.name: tuple(_for_board(stage, device, item) for item in items) for device in devices}
    told = dict.fromkeys(finding for built in made.values() for _, findings in built for finding in findings)
    stage.recorder.add_findings([assemble.finding_record(finding) for finding in told])
    for finding in told:
        stage.work.progress.note(finding.text)
    return reference, {name: tuple(item for item, _ in built) for name, built in made.items()}


def board_artifact(
    artifact: Artifact, device: Device, info: BoardInfo | None
) -> tuple[Artifact, RuntimeFacts | None, tuple[Finding, ...]]:
    """The artifact as one board builds and runs it, what it runs it with, and what a reader should know of that.

    Raises:
        ModelError: the board's TensorRT does not take the file.
    """
    if artifact.target != tensorrt_ready.TARGET:
        return artifact, None, ()
    runner = targets.get(artifact.target).capabilities().runner
    runtime = None if info is None else runtime_facts(device, info, runner)
    made, findings = tensorrt_ready.for_board(artifact, runtime, device.name)
    return made, runtime, findings


def _for_board(stage: Stage, device: Device, item: Built) -> tuple[Built, tuple[Finding, ...]]:
    made, runtime, findings = board_artifact(item.artifact, device, stage.infos.get(device.name))
    return replace(item, artifact=made, wanted=replace(item.wanted, runtime=runtime)), findings


def ready_items(prepared: Prepared, store: Store) -> tuple[Built, ...]:
    """The artifacts, from copies in the store: what is measured is what was read, whatever becomes of the file."""
    if prepared.ready is None:
        raise InternalError("the model is not ready")
    wanted: list[tuple[Variant, Artifact | None]] = [("float", prepared.reference), ("compressed", prepared.ready)]
    return tuple(
        Built(
            wanted=Wanted(
                target=artifact.target,
                variant=variant,
                model=prepared.model,
                scheme=Scheme.NONE,
                per_channel=True,
                isa="",
            ),
            artifact=tensorrt_asked.as_asked(_kept(variant, artifact, store), prepared.loaded.config.tensorrt),
            comparison=None,
            cached=True,
            seconds=0.0,
        )
        for variant, artifact in wanted
        if artifact is not None
    )


def _kept(variant: Variant, artifact: Artifact, store: Store) -> Artifact:
    """The artifact in the store, under a name that a float version of the same name does not have."""
    key = store.key("ready", {"artifact": artifact.sha256, "name": artifact.path.name, "variant": variant})
    name = f"{variant}-{artifact.path.name}"
    entry = store.find("ready", key)
    if entry is None:
        with store.making("ready", key) as draft:
            shutil.copyfile(artifact.path, draft.folder / name)
    return replace(artifact, path=store.path("ready", key) / name)


def _reference_outputs(stage: Stage, reference: Artifact, prepared: Prepared) -> Outputs:
    """What the float version answers on this machine, in a process of its own; computed once and kept."""
    store = stage.work.store
    key = store.key("outputs", {"artifact": reference.sha256, "samples": prepared.evaluation.sha256})
    entry = store.find("outputs", key)
    if entry is not None:
        return tuple(np.load(entry.folder / f"{index}.npy") for index in range(entry.record["count"]))
    try:
        with stage.this_machine() as session:
            found = session.infer(as_emulated(reference), prepared.evaluation.x)
    except InfrastructureError as error:
        raise ModelError(
            f"{reference.path.name}: the reference does not run on this machine: {error.what}",
            next_step=error.next_step,
        ) from error
    outputs = dequantize(found.outputs, found.quantization)
    with store.making("outputs", key) as draft:
        for index, array in enumerate(outputs):
            np.save(draft.folder / f"{index}.npy", array)
        draft.record["count"] = len(outputs)
    return outputs
