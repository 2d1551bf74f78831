"""`edgesmith devices engines`: what a board has built and keeps, and room made there. Parse, call, print."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesmith.cli_options import DevicesFile, Json, Quiet, print_json

if TYPE_CHECKING:
    from device_tests.kept_engines import KeptEngine, KeptEngines, Removed


def engines(
    name: Annotated[str, typer.Argument(help="A device of the inventory.")],
    remove: Annotated[
        list[str] | None, typer.Option(help="Remove this one, by its key or the beginning of it; repeat.")
    ] = None,
    remove_all: Annotated[bool, typer.Option("--remove-all", help="Remove all of them.")] = False,
    remove_stale: Annotated[
        bool, typer.Option("--remove-stale", help="Remove those that the board cannot use any more.")
    ] = False,
    wait: Annotated[str, typer.Option(help="To remove: how long to wait for a board that somebody else has.")] = "1m",
    runs_dir: Annotated[Path, typer.Option(help="Run folders, which tell what a network is called.")] = Path("runs"),
    devices_file: DevicesFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The TensorRT engines that a board keeps; removes some. What is needed again is built again."""
    from device_tests import lease as leases
    from device_tests.inventory import find_inventory, load_inventory
    from device_tests.kept_engines import Removed, list_engines, remove_engines
    from device_tests.session import BoardSession
    from edgesmith.durations import parse_duration
    from edgesmith.report.console import ConsoleProgress
    from edgesmith.types import LeaseRequest

    device = load_inventory(devices_file or find_inventory(None)).get(name)
    removes = bool(remove or remove_all or remove_stale)
    wait_s = parse_duration(wait, option="--wait")
    request = LeaseRequest(
        owner=leases.owner(), run_id="remove-engines", token=leases.new_token(), wait_s=wait_s if removes else 0.0
    )
    progress = ConsoleProgress(quiet=quiet or as_json)
    with (
        tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch,
        BoardSession(
            device, local_root=Path(scratch), progress=progress, lease=request if removes else None
        ) as session,
    ):
        if removes:
            found = remove_engines(session, remove or (), everything=remove_all, stale=remove_stale)
        else:
            found = Removed(left=list_engines(session))
    if as_json:
        gone = [one.key for one in found.gone]
        print_json({**found.left.as_dict(), "removed": gone, "freed_bytes": found.freed_bytes})
        return
    for line in _lines(found, _networks(runs_dir), removes=removes):
        typer.echo(line)


def _lines(found: Removed, networks: Mapping[str, str], *, removes: bool) -> Iterator[str]:
    from edgesmith.report.figures import byte_size

    kept = found.left
    for one in found.gone:
        yield f"removed {one.short_key} ({networks.get(one.onnx_sha256 or '', one.network)})"
    if removes:
        what = f"{_count(len(found.gone))} removed, {byte_size(found.freed_bytes)} freed" if found.gone else ""
        yield f"{kept.device}: {what or 'nothing was removed'}"
    if kept.engines:
        yield from _table(kept, networks)
    yield (
        f"{kept.device} keeps {_count(len(kept.engines))}, {byte_size(kept.size_bytes)}; "
        f"{byte_size(kept.free_bytes)} of its disk are free"
        if kept.engines
        else f"{kept.device} keeps no engines; {byte_size(kept.free_bytes)} of its disk are free"
    )


def _table(kept: KeptEngines, networks: Mapping[str, str]) -> Iterator[str]:
    head = ("key", "network", "TensorRT", "precision", "size", "built", "")
    rows = [head, *(_row(one, networks) for one in kept.engines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(one: KeptEngine, networks: Mapping[str, str]) -> tuple[str, ...]:
    from edgesmith.durations import show_duration
    from edgesmith.report.figures import byte_size

    built = f"{show_duration(one.age_s)} ago" if one.age_s is not None else one.built_at or "unknown"
    network = networks.get(one.onnx_sha256 or "", one.network)
    stale = f"stale: {one.stale}" if one.stale else ""
    return (one.short_key, network, one.tensorrt or "-", one.computes, byte_size(one.size_bytes), built, stale)


def _count(engines: int) -> str:
    return f"{engines} engine{'' if engines == 1 else 's'}"


def _networks(runs_dir: Path) -> dict[str, str]:
    """sha256 of a file -> model and variant, by the run folders here; the newest run has the word.

    A run that cannot be read tells nothing: the hash is shown then.
    """
    found: dict[str, str] = {}
    for path in sorted(runs_dir.glob("*/result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            for row in result["results"]:
                if row["artifact"]:
                    found[row["artifact"]["sha256"]] = f"{Path(result['model']).name} {row['variant']}"
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
