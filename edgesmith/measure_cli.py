"""`edgesmith measure` on the command line."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesmith.cli_options import Json, LockClocks, Quiet, print_json
from edgesmith.errors import ConfigError

if TYPE_CHECKING:
    from edgesmith.config import TensorRt


class Sweep(enum.StrEnum):
    """What can be gone through."""

    POWER_MODES = "power-modes"


Modes = Annotated[
    list[str] | None,
    typer.Option("--power-mode", help="Of a Jetson, by name: set for the measurement, put back after it. With --sweep: "
                 "only these; repeat."),
]  # fmt: skip


def measure(
    artifact: Annotated[Path, typer.Argument(help="A .tflite or .onnx file.")],
    data: Annotated[Path, typer.Option(help="Real samples: an .npz with x (and y), or an image folder.")],
    device: Annotated[list[str] | None, typer.Option("--device", "-d", help="Default: local; repeat.")] = None,
    devices_file: Annotated[
        Path | None, typer.Option(help="A devices.yaml; default: the one here, then the user's.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where what is sent is kept.")] = Path("runs"),
    metric: Annotated[str, typer.Option(help="What accuracy means.")] = "top1",
    samples: Annotated[int | None, typer.Option(help="Take only this many, spread over the classes.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    power_mode: Modes = None,
    lock_clocks: LockClocks = False,
    tensorrt: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE as under `tensorrt:` of a config: an .onnx is TensorRT's then; repeat."),
    ] = None,
    sweep: Annotated[
        Sweep | None,
        typer.Option(
            help="Measure once in each power mode that the board has. Modes that take a restart of "
            "the board are left out."
        ),
    ] = None,
    lease_wait: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for a board that somebody else holds.")
    ] = 600.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measures one compiled model on devices: latency, energy by its sensors, accuracy where there are labels."""
    from edgesmith.measure_one import measure_artifact
    from edgesmith.power_sweep import ModeSweep, table
    from edgesmith.report.console import ConsoleProgress
    from edgesmith.types import PowerRequest

    modes = tuple(dict.fromkeys(power_mode or ()))
    if sweep is None and len(modes) > 1:
        raise ConfigError(f"--power-mode: {len(modes)} modes.", next_step="Several of them take --sweep power-modes.")
    rows = measure_artifact(
        artifact,
        data,
        devices=tuple(device or ("local",)),
        inventory=devices_file,
        runs_dir=runs_dir,
        metric=metric,
        samples=samples,
        threads=threads,
        power=PowerRequest(mode=modes[0] if modes and sweep is None else None, lock_clocks=lock_clocks),
        sweep=None if sweep is None else ModeSweep(modes),
        tensorrt=_settings(tensorrt) if tensorrt else None,
        lease_wait_s=lease_wait,
        progress=ConsoleProgress(quiet=quiet or as_json),
    )
    if as_json:
        print_json([row.as_dict() for row in rows])
        return
    for line in [row.text for row in rows] if sweep is None else table(rows):
        typer.echo(line)


def _settings(options: list[str]) -> TensorRt:
    """What `--tensorrt` asks for.

    Raises:
        ConfigError: no KEY=VALUE, an unknown key, a wrong value; or an operator set, which the file has already.
    """
    from edgesmith import yaml_lines
    from edgesmith.config import TensorRt

    pairs = [option.partition("=") for option in options]
    for option, (_, equals, _value) in zip(options, pairs, strict=True):
        if not equals:
            raise ConfigError(f"--tensorrt {option}: no KEY=VALUE.", next_step="For example: cuda_graph=true.")
    text = "\n".join(f"{key}: {value}" for key, _, value in pairs)
    settings = yaml_lines.parse(Path("--tensorrt"), text, what="option").check(TensorRt)
    if settings.opset is not None:
        raise ConfigError("--tensorrt opset: the file is written already, in its own operator set.")
    return settings
