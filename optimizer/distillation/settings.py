"""What a recipe says about learning from the original model."""

from __future__ import annotations

from pydantic import Field, field_validator

from edgesmith.config import Section


class Distill(Section):
    """How a fine-tuning learns from a teacher: the model as it was before the first step of the recipe.

    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2.
    """

    temperature: float = Field(default=4.0, gt=0, description="Divides the logits of both; higher is softer.")
    alpha: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of the teacher in the loss; the rest is the labels'. Without labels it is 1.",
    )
    features: tuple[str, ...] = Field(
        default=(),
        description="Layers whose outputs are matched too: `name`, or `student_name=teacher_name`.",
    )
    feature_weight: float = Field(default=1.0, gt=0, description="Of each of them, against the loss on the outputs.")

    @field_validator("features")
    @classmethod
    def _pairs(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        for text in features:
            if not all(part.strip() for part in text.split("=")) or text.count("=") > 1:
                raise ValueError(f"'{text}' is neither `name` nor `student_name=teacher_name`")
        return features

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(layer of the student, layer of the teacher) for each feature."""
        split = [[part.strip() for part in text.split("=")] for text in self.features]
        return tuple((parts[0], parts[-1]) for parts in split)
