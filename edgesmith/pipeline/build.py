"""compile: each model for each target, loaded again in a fresh process and compared with where it came from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

import targets
from device_tests.accuracy import dequantize
from device_tests.session import BoardSession, Inferred
from edgesmith.config import Verify
from edgesmith.errors import InfrastructureError, ModelError
from edgesmith.files import safe_name, sha256_bytes, sha256_file
from edgesmith.pipeline.host import host_outputs
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.quantization import PlannedQuantization
from edgesmith.pipeline.store import Store
from edgesmith.pipeline.workspace import Workspace
from edgesmith.result import Variant
from edgesmith.toolchain import versions
from edgesmith.types import Artifact, Comparison, Model, SampleSet, Scheme
from optimizer import masks
from optimizer.compare import compare
from optimizer.kernels import prunable_kernels
from optimizer.load import open_keras
from targets import tensorrt_asked
from targets.base import CompileRequest, RuntimeFacts, default_bounds
from targets.divergence import first_diverging_tensor
from targets.sparsity import assert_kernels_keep_zeros

_ARTIFACT = TypeAdapter(Artifact)

FreshProcess = Callable[[], BoardSession]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An artifact to be made.

    Attributes:
        isa: instruction set of the board it is for, e.g. "aarch64"; empty where one artifact serves all.
        runtime: what the board runs it with; None where one artifact serves all.
        plan: folder of the quantization plan it follows; None: float, or the runtime's own quantizer.
        plan_key: names the plan's content.
        float_ops: ops of the plan that are left in float all the same: the board has no int8 kernel for them.
        opset: ONNX operator set that the user asked for; None for the target's own choice.
    """

    target: str
    variant: Variant
    model: Model
    scheme: Scheme
    per_channel: bool
    isa: str
    plan: Path | None = None
    plan_key: str = ""
    runtime: RuntimeFacts | None = None
    float_ops: frozenset[str] = frozenset()
    opset: int | None = None

    @property
    def label(self) -> str:
        """Name of its step folder."""
        return f"compile-{self.target}-{self.variant}"

    @property
    def file_name(self) -> str:
        """Of the artifact, without the suffix: two boards of one run may need two files of one variant."""
        board = f"-{self.isa}" if self.isa else ""
        if self.runtime is not None:
            board += f"-{self.runtime.version}-{self.runtime.compute or 'any'}"
        kept = f"-{len(self.float_ops)}-in-float" if self.float_ops else ""
        return safe_name(f"{self.variant}-{self.scheme.precision}{board}{kept}")

    def request(self, calibration: SampleSet | None, folder: Path) -> CompileRequest:
        """What its target is asked for."""
        return CompileRequest(
            scheme=self.scheme,
            per_channel=self.per_channel,
            calibration=calibration,
            out_dir=folder,
            name=self.file_name,
            board_isa=self.isa or None,
            plan=self.plan,
            runtime=self.runtime,
            float_ops=self.float_ops,
            opset=self.opset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An artifact with its proof: how close its outputs in a fresh process are to its model's.

    Attributes:
        comparison: None where the artifact was ready: there is no model to compare it with.
        in_float: the user's layers that the plan has in int8 and the board could not build in it.
    """

    wanted: Wanted
    artifact: Artifact
    comparison: Comparison | None
    cached: bool
    seconds: float
    in_float: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """What an artifact answered in a fresh process on this machine, before it went to any board.

    Attributes:
        outputs: raw, one array [n, ...] per model output.
        index: int64 [n], which evaluation samples they are of.
    """

    outputs: tuple[NDArray[Any], ...]
    index: NDArray[np.int64]


def build(wanted: Wanted, prepared: Prepared, work: Workspace, fresh_process: FreshProcess) -> Built:
    """Compiles and verifies one artifact, or takes both from the store.

    Args:
        fresh_process: opens this machine's agent, once: verifying loads the artifact in its child process.

    Raises:
        ModelError: it does not compile, or its outputs are too far from the model's; names the first tensor.
    """
    calibration = prepared.calibration if wanted.scheme.needs_calibration else None
    store = work.store
    key = store.key("artifact", artifact_inputs(wanted, calibration))
    step = work.replay.step(wanted.label, [f"model sha256 {wanted.model.sha256}", f"artifact key {key}"])
    started = time.monotonic()
    kept = kept_artifact(wanted, calibration, store)
    if kept is not None:
        comparison = _verify(wanted, kept, prepared, work, fresh_process)
        kept = tensorrt_asked.as_asked(kept, prepared.loaded.config.tensorrt)
        return Built(wanted=wanted, artifact=kept, comparison=comparison, cached=True, seconds=0.0)
    with store.making("artifact", key) as draft, work.progress.task(f"compile {wanted.target} {wanted.variant}"):
        request = wanted.request(calibration, draft.folder)
        made = targets.get(wanted.target).compile(wanted.model, request, work.progress)
        _assert_zeros_shipped(wanted, made, prepared)
        draft.record["artifact"] = _ARTIFACT.dump_python(made, mode="json")
    artifact = replace(made, path=store.path("artifact", key) / made.path.name)
    comparison = _verify(wanted, artifact, prepared, work, fresh_process)
    seconds = time.monotonic() - started
    (step / "artifact.sha256").write_text(f"{artifact.sha256}  {artifact.path.name}\n", encoding="utf-8")
    artifact = tensorrt_asked.as_asked(artifact, prepared.loaded.config.tensorrt)
    return Built(wanted=wanted, artifact=artifact, comparison=comparison, cached=False, seconds=seconds)


def _assert_zeros_shipped(wanted: Wanted, made: Artifact, prepared: Prepared) -> None:
    """The sparsity asked for is that of the shipped file: every zero the recipe made is read back from it."""
    if wanted.model.kind != "keras" or wanted.model.sha256 == prepared.model.sha256:
        return
    before = masks.zero_counts(open_keras(prepared.model))
    compressed = open_keras(wanted.model)
    after = masks.zero_counts(compressed)
    pruned = {
        kernel.name: kernel.value()
        for kernel in prunable_kernels(compressed)
        if kernel.name not in before or after[kernel.name].zeros > before[kernel.name].zeros
    }
    assert_kernels_keep_zeros(pruned, targets.get(wanted.target).kernels(made.path), artifact=made.path.name)


def kept_artifact(wanted: Wanted, calibration: SampleSet | None, store: Store) -> Artifact | None:
    """The artifact from the store, its file whole; None where it has to be made."""
    entry = store.find("artifact", store.key("artifact", artifact_inputs(wanted, calibration)), label=wanted.label)
    if entry is None:
        return None
    stored = _ARTIFACT.validate_python(entry.record["artifact"])
    artifact = replace(stored, path=entry.folder / stored.path.name)
    return artifact if sha256_file(artifact.path) == artifact.sha256 else None


def artifact_inputs(wanted: Wanted, calibration: SampleSet | None) -> dict[str, object]:
    """Everything an artifact depends on."""
    kept = {"float_ops": sorted(wanted.float_ops)} if wanted.float_ops else {}
    asked = {} if wanted.opset is None else {"opset": wanted.opset}
    return {
        **kept,
        **asked,
        "target": wanted.target,
        "model": wanted.model.sha256,
        "scheme": wanted.scheme.value,
        "per_channel": wanted.per_channel,
        "isa": wanted.isa,
        "runtime": None if wanted.runtime is None else asdict(wanted.runtime),
        "plan": wanted.plan_key,
        "calibration": calibration.sha256 if calibration and wanted.scheme.needs_calibration else None,
        "toolchain": versions(),
    }


def _verify(
    wanted: Wanted, artifact: Artifact, prepared: Prepared, work: Workspace, fresh_process: FreshProcess
) -> Comparison:
    store = work.store
    settings = prepared.loaded.config.verify
    samples = _head(prepared.evaluation, settings.samples)
    key = _verified_key(wanted, artifact, prepared, store)
    if entry := store.find("verified", key, label=wanted.label):
        return _comparison(entry.record["comparison"])
    reference = host_outputs(wanted.model, samples, work)
    stand_in = targets.get(wanted.target).capabilities().stand_in
    emulated = f", emulated by {stand_in}" if stand_in else ""
    with work.progress.task(f"check {wanted.target} {wanted.variant} in a fresh process{emulated}"):
        found = _infer(fresh_process(), artifact, samples.x)
    comparison = compare(reference, dequantize(found.outputs, found.quantization))
    if wanted.variant != "uniform":  # where it differs is known: for that, layers were kept in float32
        _check_bounds(wanted, artifact, comparison, settings, samples.x)
    with store.making("verified", key) as draft:
        finite = comparison.sqnr_db if math.isfinite(comparison.sqnr_db) else None
        draft.record.update(comparison={**asdict(comparison), "sqnr_db": finite}, outputs=len(found.outputs))
        for number, output in enumerate(found.outputs):
            np.save(draft.folder / f"output-{number}.npy", output)
    return comparison


def _verified_key(wanted: Wanted, artifact: Artifact, prepared: Prepared, store: Store) -> str:
    settings = prepared.loaded.config.verify
    samples = _head(prepared.evaluation, settings.samples)
    inputs = {"artifact": artifact.sha256, "samples": samples.sha256, "settings": settings.model_dump()}
    without_bounds = {"bounds": None} if wanted.variant == "uniform" else {}
    return store.key("verified", {**inputs, "keeps": "outputs", **without_bounds})


def checked_here(built: Built, prepared: Prepared, store: Store) -> Checked | None:
    """What this machine answered when it checked an artifact; None where that was not kept."""
    entry = store.find("verified", _verified_key(built.wanted, built.artifact, prepared, store))
    if entry is None:
        return None
    outputs = tuple(np.load(entry.folder / f"output-{number}.npy") for number in range(entry.record["outputs"]))
    return Checked(outputs=outputs, index=_head_index(prepared.evaluation, prepared.loaded.config.verify.samples))


def _comparison(record: dict[str, Any]) -> Comparison:
    """JSON has no infinity: an exact match is kept as null."""
    return Comparison(**{**record, "sqnr_db": math.inf if record["sqnr_db"] is None else record["sqnr_db"]})


def as_emulated(artifact: Artifact) -> Artifact:
    """An artifact as a machine runs it that has not its runtime: what the file says, node by node."""
    stand_in = targets.get(artifact.target).capabilities().stand_in
    return replace(artifact, target=stand_in, build={"as_written": True}) if stand_in else artifact


def _infer(session: BoardSession, artifact: Artifact, x: NDArray[np.generic]) -> Inferred:
    try:
        return session.infer(as_emulated(artifact), x)
    except InfrastructureError as error:
        raise ModelError(
            f"{artifact.path.name}: the compiled model does not run on this machine: {error.what}",
            next_step=error.next_step,
        ) from error


def _check_bounds(
    wanted: Wanted, artifact: Artifact, found: Comparison, settings: Verify, x: NDArray[np.generic]
) -> None:
    bounds = default_bounds(artifact.precision)
    min_sqnr_db = bounds.min_sqnr_db if settings.min_sqnr_db is None else settings.min_sqnr_db
    min_cosine = bounds.min_cosine if settings.min_cosine is None else settings.min_cosine
    if found.sqnr_db >= min_sqnr_db and found.cosine >= min_cosine:
        return
    divergence = first_diverging_tensor(targets.get(wanted.target), wanted.model, artifact, x[:4], min_sqnr_db)
    where = str(divergence) if divergence else "no single tensor stands out: the gap builds up over the layers"
    raise ModelError(
        f"{artifact.path.name}: the compiled model answers differently from the model it was made from: SQNR "
        f"{found.sqnr_db:.1f} dB (at least {min_sqnr_db:g}), cosine {found.cosine:.5f} (at least {min_cosine:g}) over "
        f"{found.n} samples. First tensor that diverges: {where}.",
        next_step="Look at that layer's range and the calibration samples. verify: {min_sqnr_db: ...} sets the bound.",
    )


def _head(samples: SampleSet, n: int) -> SampleSet:
    """The first samples of a set, spread evenly over it, under a hash of their own."""
    index = _head_index(samples, n)
    digest = sha256_bytes(f"{samples.sha256}:{index.tobytes().hex()}".encode())
    labels = None if samples.y is None else samples.y[index]
    return replace(samples, x=samples.x[index], y=labels, sha256=digest)


def _head_index(samples: SampleSet, n: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, len(samples) - 1, num=min(n, len(samples)), dtype=np.int64))


def wanted_for(
    target: str,
    isa: str,
    *,
    original: Model,
    compressed: Model,
    scheme: Scheme,
    per_channel: bool,
    has_recipe: bool,
    plan: PlannedQuantization | None = None,
    runtime: RuntimeFacts | None = None,
    opset: int | None = None,
) -> Sequence[Wanted]:
    """The float variant; where there is a recipe, the compressed one; where its plan has exceptions, the uniform one.

    `isa` and `runtime` count only if the target says so.
    """
    can = targets.get(target).capabilities()
    isa = isa if can.per_isa else ""
    runtime = runtime if can.per_runtime else None
    float_variant = Wanted(
        target=target,
        variant="float",
        model=original,
        scheme=Scheme.NONE,
        per_channel=True,
        isa=isa,
        runtime=runtime,
        opset=opset,
    )
    if not has_recipe:
        return (float_variant,)
    compressed_variant = Wanted(
        target=target,
        variant="compressed",
        model=compressed,
        scheme=scheme,
        per_channel=per_channel,
        isa=isa,
        runtime=runtime,
        plan=plan.folder if plan else None,
        plan_key=plan.key if plan else "",
        opset=opset,
    )
    if plan is None or plan.uniform is None:
        return (float_variant, compressed_variant)
    uniform_variant = replace(compressed_variant, variant="uniform", plan=plan.uniform, plan_key=plan.uniform_key)
    return (float_variant, compressed_variant, uniform_variant)
