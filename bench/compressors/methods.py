"""What is compared: which steps, which peer, and how long each may train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.int8.peers import PEERS, Format, Peer
from optimizer import techniques
from optimizer.recipes import READY, Steps

HERE: Final = Path(__file__).resolve().parent
TFMOT: Final = str(HERE / "peers_tfmot.txt")
BATCH: Final = 64
"""Samples in a training step; that of our recipes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to smaller files.

    Attributes:
        name: in the figures.
        formats: of the files it makes.
        ours: made by edgesmith.
        trained: it trains.
        environment: as `Peer.environment`.
        steps: of a recipe of ours; empty for a peer.
        peer: a quantizer of `bench.int8`.
        stages: of TF-MOT's pipeline: "prune", "cluster", "quantize" and their settings.
    """

    name: str
    formats: tuple[Format, ...]
    ours: bool = False
    trained: bool = False
    environment: str = ""
    steps: Steps = ()
    peer: Peer | None = None
    stages: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def what(self) -> dict[str, Any]:
        """All that decides what it makes, besides the network and the samples."""
        peer = None if self.peer is None else [self.peer.script, dict(self.peer.settings)]
        return {"steps": list(self.steps), "peer": peer, "stages": self.stages, "batch": BATCH}


def epochs(steps: Sequence[Mapping[str, Mapping[str, Any]]]) -> int:
    """Passes over the training samples that a recipe takes."""
    total = 0
    for step in steps:
        ((name, given),) = step.items()
        params = techniques.get(name).Params.model_validate(given)
        total += getattr(params, "epochs", 0) * int(getattr(params, "steps", 1))
    return total


def _ours(name: str, steps: Steps) -> Method:
    return Method(
        name=f"edgesmith {name}", formats=("tflite", "onnx"), ours=True, trained=epochs(steps) > 0, steps=steps
    )


def _tfmot(name: str, stages: Mapping[str, Mapping[str, Any]]) -> Method:
    return Method(name=name, formats=("tflite",), trained=True, environment=TFMOT, stages=stages)


def _pruning(passes: int, first: float, last: float) -> dict[str, Any]:
    return {"epochs": passes, "learning_rate": 1e-3, "initial_sparsity": first, "final_sparsity": last}


def _all() -> tuple[Method, ...]:
    passes = {name: epochs(READY[name].steps) for name in ("balanced", "fastest", "smallest")}
    last = epochs(READY["smallest"].steps[2:])
    # As many weights as `smallest` leaves: 40 % of the half that its channels hold.
    harsh, mild = _pruning(passes["smallest"] - last, 0.5, 0.8), _pruning(passes["fastest"], 0.0, 0.5)
    sharing = {"epochs": last, "learning_rate": 5e-4, "clusters": 32}
    quantizers = (
        Method(name=peer.name, formats=(peer.format,), environment=peer.environment, peer=peer)
        for peer in PEERS
        if not peer.only
    )
    return (
        _ours("int8", ({"quantize": {"scheme": "int8"}},)),
        *(_ours(name, READY[name].steps) for name in ("no-training", "balanced", "fastest", "smallest")),
        *quantizers,
        _tfmot("tfmot-qat", {"quantize": {"epochs": passes["balanced"], "learning_rate": 1e-4}}),
        _tfmot("tfmot-prune", {"prune": mild}),
        _tfmot("tfmot-prune-cluster", {"prune": harsh, "cluster": sharing}),
    )


METHODS: Final = _all()
NOT_COMPARED: Final[Mapping[str, str]] = {
    "NNCF's filter pruning": "it is for PyTorch; for ONNX NNCF 3.4 quantizes only",
    "OpenVINO, which NNCF makes its files for": "all .onnx run in ONNX Runtime here, on the processor",
    "Neural Compressor's pruning": "it is for PyTorch; for ONNX it quantizes only",
    "training for ONNX": "none of the peers here trains an ONNX model; our trained recipes stand alone there",
    "TF-MOT's cluster-preserving quantization-aware training": "on a network of this kind it took over 18 minutes "
    "and 10 GB for 16 steps; tfmot-prune-cluster quantizes after training instead",
}
