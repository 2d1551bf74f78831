"""Counts that need the live network, kept so that an unchanged run need not open it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from edgesmith.errors import ModelError
from edgesmith.pipeline.store import Store
from edgesmith.types import Model
from optimizer import cost
from optimizer.base import KerasModel
from optimizer.load import open_keras
from optimizer.packing.packed import save_packed

_MOST_PACKED_WEIGHTS = 1_000_000
"""Packing as many takes about a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Of the weights: None for ONNX models, whose weights are counted in the artifacts.

    Attributes:
        nonzero_parameters: weights that are not zero.
        sparsity: share of zeros in the kernels.
        packed_bytes: of the file that `edgesmith pack` writes.
        packed_bytes_reason: why there is none.
    """

    nonzero_parameters: int | None
    sparsity: float | None
    packed_bytes: int | None
    packed_bytes_reason: str | None


def model_facts(model: Model, store: Store) -> ModelFacts:
    """Counts the non-zero weights of a model and what they take when packed, once."""
    if model.kind == "onnx":
        return ModelFacts(
            nonzero_parameters=None,
            sparsity=None,
            packed_bytes=None,
            packed_bytes_reason="only Keras models can be packed",
        )
    key = store.key("facts", {"model": model.sha256, "version": 2})
    if entry := store.find("facts", key):
        return ModelFacts(**entry.record)
    network = open_keras(model)
    nonzero, sparsity = cost.nonzero_parameters(network), cost.kernel_sparsity(network)
    packed_bytes, reason = _packed(network)
    facts = ModelFacts(
        nonzero_parameters=nonzero, sparsity=sparsity, packed_bytes=packed_bytes, packed_bytes_reason=reason
    )
    with store.making("facts", key) as draft:
        draft.record.update(asdict(facts))
    return facts


def _packed(network: KerasModel) -> tuple[int | None, str | None]:
    """Bytes of the packed file, or why it is not written."""
    if cost.parameters(network) > _MOST_PACKED_WEIGHTS:
        return None, f"over {_MOST_PACKED_WEIGHTS:,} weights take a while: `edgesmith pack` does it"
    with tempfile.TemporaryDirectory() as folder:
        try:
            return save_packed(network, Path(folder) / "packed.esm").size_bytes, None
        except ModelError as error:
            return None, error.what
