"""How much memory a build may take, so that a board of 4 or 8 GB neither swaps itself to death nor kills the build.

On a Jetson the GPU has no memory of its own: what the builder takes for kernels, the system lacks.
"""

import re

from device_tests.agent import environment

MIB = 1 << 20
GIB = 1 << 30

# Assumptions, and none of them measured on a board by us: what CUDA, TensorRT and its kernels take before a build, and
# what shall stay free beside it.
LIBRARIES_BYTES = GIB
ROOM_BYTES = 512 * MIB
LARGEST_WORKSPACE = 4 * GIB
SMALLEST_WORKSPACE = 16 * MIB
LOW_WORKSPACE = 128 * MIB
LOW_AVAILABLE = 2 * GIB
LOW_LEVEL = 1
WANTED_SWAP = 4 * GIB


def plan(root, device_free_bytes, model_bytes, asked_workspace=None, asked_level=None, low=None):
    """The limits of one build.

    Args:
        root: the board.
        device_free_bytes: as CUDA tells it; None where it does not.
        model_bytes: of the ONNX file.
        asked_workspace: bytes; None to have it chosen here.
        asked_level: of optimization; None for TensorRT's own.
        low: True for the plan of a board that is short of memory, False for the other; None to find out.

    Returns:
        {"low", "workspace_bytes", "workspace_asked", "most_workspace_bytes", "optimization_level", "level_asked",
        "total_bytes", "available_bytes", "device_free_bytes", "swap_bytes", "swap_free_bytes", "disk_swap_bytes",
        "notes": texts for people}.
    """
    found = _memory(root, device_free_bytes)
    free = _least(found["available_bytes"], device_free_bytes)
    needed = LIBRARIES_BYTES + 4 * model_bytes
    if low is None:
        low = free is not None and free < max(LOW_AVAILABLE, needed + ROOM_BYTES)
    most = _workspace(free, needed)
    workspace, level, notes = asked_workspace, asked_level, []
    if workspace is None:
        workspace = min(LOW_WORKSPACE, most) if low else most
    if low and level is None:
        level = LOW_LEVEL
    if low:
        told = "an unknown amount of" if free is None else "%d MB of" % (free // MIB)
        notes.append("%s memory is free: built with little workspace and a short search for kernels" % told)
        notes += _swap_notes(found)
    return dict(
        found,
        low=low,
        workspace_bytes=int(workspace),
        workspace_asked=asked_workspace is not None,
        most_workspace_bytes=most,
        optimization_level=level,
        level_asked=asked_level is not None,
        notes=notes,
    )


def why_again(record, options):
    """Why an engine that is there is to be built again: its limit of workspace is not the one that is asked for.

    That decides nothing of what it is valid for, but whoever sets a limit, or lifts it, wants to see what comes of it.

    Args:
        record: of the engine; None where there is none.
        options: "workspace_bytes".

    Returns:
        Text, or None.
    """
    limits = (record or {}).get("memory")
    if limits is None:
        return None
    had, asked = limits["workspace_bytes"] if limits["workspace_asked"] else None, options.get("workspace_bytes")
    if had == asked:
        return None
    told = ["what the board had free" if one is None else "%d MB" % (one // MIB) for one in (had, asked)]
    return "it was built with %s as workspace, and is asked for with %s" % tuple(told)


def after(limits, code, has_levels):
    """The limits to try next, once a build by `limits` has failed for want of memory; None where none is left.

    Args:
        limits: of `plan`.
        code: of the refusal: "not-enough-memory" or "not-enough-workspace".
        has_levels: this TensorRT has optimization levels.
    """
    if code == "not-enough-workspace":
        if limits["workspace_asked"] or limits["workspace_bytes"] >= limits["most_workspace_bytes"]:
            return None
        note = "%d MB of workspace were not enough" % (limits["workspace_bytes"] // MIB)
        return _changed(limits, note, workspace_bytes=limits["most_workspace_bytes"])
    if code != "not-enough-memory":
        return None
    level = limits["optimization_level"]
    if not limits["low"]:
        workspace = limits["workspace_bytes"] if limits["workspace_asked"] else LOW_WORKSPACE
        note = "the first build ran out of memory: built with little workspace and a short search for kernels"
        lower = {"workspace_bytes": min(workspace, limits["workspace_bytes"])}
        return _changed(limits, note, low=True, optimization_level=LOW_LEVEL if level is None else level, **lower)
    if has_levels and level == LOW_LEVEL and not limits["level_asked"]:
        return _changed(limits, "that ran out of memory, too: built without any search", optimization_level=0)
    return None


def _changed(limits, note, **fields):
    return dict(limits, notes=[*limits["notes"], note], **fields)


def _memory(root, device_free_bytes):
    swap = environment.meminfo(root, "SwapTotal") or 0
    return {
        "total_bytes": environment.meminfo(root, "MemTotal"),
        "available_bytes": environment.meminfo(root, "MemAvailable"),
        "device_free_bytes": device_free_bytes,
        "swap_bytes": swap,
        "swap_free_bytes": environment.meminfo(root, "SwapFree") or 0,
        "disk_swap_bytes": max(0, swap - _zram_bytes(root)),
    }


def _zram_bytes(root):
    """Swap that is memory itself, compressed: every Jetson has it, and it is no room for a build."""
    lines = (root.text("/proc/swaps") or "").splitlines()[1:]
    rows = [line.split() for line in lines if re.match(r"/dev/zram\d", line)]
    return sum(int(row[2]) * 1024 for row in rows if len(row) > 2 and row[2].isdigit())


def _workspace(free, needed):
    """The most to give: half of what is left once TensorRT itself is there, within bounds."""
    if free is None:
        return GIB
    half = (free - needed - ROOM_BYTES) // 2
    return max(SMALLEST_WORKSPACE, min(LARGEST_WORKSPACE, half)) // MIB * MIB


def _swap_notes(found):
    if found["disk_swap_bytes"] >= WANTED_SWAP:
        return []
    return [
        "%d MB of swap is on disk; %d MB let larger networks build: "
        "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile"
        % (found["disk_swap_bytes"] // MIB, WANTED_SWAP // MIB)
    ]


def _least(*values):
    known = [value for value in values if value is not None]
    return min(known) if known else None
