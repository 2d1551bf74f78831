"""What a trtexec that failed has said, as an answer that the workstation can act on. Codes: see `failures`.

"trtexec-option"   it does not know an option: it is another version than its banner says, or was built otherwise
"engine-refused"   it does not take the engine
"runtime-failed"   the engine did not run
"runtime-crashed"  it was ended by a signal
"no-gpu"           CUDA cannot be used
"""

import re
import signal

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import failures

_OPTION = re.compile(r"Unknown option: (\S+)")
_NO_GPU = re.compile(
    r"CUDA initialization failure|no CUDA-capable device|driver version is insufficient|Cuda failure: (35|100)\b"
)
# The parser's, up to 8 and from 10 on.
_NODE = re.compile(r"While parsing node number (\d+)|In node (\d+) with name")
_CAUSE = re.compile(r"ERROR: |Assertion failed|UNSUPPORTED_|INVALID_")
_NOT_PARSED = re.compile(r"Failed to parse onnx file|While parsing node number|In node -?\d+ with name")
_MEMORY = re.compile(r"out ?of ?memory|MEM_ALLOC_FAILED|failed to allocate|bad_alloc", re.IGNORECASE)
_NOT_READ = re.compile(
    r"deserializ|serialization|Failed to create engine|not compatible with this version", re.IGNORECASE
)


def build_failed(status, log, nodes, limits):
    """It gave no engine.

    Args:
        status: its exit status; negative for a signal.
        log: `log.Log` of what it said.
        nodes: of the ONNX file.
        limits: of `memory_plan.plan`.
    """
    refused = _any(status, log)
    if refused is not None:
        return refused
    if not _out_of_memory(log) and any(_NOT_PARSED.search(line) for line in log.errors):
        return failures.parse_failed(_parser_errors(log.errors), nodes, log)
    return failures.build_failed(log, nodes, limits)


def run_failed(status, log):
    """It did not run an engine."""
    refused = _any(status, log)
    if refused is not None:
        return refused
    if _out_of_memory(log):
        return Refusal("not-enough-memory", "the board ran out of memory: " + log.last_errors(), errors=log.errors[:10])
    if any(_NOT_READ.search(line) for line in log.errors):
        told = "TensorRT does not take the engine: %s" % log.last_errors()
        return Refusal("engine-refused", told, errors=log.errors[:10])
    return Refusal("runtime-failed", "trtexec failed: %s" % log.last_errors(), errors=log.errors[:10])


def _any(status, log):
    """What may go wrong at any time; None where it is nothing of that.

    The signal comes last: many a version says what is wrong and then aborts.
    """
    unknown = [found.group(1) for found in map(_OPTION.search, log.errors) if found]
    if unknown:
        told = "this trtexec does not know %s" % ", ".join(unknown)
        return Refusal("trtexec-option", told, options=unknown)
    lost = [line for line in log.errors if _NO_GPU.search(line)]
    if lost:
        return Refusal("no-gpu", "CUDA cannot be used here: %s" % lost[0])
    if status < 0 and not _out_of_memory(log):
        name = _signal_name(-status)
        hint = ": the kernel does that when memory is used up" if status == -signal.SIGKILL else ""
        said = "; it said: " + log.last_errors() if log.errors else ""
        told = "%s ended trtexec%s%s" % (name, hint, said)
        return Refusal("runtime-crashed", told, signal=name, errors=log.errors[:10])
    return None


def _out_of_memory(log):
    return any(_MEMORY.search(line) for line in log.errors)


def _parser_errors(lines):
    """As `failures.parse_failed` takes them: what was said of each node, or of none."""
    found = []
    for line in lines:
        at = _NODE.search(line)
        node = int(at.group(1) or at.group(2)) if at else None
        if at and (not found or found[-1]["node"] != node):
            found.append({"code": "parser", "node": node, "text": line})
        elif found and (at or _CAUSE.search(line)):
            # The cause is in lines of its own, after the node's.
            found[-1]["text"] += " " + line
    return found


def _signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number
