"""The growing `result.json` of a run: written whenever something is known, so that it can be read at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from edgesmith.config import LoadedConfig
from edgesmith.errors import EdgesmithError
from edgesmith.files import gzip_size, sha256_bytes, write_text
from edgesmith.pipeline.compress import StepOutcome
from edgesmith.pipeline.facts import ModelFacts
from edgesmith.pipeline.run_folder import RunFolder, utc_now
from edgesmith.result import AccuracyRecord, DataRecord, FindingRecord, Result, StepRecord
from edgesmith.toolchain import versions
from edgesmith.types import Artifact, Comparison, SampleSet, StepSpec, Verdict
from optimizer.recipes import expanded


class Recorder:
    """Holds the document and rewrites it."""

    def __init__(self, loaded: LoadedConfig, folder: RunFolder) -> None:
        self.folder = folder
        text = resolved_yaml(loaded)
        write_text(folder.path / "config.yaml", text)
        self.result = Result(
            run_id=folder.run_id,
            state="running",
            verdict=None,
            verdict_reason="the run is not finished",
            exit_code=None,
            started_at=utc_now(),
            config_sha256=sha256_bytes(loaded.path.read_bytes()),
            config_path=str(loaded.path.resolve()),
            model=str(loaded.config.model),
            toolchain=versions(),
            recipe=expanded(loaded.config.recipe),
            budget=loaded.config.budget.model_dump(exclude_none=True),
            measure=loaded.config.measure.model_dump(exclude_none=True),
        )
        self.save()

    def save(self) -> None:
        """Writes what is known now."""
        self.folder.write_result(self.result)

    def update(self, **fields: Any) -> None:
        """Replaces fields of the document and writes it."""
        self.result = self.result.model_copy(update=fields)
        self.save()

    def add_findings(self, findings: Sequence[FindingRecord]) -> None:
        """Adds to what a reader should know about the whole run."""
        self.update(findings=(*self.result.findings, *findings))

    def add_work(self, *, reused: Sequence[str] = (), **more: int) -> None:
        """Counts what was really done."""
        work = self.result.work
        counted = {name: getattr(work, name) + value for name, value in more.items()}
        self.update(work=work.model_copy(update={**counted, "reused": (*work.reused, *reused)}))

    def finish(self, verdict: Verdict, exit_code: int, reason: str) -> None:
        """The run came to its end."""
        self.update(
            state="finished", verdict=verdict, verdict_reason=reason, exit_code=exit_code, finished_at=utc_now()
        )

    def stop(self, state: Literal["interrupted", "failed"], exit_code: int, reason: str) -> None:
        """The run was stopped before it could judge."""
        self.folder.log(f"{state}: {reason}")
        self.update(state=state, verdict=None, verdict_reason=reason, exit_code=exit_code, finished_at=utc_now())

    def fail(self, error: EdgesmithError) -> None:
        """The run met an error that ends it."""
        self.add_findings(
            [FindingRecord(severity="error", code=type(error).__name__, text=error.what, next_step=error.next_step)]
        )
        self.stop("failed", error.exit_code, error.what.splitlines()[0])


def resolved_yaml(loaded: LoadedConfig) -> str:
    """The config with all defaults filled in, for reading; a resume reads the user's own file."""
    import yaml

    head = f"# {loaded.path.resolve()} with every default filled in\n"
    return head + str(yaml.safe_dump(loaded.config.model_dump(mode="json"), sort_keys=False))


def data_record(samples: SampleSet) -> DataRecord:
    """A sample set as it stands in the document."""
    return DataRecord(
        role=samples.role,
        source=samples.source,
        n=len(samples),
        sha256=samples.sha256,
        synthetic=samples.synthetic,
    )


def step_record(
    outcome: StepOutcome,
    *,
    accuracy: AccuracyRecord,
    agreement: float | None,
    facts: ModelFacts,
) -> StepRecord:
    """A step that changed the model, as a row of the ablation."""
    model = outcome.model
    return StepRecord(
        name=outcome.label,
        params=dict(outcome.params),
        seconds=round(outcome.seconds, 3),
        cached=outcome.cached,
        size_bytes=model.path.stat().st_size,
        gzip_bytes=gzip_size(model.path),
        packed_bytes=facts.packed_bytes,
        packed_bytes_reason=facts.packed_bytes_reason,
        macs=model.macs,
        macs_reason=None if model.macs is not None else "the graph holds operations that cannot be counted",
        parameters=model.parameters,
        parameters_reason=None if model.parameters is not None else "they were not counted when the model was read",
        nonzero_parameters=facts.nonzero_parameters,
        sparsity=facts.sparsity,
        sparsity_reason=None if facts.sparsity is not None else "only Keras models have kernels to count in",
        accuracy=accuracy,
        agreement=agreement,
        agreement_reason=None if agreement is not None else "the outputs are no class scores",
        notes=outcome.notes,
    )


def compile_step_record(
    spec: StepSpec, artifact: Artifact, comparison: Comparison, seconds: float, *, cached: bool
) -> StepRecord:
    """The quantize step as one target made it: a row of the ablation."""
    counted_before = "the graph is the one of the step before"
    note = f"SQNR {comparison.sqnr_db:.1f} dB and agreement are against the model of the step before"
    note += f", over {comparison.n} samples, in a fresh process"
    return StepRecord(
        name=f"{spec.name} ({artifact.target})",
        params=dict(spec.params),
        seconds=round(seconds, 3),
        cached=cached,
        size_bytes=artifact.size_bytes,
        gzip_bytes=artifact.gzip_bytes,
        packed_bytes_reason="only Keras models can be packed",
        macs=None,
        macs_reason=counted_before,
        parameters=None,
        parameters_reason=counted_before,
        sparsity=artifact.sparsity,
        sparsity_reason=None if artifact.sparsity is not None else "the file's kernels could not be read",
        accuracy=None,
        accuracy_reason="measured on the boards, see the results",
        agreement=comparison.top1_agreement,
        agreement_reason=None if comparison.top1_agreement is not None else "the outputs are no class scores",
        notes=(note,),
    )
