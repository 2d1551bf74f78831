"""Which options each version of trtexec knows, as far as edgesmith uses them or could by mistake.

Read in NVIDIA/TensorRT, samples/common/sampleOptions.cpp, of 8.0, 8.2, 8.4, 10.x and 11.1, in whole or in part; where a
version was not read, its neighbours' options are assumed. Of 10 and later it is not known whether --nvtxMode is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Version = tuple[int, int]

LAST = (99, 0)
_SPANS: Mapping[str, tuple[Version, Version]] = {
    **dict.fromkeys(
        (
            "--onnx",
            "--saveEngine",
            "--loadEngine",
            "--minShapes",
            "--optShapes",
            "--maxShapes",
            "--shapes",
            "--sparsity",
            "--timingCacheFile",
            "--useDLACore",
            "--allowGPUFallback",
            "--streams",
            "--iterations",
            "--duration",
            "--warmUp",
            "--avgRuns",
            "--exposeDMA",
            "--noDataTransfers",
            "--useSpinWait",
            "--useCudaGraph",
            "--separateProfileRun",
            "--loadInputs",
            "--exportTimes",
            "--exportProfile",
            "--percentile",
            "--verbose",
        ),
        ((8, 0), LAST),
    ),
    "--fp16": ((8, 0), (10, 99)),
    "--int8": ((8, 0), (10, 99)),
    "--best": ((8, 0), (10, 99)),
    "--workspace": ((8, 0), (8, 99)),
    "--memPoolSize": ((8, 4), LAST),
    "--buildOnly": ((8, 0), (8, 99)),
    "--skipInference": ((8, 6), LAST),
    "--nvtxMode": ((8, 0), (8, 99)),
    "--profilingVerbosity": ((8, 2), LAST),
    "--exportLayerInfo": ((8, 2), LAST),
    "--builderOptimizationLevel": ((8, 6), LAST),
    "--versionCompatible": ((8, 6), LAST),
    "--infStreams": ((8, 6), LAST),
    "--includeDataTransfers": ((11, 0), LAST),
    "--noSpinWait": ((11, 0), LAST),
    "--noCudaGraph": ((11, 0), LAST),
}

_DEPRECATED: Mapping[str, Version] = {
    "--workspace": (8, 4),
    "--nvtxMode": (8, 2),
    "--buildOnly": (8, 6),
    "--noDataTransfers": (11, 0),
    "--useSpinWait": (11, 0),
    "--useCudaGraph": (11, 0),
    "--separateProfileRun": (11, 0),
}


def unknown(version: Version, names: Sequence[str]) -> list[str]:
    """Those of the options that the version does not know."""
    return [name for name in names if name not in _SPANS or not _SPANS[name][0] <= version <= _SPANS[name][1]]


def deprecated(version: Version, names: Sequence[str]) -> list[str]:
    """Those that it warns of; from 11 on they do nothing."""
    return [name for name in names if name in _DEPRECATED and version >= _DEPRECATED[name]]
