"""What an engine is valid for: the network, the flags, and the TensorRT and GPU that it was built with."""

import hashlib
import json
import os
import re

from device_tests.agent import environment
from device_tests.agent.protocol import Refusal

FORMAT = 1
PRECISIONS = ("fp16", "int8")

_NAMES = {
    "onnx_sha256": "the network",
    "tensorrt": "TensorRT",
    "compute": "compute capability",
    "gpu": "GPU",
    "precision": "precision",
    "dla_core": "DLA core",
    "sparsity": "sparsity",
    "version_compatible": "version compatibility",
    "optimization_level": "optimization level",
    "profile": "shapes",
    "format": "format",
    "builder": "builder",
}


def identity(options, tensorrt, compute, gpu):
    """The identity of the engine that these options ask for, on this board.

    Only what decides which engine comes out: not workspace or timing cache, which decide how well the search for it
    goes, and not the power mode, which changes while engines stay.

    Raises:
        Refusal: "bad-params": an option is not one.
    """
    precision = sorted(options.get("precision") or [])
    unknown = [name for name in precision if name not in PRECISIONS]
    if unknown:
        raise Refusal("bad-params", "no precision %r; there are %s" % (unknown[0], ", ".join(PRECISIONS)))
    return {
        "onnx_sha256": _checked_sha256(options.get("onnx_sha256")),
        "tensorrt": tensorrt,
        "compute": compute,
        "gpu": gpu,
        "precision": precision,
        "dla_core": options.get("dla_core"),
        "sparsity": bool(options.get("sparsity")),
        "version_compatible": bool(options.get("version_compatible")),
        "optimization_level": options.get("optimization_level"),
        "profile": _checked_profile(options.get("profile")),
        "format": FORMAT,
    }


def key(found):
    """The name of an engine with that identity: the same for the same, whatever the order of its parts."""
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(wanted, have):
    """What keeps an engine from being the one that is wanted, in words."""
    names = [name for name in _NAMES if wanted.get(name) != have.get(name)]
    return ["%s %s, built for %s" % (_NAMES[name], _shown(wanted.get(name)), _shown(have.get(name))) for name in names]


def runs(wanted, have):
    """Whether an engine runs where another is wanted: a version-compatible one does on later versions of TensorRT."""
    if have == wanted:
        return True
    if not wanted["version_compatible"] or dict(have, tensorrt=wanted["tensorrt"]) != wanted:
        return False
    return _numbers(have["tensorrt"]) <= _numbers(wanted["tensorrt"])


def gpu_name(root):
    """The GPU's model. Read from files: CUDA's own record of it changes its layout between versions.

    A Jetson is told by its module, which fixes the GPU; how much of it is switched on is the power mode's business.
    """
    model = environment.model(root)
    if model is not None:
        return model
    for path in root.glob("/proc/driver/nvidia/gpus/*/information"):
        found = re.search(r"^Model:\s*(.+)$", root.text(path) or "", re.MULTILINE)
        if found:
            return found.group(1).strip()
    return "unknown"


def onnx_sha256(path, options):
    """The options with the network's hash in them: a blob is named by it."""
    if options.get("onnx_sha256"):
        return options
    name = os.path.basename(path)
    if re.fullmatch("[0-9a-f]{64}", name):
        return dict(options, onnx_sha256=name)
    from device_tests.agent.incoming import sha256_file

    return dict(options, onnx_sha256=sha256_file(path))


def _checked_sha256(text):
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise Refusal("bad-params", "not a sha256: %r" % (text,))
    return text


def _checked_profile(asked):
    """Input -> [smallest, likeliest, largest], each a list of whole numbers above 0."""
    if asked is None:
        return None
    for name, shapes in asked.items():
        sizes = [size for shape in shapes for size in shape]
        if len(shapes) != 3 or len({len(shape) for shape in shapes}) != 1 or not all(_is_size(size) for size in sizes):
            raise Refusal("bad-params", "profile of %r: three shapes of sizes above 0, not %r" % (name, shapes))
        if not all(low <= likely <= high for low, likely, high in zip(*shapes)):
            raise Refusal("bad-params", "profile of %r: smallest <= likeliest <= largest, not %r" % (name, shapes))
    return {name: [list(shape) for shape in shapes] for name, shapes in asked.items()}


def _is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def _shown(value):
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:12]
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
