"""What was accepted: one small file for each model, device class and target, kept in the user's repository.

    baselines/<lineage>/<device class>.<target>.json
    baselines/<lineage>/artifacts/<sha256>.<format>

A line per figure, in a fixed order, so that accepting anew is a diff that can be reviewed. The artifact is kept beside,
since only the file itself can be measured again in turns with a new one; without it recorded figures have to do.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from edgesmith.errors import ConfigError
from edgesmith.files import write_text
from edgesmith.result import AccuracyRecord, Record
from edgesmith.types import Validity

FORMAT: Literal["edgesmith baseline"] = "edgesmith baseline"
VERSION: Literal[1] = 1
ARTIFACTS = "artifacts"


class AcceptedArtifact(Record):
    """The file that was measured."""

    sha256: str
    format: str
    precision: str
    size_bytes: int


class Surroundings(Record):
    """What a latency depends on besides the artifact. Another one is no regression."""

    runtime: str
    engine: str | None
    system: str
    kernel: str
    governor: str | None
    power_mode: str | None
    threads: int

    def differences(self, now: Surroundings) -> tuple[str, ...]:
        """What is not the same now: "runtime: ai-edge-litert 2.2.0 -> ai-edge-litert 2.3.0"."""
        old, new = self.model_dump(), now.model_dump()
        return tuple(f"{name}: {old[name]} -> {new[name]}" for name in old if old[name] != new[name])


class AcceptedLatency(Record):
    """Milliseconds, each with its 95 % interval; null where the runs were too few."""

    p50: float
    p50_low: float | None
    p50_high: float | None
    p95: float | None
    p95_low: float | None
    p95_high: float | None
    runs: int


class Baseline(Record):
    """The whole file."""

    format: Literal["edgesmith baseline"] = FORMAT
    version: Literal[1] = VERSION
    lineage: str
    device_class: str
    device: str
    target: str
    artifact: AcceptedArtifact
    surroundings: Surroundings
    latency_ms: AcceptedLatency | None
    latency_ms_reason: str | None
    accuracy: AccuracyRecord | None
    agreement: float | None
    peak_rss_bytes: int | None
    energy_mj: float | None
    validity: Validity
    run_id: str
    measured_at: str | None
    git_commit: str | None

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{slug(self.device_class)}.{slug(self.target)}.json"


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def folder_of(baselines: Path, lineage: str) -> Path:
    """Where a model's baselines are."""
    return baselines / slug(lineage)


def artifact_path(baselines: Path, baseline: Baseline) -> Path:
    """Where the accepted artifact is kept, if it is."""
    accepted = baseline.artifact
    return folder_of(baselines, baseline.lineage) / ARTIFACTS / f"{accepted.sha256}.{slug(accepted.format)}"


def read_all(baselines: Path, lineage: str) -> dict[str, Baseline]:
    """All baselines of a model, by file name.

    Raises:
        ConfigError: a file that is none, or whose own run may not be trusted.
    """
    folder = folder_of(baselines, lineage)
    return {path.name: read(path) for path in sorted(folder.glob("*.json"))} if folder.is_dir() else {}


def read(path: Path) -> Baseline:
    """Reads one file.

    Raises:
        ConfigError: it is none, or its own measurement was not valid.
    """
    try:
        found = Baseline.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path} is no baseline: {place}: {first['msg']}.",
            next_step="Restore it, or remove it and accept anew: `edgesmith baseline accept`.",
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    if found.latency_ms is not None and found.validity not in (Validity.VALID, Validity.UNKNOWN):
        raise ConfigError(
            f"{path}: its own latency was measured while the board was {found.validity.value}: nothing can be held "
            "against it.",
            next_step="Accept a run that is valid: `edgesmith baseline accept`.",
        )
    return found


def write(baselines: Path, baseline: Baseline) -> Path:
    """Writes one file; returns its path."""
    path = folder_of(baselines, baseline.lineage) / baseline.name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, baseline.model_dump_json(indent=2) + "\n")
    return path
