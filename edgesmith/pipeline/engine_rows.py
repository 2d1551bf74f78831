"""What a board built from an artifact, as it stands in `result.json`."""

from __future__ import annotations

from dataclasses import asdict

from edgesmith import trtexec_rows
from edgesmith.pipeline.build import Built
from edgesmith.result import EngineRecord
from edgesmith.types import Engine, Finding, Measurement

FAKE_TRTEXEC = "FAKE trtexec: a stand-in that runs nothing. Its latency is scripted, and says nothing of a Jetson's."
FAKE = (
    "FAKE TensorRT: a stand-in that runs the file on this board's CPU. Its latency says nothing of a Jetson's, its "
    "outputs are those of the file."
)


def record(measured: Measurement) -> EngineRecord | None:
    """The engine that was measured; None where the board runs the artifact as it is."""
    engine = measured.engine
    if engine is None:
        return None
    told = {**asdict(engine), "layer_precisions": dict(engine.layer_precisions)}
    empty = ("profile_reason", "builder", "trtexec_reason")
    return EngineRecord.model_validate({**told, **{name: told[name] or None for name in empty}})


def findings(built: Built, measured: Measurement) -> tuple[Finding, ...]:
    """What a reader should know of it."""
    engine = measured.engine
    if engine is None:
        return ()
    found = [Finding(severity="info", code="engine", text=_built(engine))]
    found += trtexec_rows.alone(measured)
    if engine.fake:
        found.append(Finding(severity="warning", code="fake_runtime", text=FAKE_TRTEXEC if engine.builder else FAKE))
    if built.in_float:
        text = (
            f"The board's TensorRT has no int8 kernel for {', '.join(built.in_float)}: there it is computed in float."
        )
        found.append(Finding(severity="warning", code="no_int8_kernel", text=text))
    if engine.profile_reason:
        text = f"The parts of a run are not known: {engine.profile_reason}"
        found.append(Finding(severity="info", code="no_profile", text=text))
    if engine.trtexec_reason and not engine.builder:
        text = f"NVIDIA's trtexec did not time the engine: {engine.trtexec_reason.rstrip('.')}."
        found.append(Finding(severity="info", code="no_trtexec", text=text))
    return (*found, *(Finding(severity="info", code="engine_note", text=_sentence(note)) for note in engine.notes))


def _built(engine: Engine) -> str:
    by = f" by {engine.builder}" if engine.builder else ""
    what = f"TensorRT {engine.tensorrt} for compute capability {engine.compute}{by}"
    if engine.cached:
        return f"The engine was on the board: {what}, built in {engine.seconds:g} s."
    return f"The engine was built on the board in {engine.seconds:g} s: {what}. Why: {engine.because}."


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:].removesuffix('.')}."
