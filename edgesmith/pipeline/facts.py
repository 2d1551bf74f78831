"""Counts that need the live network, kept so that an unchanged run need not open it."""

from __future__ import annotations

from dataclasses import dataclass

from edgesmith.pipeline.store import Store
from edgesmith.types import Model
from optimizer import cost
from optimizer.load import open_keras


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Of the weights: None for ONNX models, whose weights are counted in the artifacts."""

    nonzero_parameters: int | None
    sparsity: float | None


def model_facts(model: Model, store: Store) -> ModelFacts:
    """Counts the non-zero weights of a model, once."""
    if model.kind == "onnx":
        return ModelFacts(nonzero_parameters=None, sparsity=None)
    key = store.key("facts", {"model": model.sha256})
    if entry := store.find("facts", key):
        return ModelFacts(**entry.record)
    network = open_keras(model)
    facts = ModelFacts(nonzero_parameters=cost.nonzero_parameters(network), sparsity=cost.kernel_sparsity(network))
    with store.making("facts", key) as draft:
        draft.record.update(nonzero_parameters=facts.nonzero_parameters, sparsity=facts.sparsity)
    return facts
