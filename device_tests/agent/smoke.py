"""A release's smoke check: known inputs through the runtime in a child, outputs within tolerance, latency sane."""

import os

from device_tests.agent import timing
from device_tests.agent.measuring import XNNPACK_LOG
from device_tests.agent.supervisor import Child

WARM_UP_S = 3.0


def smoke(folder, manifest, scratch, deadline, event):
    """Runs the check that a release carries in its manifest.

    Args:
        folder: where the release is opened: its own folder, or `current`.
        manifest: its own.
        scratch: an empty folder, for outputs.
        deadline: for all of it.
        event: progress.

    Returns:
        {"passed", "why", "p50_ns", "runs", "runner", "differences": per output {"largest", "tolerance", "unit"}}.

    Raises:
        Refusal: the runtime is missing, refused the model, crashed or hung.
    """
    check = manifest["smoke"]
    with Child(watch_for=XNNPACK_LOG) as child:
        params = {
            "runner": manifest["runner"],
            "path": os.path.join(folder, manifest["model"]),
            "threads": manifest["threads"],
            "options": _options(folder, manifest),
            "inputs": os.path.join(folder, check["inputs"]),
            "inputs_dtype": check["inputs_dtype"],
        }
        loaded = child.call("load", params, deadline)
        child.call("warm_up", {"max_s": WARM_UP_S}, deadline)
        timed = child.call("window", {"runs": check["runs"], "seconds": 0.0}, deadline)["ns"]
        found = child.call("outputs", {"folder": scratch}, deadline, event)["files"]
        child.finish()
        runner = loaded["name"] + (" (XNNPACK)" if child.log.watched else "")
    p50_ns = timing.median(timed)
    differences, whys = _compare([file["path"] for file in found], folder, check["outputs"])
    limit_ms = check["p50_limit_ms"]
    if p50_ns > limit_ms * 1e6:
        whys.append("its latency is not sane: p50 %.3f ms, at most %.3f ms expected" % (p50_ns / 1e6, limit_ms))
    return {
        "passed": not whys,
        "why": "; ".join(whys),
        "p50_ns": p50_ns,
        "runs": len(timed),
        "runner": runner,
        "differences": differences,
    }


def _options(folder, manifest):
    """Of the runner. An engine is the release's own: the board's cache may have lost it, or hold another."""
    options = dict(manifest.get("build") or {})
    return options if manifest.get("engine") is None else dict(options, engine_folder=folder)


def _compare(found, folder, expected):
    """(per output its largest difference, what is wrong)."""
    import numpy as np

    if len(found) != len(expected):
        return [], ["it has %d outputs, %d were expected" % (len(found), len(expected))]
    differences, whys = [], []
    for index, (path, output) in enumerate(zip(found, expected)):
        have = np.load(path, allow_pickle=False)
        want = np.load(os.path.join(folder, output["file"]), allow_pickle=False)
        if have.shape != want.shape or have.dtype != want.dtype:
            whys.append(
                "output %d is %s %s, expected %s %s"
                % (index, have.dtype, list(have.shape), want.dtype, list(want.shape))
            )
            continue
        # Unsigned and 8-bit integers would wrap around when subtracted.
        largest = float(np.max(np.abs(have.astype(np.float64) - want.astype(np.float64)))) if have.size else 0.0
        finite = bool(np.isfinite(largest))
        unit = "steps" if have.dtype.kind in "iub" else "absolute"
        differences.append({"largest": largest if finite else None, "tolerance": output["tolerance"], "unit": unit})
        if not finite:
            whys.append("output %d holds values that are not finite" % index)
        elif largest > output["tolerance"]:
            whys.append(
                "output %d is off by up to %g (%s), at most %g is allowed" % (index, largest, unit, output["tolerance"])
            )
    return differences, whys
