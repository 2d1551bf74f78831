"""Runs an artifact in a process that has never seen its model: what works there works from the file alone.

`python -m targets.fresh TARGET ARTIFACT INPUT.npy OUTPUT.npz` is the inside; `outputs` is the way in.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import targets
from edgesmith import errors

TIMEOUT_SECONDS = 600.0
_MARK = "edgesmith-error: "


def outputs(target: str, path: Path, x: NDArray[Any], timeout_s: float = TIMEOUT_SECONDS) -> tuple[NDArray[Any], ...]:
    """`Target.outputs`, computed in a fresh process.

    Args:
        target: its key.
        path: the artifact.
        x: [N, ...], in the dtype of the model it was made from.
        timeout_s: the process is killed after this.

    Raises:
        ModelError: the runtime refuses the file.
        InfrastructureError: the process died or hung: a crash of the runtime.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder) / "x.npy", Path(folder) / "y.npz"
        np.save(given, x, allow_pickle=False)
        argv = [sys.executable, "-m", "targets.fresh", target, str(path.resolve()), str(given), str(taken)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
        except subprocess.TimeoutExpired:
            raise errors.DeadlineExceeded(
                f"{path}: {target} did not finish {len(x)} samples in {timeout_s:g} s."
            ) from None
        if done.returncode != 0:
            raise _what_happened(target, path, done)
        with np.load(taken, allow_pickle=False) as arrays:
            return tuple(arrays[f"arr_{index}"] for index in range(len(arrays.files)))


def _what_happened(target: str, path: Path, done: subprocess.CompletedProcess[str]) -> errors.EdgesmithError:
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            told = json.loads(line.removeprefix(_MARK))
            kind: type[errors.EdgesmithError] = getattr(errors, told["kind"])
            return kind(told["what"], next_step=told["next_step"])
    if done.returncode < 0:
        how = f"was ended by {signal.Signals(-done.returncode).name}"
    else:
        how = f"exited with {done.returncode}"
    return errors.InfrastructureError(
        f"{path}: {target} {how} in a fresh process. It said: {done.stderr.strip()[-500:] or 'nothing'}",
        next_step="Check that the runtime is installed whole: `edgesmith doctor`.",
    )


def main(argv: list[str]) -> int:
    """The inside of the fresh process."""
    name, path, given, taken = argv
    try:
        found = targets.get(name).outputs(Path(path), np.load(given, allow_pickle=False))
    except errors.EdgesmithError as error:
        told = {"kind": type(error).__name__, "what": error.what, "next_step": error.next_step}
        sys.stdout.write(f"{_MARK}{json.dumps(told)}\n")
        return error.exit_code
    np.savez(taken, *found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
