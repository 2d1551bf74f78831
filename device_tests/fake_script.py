"""The script of a fake board: what it is, how long things take there, and what goes wrong.

    machine: aarch64                 # as `uname -m` says it
    model: Raspberry Pi 5 (scripted) # as the device tree would
    runners: [tflite, onnxruntime]   # the runtimes it has
    latency:                         # the first rule that fits an artifact; one without conditions fits all
      - {format: tflite, precision: int8, median_ms: 1.2, jitter: 0.02, peak_rss_bytes: 31000000}
      - {median_ms: 4.5}
    heat: {start_c: 48, rise_c_per_s: 0.5, throttles_at_c: 80, slowdown: 1.6}
    faults:                          # at: where, after: how often it goes well first, times: how often it strikes
      - {at: connect, kind: lost, times: 2}
      - {at: window, after: 3, kind: lost, times: 1}
    held: {owner: ann@lab, seconds: 20}   # somebody else has the board at first

Every figure comes from here, none from a clock, and the same script gives the same figures again. The outputs are
real: this machine's runtime computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgesmith import yaml_lines

Point = Literal["connect", "hello", "push", "measure", "load", "window"]
Kind = Literal[
    "lost", "hang", "refuse", "wrong-key", "no-python", "disk-full", "damaged", "crash", "out-of-memory", "killed"
]

POSSIBLE: Mapping[Point, tuple[Kind, ...]] = {
    "connect": ("lost", "refuse", "wrong-key"),
    "hello": ("lost", "hang", "no-python", "killed"),
    "push": ("lost", "disk-full", "damaged"),
    "measure": ("lost", "hang", "killed"),
    "load": ("lost", "hang", "killed", "refuse", "crash", "out-of-memory"),
    "window": ("lost", "hang", "killed", "crash", "out-of-memory"),
}
"""What can go wrong where. `load` and `window` come once for each artifact: its own runtime may crash there."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latency(_Part):
    """How long one run takes of the artifacts that fit all the conditions given."""

    sha256: str = Field(default="", pattern="^[0-9a-f]*$", description="The artifact's hash, or its beginning.")
    format: Literal["", "tflite", "onnx"] = ""
    precision: str = Field(
        default="", description="As reports show it: float32, int8, int8-float-io, float16, dynamic."
    )
    median_ms: float = Field(gt=0, le=600_000)
    jitter: float = Field(default=0.02, ge=0, le=2, description="Spread around the median: log-normal sigma.")
    peak_rss_bytes: int | None = Field(default=None, gt=0)


class Heat(_Part):
    """The processor warms up with every second of work and rests between two connections."""

    start_c: float = Field(default=45.0, ge=-40, le=150)
    rise_c_per_s: float = Field(default=0.0, ge=0, description="For each second of timed work.")
    throttles_at_c: float = Field(default=80.0, description="From here on it is slower, and says so.")
    slowdown: float = Field(default=1.5, ge=1, description="Factor on the latency while it throttles.")


class Fault(_Part):
    """One thing that goes wrong."""

    at: Point
    kind: Kind
    after: int = Field(default=0, ge=0, description="So often it goes well first.")
    times: int | None = Field(default=None, ge=1, description="So often it strikes; default: from then on, always.")
    until: Literal["", "reboot", "kill"] = Field(default="", description="A reboot, or ending a stale agent, mends it.")

    @model_validator(mode="after")
    def _can_happen(self) -> Self:
        if self.kind not in POSSIBLE[self.at]:
            raise ValueError(f"'{self.kind}' does not happen at '{self.at}'; there: {', '.join(POSSIBLE[self.at])}")
        return self


class Held(_Part):
    """Somebody else's lease of the board, from the first connection on."""

    owner: str = Field(default="somebody@elsewhere", min_length=1, max_length=200)
    run_id: str = Field(default="scripted", max_length=200)
    seconds: float = Field(gt=0, le=3600, description="Until it lapses; real seconds.")


class Script(_Part):
    """The whole file."""

    machine: str = "aarch64"
    model: str = "fake board"
    cpu: str | None = None
    cores: int = Field(default=4, ge=1)
    memory_bytes: int | None = Field(default=4 << 30, gt=0)
    system: str = "scripted"
    kernel: str = "scripted"
    libc: str | None = "glibc 2.36"
    python: str = Field(default="3.11.2", pattern=r"^3\.\d+(\.\d+)?$")
    runners: tuple[str, ...] = ("onnxruntime", "tflite")
    governor: str | None = "performance"
    clock_khz: int | None = Field(default=None, gt=0)
    load_1m: float | None = Field(default=0.0, ge=0)
    latency: tuple[Latency, ...] = Field(min_length=1)
    heat: Heat | None = None
    faults: tuple[Fault, ...] = ()
    held: Held | None = None
    seed: int = 0
    realtime: bool = Field(default=False, description="Take the time that the figures say, and hang for real.")


def load_script(path: Path) -> Script:
    """Reads and checks a script.

    Raises:
        ConfigError: not there, an unknown key, a wrong value; names file and line.
    """
    hint = "It is what `fake:` in devices.yaml names; examples/fake-board.yaml is one."
    return yaml_lines.read(path, what="fake board's script", hint=hint).check(Script)
