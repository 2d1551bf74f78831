"""Raw latency samples of a run, read back for the plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgesmith.result import DeviceResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class NoSamples(Exception):
    """The samples cannot be shown; the text says why."""


def read_samples(record: DeviceResult, run_dir: Path) -> NDArray[np.float64]:
    """The timed runs of one row, sorted, in milliseconds: float64 [n].

    Raises:
        NoSamples: none were taken, the file is gone or is no list of times.
    """
    import numpy as np

    latency = record.latency_ms
    if latency is None:
        raise NoSamples(record.latency_ms_reason or "nothing was timed")
    if latency.samples_path is None:
        raise NoSamples("the raw samples were not kept")
    root = run_dir.resolve()
    path = (root / latency.samples_path).resolve()
    # A result.json may come from anywhere: it names files of its own run folder only.
    if not path.is_relative_to(root):
        raise NoSamples(f"{latency.samples_path} lies outside the run folder")
    try:
        samples = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise NoSamples(f"{latency.samples_path} is not in the run folder") from None
    except (OSError, ValueError, EOFError) as error:
        raise NoSamples(f"{latency.samples_path} cannot be read: {error}") from None
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype.kind not in "iu" or not samples.size:
        raise NoSamples(f"{latency.samples_path} is not a list of nanoseconds")
    if samples.min() <= 0:
        raise NoSamples(f"{latency.samples_path} holds times that are not above zero")
    return np.sort(samples.astype(np.float64) / 1e6)
