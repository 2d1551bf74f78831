"""The trials of a Jetson's TensorRT: three precisions, its cache, trtexec, CUDA graphs, CUDA providers, a DLA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from device_tests import engines
from device_tests.agent import cuda
from device_tests.session import BoardSession
from edgesmith.doctor.cuda_providers import Provider, providers
from edgesmith.doctor.files_there import Fetched
from edgesmith.doctor.models.catalog import Specimen, specimen
from edgesmith.doctor.running import deviation, judged, measured
from edgesmith.doctor.trial import Outcome, Trial
from edgesmith.errors import BoardError, BuildRefused
from edgesmith.types import Engine, Measurement
from targets import tensorrt_versions
from targets.base import RuntimeFacts

_BUILD_S = 900.0
"""For an engine of twenty layers; a Nano needs one or two minutes, most of it to load its libraries."""

_WITH_DLA = ("7.2", "8.7")
"""Compute capabilities of Xavier and Orin. Nano, TX2 and Thor have none."""

_SAME = 1e-6
"""A share of the largest answer: the same engine on the same GPU, by another way."""


class TensorRtTrials:
    """They share what the first of them built."""

    def __init__(self, session: BoardSession, fetched: Fetched, *, has_trtexec: bool) -> None:
        """Prepares.

        Args:
            session: open.
            fetched: takes what the bundle is to hold.
            has_trtexec: NVIDIA's own program is on the board.
        """
        runtimes = session.info.runtimes
        self._has_trtexec = has_trtexec
        # Without the binding it builds and times alone, and hands out no answers.
        self._alone = "trtexec" in runtimes
        self._compute = runtimes.get("compute", "")
        self._reads = tensorrt_versions.reads(RuntimeFacts(version=runtimes["tensorrt"], compute=self._compute))
        self._fetched = fetched
        self._engines: dict[str, Engine] = {}
        self._taken: dict[str, Measurement] = {}
        self._known: tuple[Provider, ...] = ()

    def steps(self) -> Iterator[tuple[str, Callable[[BoardSession], Trial]]]:
        """(name, how) of each."""
        for precision in ("float32", "float16"):
            name = f"tensorrt {precision}"
            yield name, self._built(name, precision)
        yield "tensorrt int8", self._int8
        yield "tensorrt cache", self._cache
        if self._alone:
            return
        if self._has_trtexec:
            yield "tensorrt trtexec", self._trtexec
        yield "tensorrt CUDA graph", self._graph
        for provider in cuda.PROVIDERS:
            yield f"tensorrt by {provider}", self._provider(provider)
        if self._compute in _WITH_DLA:
            yield "tensorrt DLA", self._dla

    def _built(self, name: str, precision: str) -> Callable[[BoardSession], Trial]:
        return lambda session: self._try(session, name, precision, self._specimen(precision))

    def _try(self, session: BoardSession, name: str, precision: str, one: Specimen) -> Trial:
        """Builds, measures, compares; and fetches what the board wrote about the build."""
        try:
            built = session.build(one.artifact)
        except BuildRefused:
            self._fetched.failed_build(session, name)
            raise
        self._fetched.engine(session, name, built.key)
        self._engines.setdefault(precision, built)
        taken = measured(session, one)
        if taken.outputs is not None:
            self._taken.setdefault(precision, taken)
        return judged(name, precision, one, taken, self._compute)

    def _int8(self, session: BoardSession) -> Trial:
        name = "tensorrt int8"
        if not self._reads.int8:
            text = f"not tried: the GPU (compute capability {self._compute}) does not compute in int8"
            return Trial(name=name, outcome=Outcome.SKIPPED, text=text)
        try:
            return self._try(session, name, "int8", self._specimen("int8"))
        except BuildRefused as refused:
            if self._reads.typed or refused.code != "no-implementation":
                raise
            lacking = ", ".join(refused.nodes) or "a layer"
        found = self._try(session, name, "int8", self._specimen("int8-depthwise-float"))
        text = f"{found.text}; with the depthwise layer in float: there is no int8 kernel for {lacking}"
        return replace(found, text=text)

    def _cache(self, session: BoardSession) -> Trial:
        """A second build has to find what the first one made."""
        name = "tensorrt cache"
        if not self._engines:
            return _nothing(name)
        precision, built = next(iter(self._engines.items()))
        again = engines.build(session, self._specimen(precision).artifact)
        if again.cached and (again.key, again.sha256) == (built.key, built.sha256):
            text = f"the second build found the engine of {precision} (key {again.key[:12]})"
            return Trial(name=name, outcome=Outcome.OK, text=text, engine=again)
        why = "it found another engine" if again.cached else again.because
        text = f"the second build did not find the engine of {precision}: {why}"
        return Trial(name=name, outcome=Outcome.FAILED, text=text, engine=again)

    def _trtexec(self, session: BoardSession) -> Trial:
        """The same engine timed by NVIDIA's own program: told, not judged."""
        name = "tensorrt trtexec"
        precision = self._first()
        if precision is None:
            return _nothing(name)
        taken = measured(session, self._specimen(precision, trtexec="auto"), short=True)
        theirs = taken.engine.trtexec if taken.engine is not None else None
        if theirs is None:
            why = taken.engine.trtexec_reason if taken.engine is not None else "no engine was told of"
            return Trial(name=name, outcome=Outcome.SKIPPED, text=f"no times: {why}", measurement=taken)
        ours = "not known" if theirs.ours_p50_ms is None else f"{theirs.ours_p50_ms:.3f} ms"
        text = f"it takes {theirs.p50_ms:.3f} ms for the engine of {precision}, by the GPU's clock; ours {ours}"
        return Trial(name=name, outcome=Outcome.OK, text=text, measurement=taken)

    def _graph(self, session: BoardSession) -> Trial:
        name = "tensorrt CUDA graph"
        # pycuda, which is taken first, records none.
        able = next((one.name for one in self._providers(session) if one.works and one.graphs), None)
        if able is None:
            return Trial(name=name, outcome=Outcome.SKIPPED, text="not tried: no CUDA provider here records graphs")
        return self._other_way(session, name, {"cuda_graph": True, "cuda": able})

    def _provider(self, provider: str) -> Callable[[BoardSession], Trial]:
        name = f"tensorrt by {provider}"

        def tried(session: BoardSession) -> Trial:
            found = next((one for one in self._providers(session) if one.name == provider), None)
            if found is None or found.missing:
                why = found.missing if found is not None else "the board does not tell of it"
                return Trial(name=name, outcome=Outcome.SKIPPED, text=f"not there: {why}")
            if found.error:
                return Trial(name=name, outcome=Outcome.FAILED, text=f"{provider} is there and fails: {found.error}")
            return self._other_way(session, name, {"cuda": provider})

        return tried

    def _providers(self, session: BoardSession) -> tuple[Provider, ...]:
        """What the board tells of them; asked once."""
        if not self._known:
            self._known = providers(session)
        return self._known

    def _other_way(self, session: BoardSession, name: str, options: dict[str, Any]) -> Trial:
        """The engine that is there, run otherwise: its answers must be the same."""
        precision = self._first()
        if precision is None:
            return _nothing(name)
        one, before = self._specimen(precision, **options), self._taken[precision]
        taken = measured(session, one, short=True)
        bits, off = taken.outputs_sha256 == before.outputs_sha256, _difference(taken, before)
        same = bits or (off is not None and off <= _SAME)
        how = "the same bits" if bits else f"a difference of {off:.1e}" if off is not None else "no numbers"
        found = judged(name, precision, one, taken, self._compute)
        notes = "; ".join(note for note in (taken.engine.notes if taken.engine else ()) if note.startswith("no CUDA"))
        text = f"{how} as {precision} without it; {found.text}" + (f"; {notes}" if notes else "")
        if notes:
            return replace(found, outcome=Outcome.SKIPPED, text=text)
        if found.outcome is Outcome.OK and not same:
            return replace(found, outcome=Outcome.FAILED, text=f"NOT THE SAME: {text}")
        return replace(found, text=text)

    def _dla(self, session: BoardSession) -> Trial:
        """What a DLA makes of the float16 network. That it makes nothing is a finding; wrong answers are a failure."""
        name = "tensorrt DLA"
        one = self._specimen("float16", dla_core=0)
        try:
            return self._try_dla(session, name, one)
        except BuildRefused as refused:
            if refused.code == "no-dla":
                return Trial(name=name, outcome=Outcome.SKIPPED, text=refused.what)
            self._fetched.failed_build(session, name)
            return Trial(name=name, outcome=Outcome.SKIPPED, text=f"a finding, no failure: {refused.what}")
        except BoardError as error:
            if error.may_pass:
                raise
            return Trial(name=name, outcome=Outcome.SKIPPED, text=f"a finding, no failure: {error.what}")

    def _try_dla(self, session: BoardSession, name: str, one: Specimen) -> Trial:
        built = session.build(one.artifact)
        self._fetched.engine(session, name, built.key)
        found = judged(name, "float16", one, measured(session, one, short=True), self._compute)
        notes = "; ".join(note for note in built.notes if note.startswith("DLA"))
        return replace(found, text="; ".join(filter(None, (found.text, notes))))

    def _specimen(self, precision: str, **options: Any) -> Specimen:
        found = specimen(f"tensorrt-{'typed' if self._reads.typed else 'weak'}-{precision}")
        # trtexec would time every engine once more.
        trtexec = "auto" if self._alone else "never"
        build = {**found.artifact.build, "trtexec": trtexec, engines.TIMEOUT: _BUILD_S, **options}
        return replace(found, artifact=replace(found.artifact, build=build))

    def _first(self) -> str | None:
        return next(iter(self._taken), None)


def _difference(found: Measurement, before: Measurement) -> float | None:
    if found.outputs is None or before.outputs is None:
        return None
    return deviation(found.outputs[0], before.outputs[0]).share


def _nothing(name: str) -> Trial:
    return Trial(name=name, outcome=Outcome.SKIPPED, text="not tried: no engine ran")
