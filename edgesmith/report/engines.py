"""Engines that boards built, in words and rows for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesmith.report.figures import NA, Row, byte_size, milliseconds, one_line
from edgesmith.result import DeviceResult, EngineLayerRecord, EnginePartRecord, EngineRecord, Result, TrtexecRecord

MOST_LAYERS = 10
_ASKED = ("dla_core", "cuda_graph", "cuda", "workspace_bytes", "optimization_level", "version_compatible", "trtexec")
"""Options that only the user sets; the others follow from the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerView:
    """One layer: what it is called, what it was made of, and its cells."""

    name: str
    sources: str
    kind: str
    precision: str
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """What the page shows of one engine.

    Attributes:
        of: the artifact it was built from.
        facts: (name, text).
        layers: the slowest ones.
    """

    of: str
    fake: bool
    facts: tuple[tuple[str, str], ...]
    layers: tuple[LayerView, ...]


def views(rows: Sequence[Row]) -> tuple[EngineView, ...]:
    """The engines of one device."""
    return tuple(_view(row.record, row.record.engine) for row in rows if row.record.engine)


def lines(result: Result) -> tuple[str, ...]:
    """One line for each engine that trtexec has timed beside us."""
    return tuple(
        f"{one.device}, {one.target} {one.variant}: {against_trtexec(one.engine.trtexec)}"
        for one in result.results
        if one.engine is not None and one.engine.trtexec is not None
    )


def _view(of: DeviceResult, engine: EngineRecord) -> EngineView:
    asked = asked_for(of.artifact.build) if of.artifact else ""
    return EngineView(
        of=f"{of.target} {of.variant}",
        fake=engine.fake,
        facts=(*((("Asked for", asked),) if asked else ()), *_facts(engine)),
        layers=tuple(_layer(layer) for layer in engine.layers[:MOST_LAYERS] if layer.time_ms is not None),
    )


def asked_for(build: Mapping[str, Any]) -> str:
    """What the user's `tensorrt:` added to how an artifact is built and run, for people; empty where nothing."""
    asked = {name: build[name] for name in _ASKED if name in build}
    return ", ".join(name if value is True else f"{name} {value}" for name, value in asked.items())


def _facts(engine: EngineRecord) -> list[tuple[str, str]]:
    name = "FAKE TensorRT" if engine.fake else "TensorRT"
    allowed = f"; allowed: {', '.join(engine.precision)}" if engine.precision else ""
    counted = ", ".join(f"{count} {name}" for name, count in engine.layer_precisions.items())
    built = f"{engine.seconds:g} s"
    by = f", by {one_line(engine.builder)}" if engine.builder else ""
    told = [
        ("Built with", f"{name} {engine.tensorrt}, CUDA {engine.cuda}, compute capability {engine.compute}{by}"),
        ("Build", f"{built}, then; the board had it" if engine.cached else f"{built}: {one_line(engine.because)}"),
        ("Size", f"{byte_size(engine.size_bytes)}, {byte_size(engine.device_memory_bytes)} of device memory beside it"),
        ("Layers", f"{engine.layer_count or NA}{f' ({counted})' if counted else ''}{allowed}"),
    ]
    if engine.parts is not None:
        parts = engine.parts
        text = f"inputs to the GPU {_part(parts.to_device)}, compute {_part(parts.compute)}, "
        told.append(("Parts of a run", f"{text}outputs back {_part(parts.to_host)} ({parts.runs} runs of their own)"))
    elif engine.profile_reason:
        told.append(("Parts of a run", f"{NA}: {one_line(engine.profile_reason)}"))
    told += _trtexec(engine)
    told += [("Note", one_line(note)) for note in engine.notes]
    return [*told, ("Key", engine.key[:16])]


def _trtexec(engine: EngineRecord) -> list[tuple[str, str]]:
    """NVIDIA's figures for the same engine, ours beside them, and what differs in what is measured."""
    theirs = engine.trtexec
    if theirs is None:
        return [("By trtexec", f"{NA}: {one_line(engine.trtexec_reason)}")] if engine.trtexec_reason else []
    ways = (theirs.to_device_p50_ms, theirs.compute_p50_ms, theirs.to_host_p50_ms)
    there, compute, back = (f"{milliseconds(one)} ms" for one in ways)
    return [
        ("By trtexec", against_trtexec(theirs)),
        ("trtexec's parts", f"inputs to the GPU {there}, compute {compute}, outputs back {back} (p50)"),
        ("What differs", " ".join(map(one_line, theirs.difference))),
        *(("trtexec's note", one_line(note)) for note in theirs.notes),
    ]


def against_trtexec(theirs: TrtexecRecord) -> str:
    """Both figures for the same sum."""
    ends = f"p50 {milliseconds(theirs.p50_ms)} ms, p95 {milliseconds(theirs.p95_ms)} ms"
    told = f"{one_line(theirs.tool)}: {ends} ({theirs.runs} runs)"
    if not theirs.ours_p50_ms:
        return told
    ratio = theirs.p50_ms / theirs.ours_p50_ms
    ours = f"ours, added up from the same parts: p50 {milliseconds(theirs.ours_p50_ms)} ms"
    return f"{told}; {ours} (trtexec's is {ratio:.2f} times that)"


def _part(part: EnginePartRecord) -> str:
    return f"{milliseconds(part.p50_ms)} ms (p95 {milliseconds(part.p95_ms)})"


def _layer(layer: EngineLayerRecord) -> LayerView:
    between = " ... " if layer.is_range else ", "
    return LayerView(
        name=one_line(layer.name),
        sources=between.join(map(one_line, layer.sources)) or NA,
        kind=one_line(layer.kind or NA),
        precision=one_line(layer.precision or NA),
        time=milliseconds(layer.time_ms),
    )
