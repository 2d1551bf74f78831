"""What a reader should know where NVIDIA's trtexec did all the work, since the board's Python has no TensorRT."""

from __future__ import annotations

from edgesmith.types import Finding, Measurement

ALONE = (
    "The latency is trtexec's: inputs to the GPU, computing and outputs back, each by the GPU's clock, added up. What "
    "lies between them, and the processor's part, is not in it, as it is in the latency of every other runtime. Each "
    "window is a process of its own with one of the samples. There are no outputs, so no accuracy, and no energy."
)


def alone(measured: Measurement) -> tuple[Finding, ...]:
    """A warning for its figures; nothing where it did not take them."""
    if measured.engine is None or not measured.engine.builder:
        return ()
    next_step = measured.outputs_next_step
    return (Finding(severity="warning", code="trtexec_alone", text=ALONE, next_step=next_step),)
