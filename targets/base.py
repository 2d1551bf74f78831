"""The contract of a target, and what every target checks the same way."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from calibration import inputs
from edgesmith import toolchain
from edgesmith.errors import ConfigError, DataError, InternalError, ModelError
from edgesmith.files import gzip_size, sha256_file
from edgesmith.types import Artifact, Capabilities, Deviation, Model, SampleSet, Scheme, Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgesmith.progress import Progress

VERBS = ("state", "capabilities", "compile", "signature", "kernels", "tensors", "outputs")
"""What `Target` promises, by name: `targets.check` looks for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """What of a board decides how a file for its runtime is written.

    Attributes:
        version: of the runtime there, "10.3.0"; two boards with the same get the same file.
        compute: the GPU's compute capability, "8.7"; empty where it is not known.
    """

    version: str
    compute: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileRequest:
    """What to make of a model.

    Attributes:
        scheme: how numbers are stored and computed.
        per_channel: one scale for each output channel of a weight kernel; False: one for the kernel.
        calibration: for schemes that need it; x in the dtype the model takes, [N, ...], several inputs joined
            (`calibration.inputs`).
        out_dir: where the artifact goes.
        name: its file name without the suffix.
        board_isa: machine it will run on, as `uname -m` says it ("x86_64", "aarch64"); None where any.
        opset: ONNX operator set; None for the target's default.
        plan: folder of the quantization plan to follow (`targets.plan_files`); None: the runtime's own quantizer
            observes plain min-max ranges.
        runtime: what the board runs it with, where the target says that it matters (`Capabilities.per_runtime`); None:
            not known.
        max_batch: samples at once, at most, for targets whose files have one fixed batch: 1 fixes it to 1, more leaves
            it open up to there.
        float_ops: ops of the plan that stay in float although it has integers for them: the board cannot compute them.
    """

    scheme: Scheme
    out_dir: Path
    name: str
    per_channel: bool = True
    calibration: SampleSet | None = None
    board_isa: str | None = None
    opset: int | None = None
    plan: Path | None = None
    runtime: RuntimeFacts | None = None
    max_batch: int = 1
    float_ops: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """Whether a target can compile here.

    Attributes:
        reason: why it cannot; empty where it can.
        fix: what to run to make it available; empty where it is.
        note: what is left to be done elsewhere; empty where nothing is.
    """

    available: bool
    reason: str = ""
    fix: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far a compiled artifact may be from its model, over real samples."""

    min_sqnr_db: float
    min_cosine: float


class Target(Protocol):
    """What a module in `targets/` provides to be a target."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a module constant
        """Its key: the file name."""

    @property
    def FORMAT(self) -> str:  # noqa: N802
        """Of its artifacts, and their file suffix: "tflite", "onnx"."""

    def state(self) -> TargetState:
        """Whether it can compile here. Imports no framework."""

    def capabilities(self, board_isa: str | None = None, runtime: RuntimeFacts | None = None) -> Capabilities:
        """What it can make for such a machine, with such a runtime on it where that matters."""

    def compile(self, model: Model, request: CompileRequest, progress: Progress) -> Artifact:
        """Writes the artifact. The same model and request give the same bytes.

        Raises:
            ConfigError: a scheme or opset that it cannot make; before any work.
            DataError: calibration data missing or not fitting; before any work.
            ModelError: the file is broken or not what `model` says, or holds an op that the runtime has no kernel for.
        """

    def signature(self, path: Path) -> Signature:
        """Inputs and outputs of a file, as its runtime sees them.

        Raises:
            ModelError: the file cannot be read.
        """

    def kernels(self, path: Path) -> dict[str, NDArray[Any]]:
        """Weights read back from the file: those of convolutions, dense layers and look-ups, by tensor name.

        Layout and dtype are the file's; integers have their zero point taken off, so that 0 means zero.

        Raises:
            ModelError: the file cannot be read.
        """

    def tensors(self, path: Path, x: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """All intermediate tensors for a small batch, dequantized, in the order they are computed.

        Args:
            path: the artifact.
            x: [N, ...], in the dtype of the model it was made from; several inputs joined (`calibration.inputs`).

        Yields:
            name and float32 [N, ...] in the file's layout.
        """

    def outputs(self, path: Path, x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Runs the artifact on the host, one array [N, ...] per output; quantized ones are dequantized to float32."""


# At least 3 dB (twice the noise power) below the worst of 64 samples at a time, seen over both targets, per channel
# and per tensor, on four trained networks for scikit-learn's digits, the Fashion-MNIST example, and the MLPerf Tiny
# ResNet-8 on CIFAR-10: float32 118 dB, float16 49 dB, dynamic 17 dB, int8 13 dB (18 dB per channel). float32 and
# float16 keep more distance: deep networks cancel more digits than these. The cosines follow,
# cos^2 >= 1 - 10^(-SQNR / 10); they decide where a user loosens the SQNR.
_BOUNDS = {
    Scheme.NONE: Bounds(min_sqnr_db=60.0, min_cosine=0.99999),
    Scheme.FLOAT16: Bounds(min_sqnr_db=40.0, min_cosine=0.9999),
    Scheme.DYNAMIC: Bounds(min_sqnr_db=12.0, min_cosine=0.965),
    Scheme.INT8: Bounds(min_sqnr_db=10.0, min_cosine=0.95),
    Scheme.INT8_FLOAT_IO: Bounds(min_sqnr_db=10.0, min_cosine=0.95),
    Scheme.INT16X8: Bounds(min_sqnr_db=12.0, min_cosine=0.965),
    Scheme.INT4_WEIGHTS: Bounds(min_sqnr_db=3.0, min_cosine=0.7),
}


def default_bounds(precision: str) -> Bounds:
    """The bounds for an `Artifact.precision`."""
    return _BOUNDS[Scheme.NONE if precision == Scheme.NONE.precision else Scheme(precision)]


def packages_state(modules: Mapping[str, str], extra: str) -> TargetState:
    """Whether packages are installed, without importing them.

    Args:
        modules: import name -> distribution name.
        extra: of edgesmith, that brings them.
    """
    missing = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return TargetState(available=True)
    return TargetState(
        available=False,
        reason=f"needs {', '.join(missing)}",
        fix=f'pip install "edgesmith[{extra}]"',
    )


_PLAN_ONLY = (Scheme.INT16X8, Scheme.INT4_WEIGHTS)
"""No runtime's own quantizer makes them."""


def check_request(can: Capabilities, model: Model, request: CompileRequest) -> None:
    """Refuses what cannot work, before any work.

    Raises:
        ConfigError: the scheme is none of the target's.
        ModelError: the kind of model is none of the target's, or an input has an open dimension besides the batch.
        DataError: calibration is missing, empty, or of another shape or dtype than the model's inputs.
    """
    if model.kind not in can.model_kinds:
        raise ModelError(
            f"{can.target} cannot compile {model.origin}: it takes {' or '.join(sorted(can.model_kinds))} models, "
            f"this is {model.kind}.",
            next_step=f"Leave '{can.target}' out of `targets`, or give the model it was exported from.",
        )
    if request.scheme not in can.schemes:
        raise ConfigError(
            f"{can.target} cannot make scheme '{request.scheme}'.",
            next_step=f"It makes: {', '.join(sorted(can.schemes))}.",
        )
    own = Scheme.FLOAT16 if can.needs_plan else Scheme.INT8  # what the target makes without a plan
    planned_only = (Scheme.INT16X8, Scheme.INT4_WEIGHTS)
    if request.plan is None and (
        request.scheme in planned_only or (can.needs_plan and request.scheme.needs_calibration)
    ):
        raise ConfigError(
            f"{can.target}: scheme '{request.scheme}' is made from a quantization plan, and there is none.",
            next_step=f"Make one with `optimizer.ptq.make.make_plan`, or use scheme '{own}'.",
        )
    if request.scheme.needs_calibration:
        _check_calibration(can.target, model.signature, request.scheme, request.calibration)


def _check_calibration(target: str, signature: Signature, scheme: Scheme, calibration: SampleSet | None) -> None:
    if calibration is None or len(calibration) == 0:
        raise DataError(
            f"{target}: scheme '{scheme}' needs calibration samples, and there are none.",
            next_step="Name them under `data.calibration`: 100 to 500 typical inputs.",
        )
    given = inputs.split(calibration.x)
    fit = len(given) == len(signature.inputs) and all(
        str(x.dtype) == spec.dtype and _fits(spec, x.shape) for x, spec in zip(given, signature.inputs, strict=True)
    )
    if not fit:
        raise DataError(
            f"{target}: calibration samples are {', '.join(f'{x.dtype}{list(x.shape)}' for x in given)}, "
            f"the model takes {', '.join(map(str, signature.inputs))}."
        )


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    return len(spec.shape) == len(shape) and all(
        not isinstance(want, int) or want == have for want, have in zip(spec.shape[1:], shape[1:], strict=True)
    )


def check_shapes(target: str, model: Model, signature: Signature) -> None:
    """Checks that an artifact has the inputs and outputs of its model, in their order.

    Raises:
        InternalError: it has not.
    """
    for what, wanted, found in (
        ("inputs", model.signature.inputs, signature.inputs),
        ("outputs", model.signature.outputs, signature.outputs),
    ):
        if len(wanted) != len(found) or not all(_same_dims(a, b) for a, b in zip(wanted, found, strict=True)):
            raise InternalError(
                f"{target}: the {what} changed on the way: the model has {', '.join(map(str, wanted))}; "
                f"the artifact has {', '.join(map(str, found))}."
            )


def _same_dims(a: TensorSpec, b: TensorSpec) -> bool:
    return len(a.shape) == len(b.shape) and all(
        not (isinstance(m, int) and isinstance(n, int)) or m == n for m, n in zip(a.shape[1:], b.shape[1:], strict=True)
    )


def describe(
    target: str,
    file_format: str,
    path: Path,
    model: Model,
    scheme: Scheme,
    signature: Signature,
    kernels: Mapping[str, NDArray[Any]],
    packages: Iterable[str],
    deviations: tuple[Deviation, ...] = (),
    build: Mapping[str, Any] | None = None,
) -> Artifact:
    """The record of a file that a target has just written.

    Args:
        target: its key.
        file_format: "tflite" or "onnx".
        path: the file.
        model: what it was made from.
        scheme: how.
        signature: read back from the file.
        kernels: read back from the file.
        packages: that made it.
        deviations: from the plan it follows.
        build: options for what the board makes of it.

    Raises:
        InternalError: its inputs or outputs are not the model's.
    """
    check_shapes(target, model, signature)
    total = sum(kernel.size for kernel in kernels.values())
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels.values())
    return Artifact(
        target=target,
        path=path,
        format=file_format,
        precision=scheme.precision,
        sha256=sha256_file(path),
        signature=signature,
        toolchain=toolchain.versions(packages),
        made_from=model.sha256,
        size_bytes=path.stat().st_size,
        gzip_bytes=gzip_size(path),
        sparsity=zeros / total if total else 0.0,
        deviations=deviations,
        build=build or {},
    )
