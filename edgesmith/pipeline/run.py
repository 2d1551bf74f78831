"""The whole way, in order: load -> compress -> compile -> deploy -> measure -> judge -> report."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgesmith.config import LoadedConfig
from edgesmith.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    ConfigError,
    EdgesmithError,
    InfrastructureError,
    InternalError,
    Terminated,
)
from edgesmith.files import sha256_bytes, write_json
from edgesmith.pipeline import assemble, run_folder, stages
from edgesmith.pipeline.build import Built
from edgesmith.pipeline.compress import refuse_early
from edgesmith.pipeline.fleet import make_fleet, measure_boards, meet_boards
from edgesmith.pipeline.host import Outputs, host_outputs
from edgesmith.pipeline.options import OPTIONS, RunOptions, kept_options, resumed_options
from edgesmith.pipeline.prepare import Prepared, prepare
from edgesmith.pipeline.ready_built import take_ready
from edgesmith.pipeline.recorder import Recorder
from edgesmith.pipeline.replay import Replay
from edgesmith.pipeline.stages import Stage
from edgesmith.pipeline.store import Store
from edgesmith.pipeline.workspace import Workspace
from edgesmith.progress import Progress
from edgesmith.report import write_reports
from edgesmith.result import Result
from edgesmith.types import Device


def run(loaded: LoadedConfig, options: RunOptions, progress: Progress) -> tuple[Result, Path]:
    """Does the whole way and writes `runs/<id>/`.

    Returns:
        The finished document and the run folder. A broken budget is a verdict in it, not an exception.

    Raises:
        EdgesmithError: the run could not come to a verdict; the run folder says so too.
        KeyboardInterrupt, Terminated: what was done is kept; `--resume` goes on.
    """
    folder, options = _open_folder(loaded, options)
    loaded = loaded.measured_in(options.power_mode, lock_clocks=options.lock_clocks)
    redo = frozenset((*options.redo, *(("measurement",) if options.remeasure else ())))
    store = Store(options.runs_dir / ".cache", redo)
    replay_options = [*(["--allow-synthetic"] if options.allow_synthetic else []), *options.measuring]
    replay = Replay(folder, loaded.path, options.runs_dir, tuple(replay_options))
    recorder = Recorder(loaded, folder)
    stage = Stage(loaded, recorder, Workspace(store=store, replay=replay, progress=progress))
    with _kept_readable(recorder, folder):
        _whole_way(stage, options)
    write_reports(recorder.result, folder.path)
    return recorder.result, folder.path


def _open_folder(loaded: LoadedConfig, options: RunOptions) -> tuple[run_folder.RunFolder, RunOptions]:
    """A new run folder, or the one to go on in, with the options that its run was started with."""
    if not options.resume:
        folder = run_folder.create(options.runs_dir)
        write_json(folder.path / OPTIONS, kept_options(options))
        return folder, options
    folder, before = run_folder.reopen(options.runs_dir, options.run_id)
    if before.config_sha256 != sha256_bytes(loaded.path.read_bytes()):
        raise ConfigError(
            f"{loaded.path}: changed since run {folder.run_id} was started; going on would mix two configs.",
            next_step="Start a new run without --resume: unchanged steps are taken from the store all the same.",
        )
    return folder, resumed_options(options, folder.path / OPTIONS)


@contextlib.contextmanager
def _kept_readable(recorder: Recorder, folder: run_folder.RunFolder) -> Iterator[None]:
    """Whatever ends the run, its folder says so and holds a report."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        code, how = (
            (EXIT_TERMINATED, "terminated") if isinstance(stop, Terminated) else (EXIT_INTERRUPTED, "interrupted")
        )
        recorder.stop("interrupted", code, f"{how}; `edgesmith run --resume` goes on")
        write_reports(recorder.result, folder.path)
        raise
    except EdgesmithError as error:
        recorder.fail(error)
        write_reports(recorder.result, folder.path)
        raise
    except OSError as error:
        place = error.filename or folder.path
        full = InfrastructureError(
            f"{place}: {error.strerror or error}.",
            next_step="Free some space or choose another place with --runs-dir; then `edgesmith run --resume`.",
        )
        # The disk that refused may refuse this, too; the error itself is told anyway.
        with contextlib.suppress(OSError):
            recorder.fail(full)
        raise full from error
    except Exception as error:
        folder.log(traceback.format_exc())
        internal = InternalError(
            f"a defect of edgesmith: {type(error).__name__}: {error}.",
            next_step=f"Please report it with the folder {folder.path}; run.log in it has the details.",
        )
        recorder.fail(internal)
        raise internal from error


def _whole_way(stage: Stage, options: RunOptions) -> None:
    recorder = stage.recorder
    devices = stages.devices(stage.loaded, options.devices, options.inventory)
    prepared = prepare(stage.loaded, stage.work.store, stage.work.progress, allow_synthetic=options.allow_synthetic)
    stages.record_inputs(prepared, recorder)
    refuse_early(prepared, stage.work)
    fleet = make_fleet(recorder.folder, stage.work, options.lease_wait_s)
    meet_boards(stage, fleet, devices, prepared)

    reference, built = (take_ready if prepared.ready else _make)(stage, devices, prepared)
    stages.record_settings(stage, built)
    measure_boards(stage, fleet, devices, built, prepared, reference)
    recorder.add_findings(assemble.fastest_passing(recorder.result.results))
    recorder.finish(*assemble.overall(recorder.result.results))


def _make(
    stage: Stage, devices: Sequence[Device], prepared: Prepared
) -> tuple[Outputs, Mapping[str, tuple[Built, ...]]]:
    """Compresses and compiles: the model's own outputs on this machine, and for each device its artifacts."""
    reference = host_outputs(prepared.model, prepared.evaluation, stage.work)
    stages.hint_at_wrong_range(stage, prepared, reference)
    steps = stages.compress_steps(stage, prepared, reference)
    return reference, stages.compile_all(stage, devices, prepared, steps)
