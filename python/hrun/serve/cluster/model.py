"""A model whose weights are elsewhere: its file gives tokenizer and template, a replica says the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrun.prompts import Prompts
from hrun.runtime import Runtime


@dataclass(frozen=True)
class ModelFacts:
    """Facts about the core's model."""

    architecture: str
    description: str
    n_ctx_train: int
    n_embd: int
    n_params: int
    n_vocab: int
    bytes: int
    is_encoder: bool
    n_classes: int
    pooling: str | None


@dataclass(frozen=True)
class Facts:
    """The facts that a replica reports about itself once it has loaded."""

    model: ModelFacts
    description: str
    bits_per_weight: float
    n_ctx: int
    n_pages: int
    fingerprint: str
    stats: dict[str, Any]  # of the engine


def facts_of(runtime: Runtime, fingerprint: str) -> Facts:
    """Returns the facts about a loaded model."""
    model = runtime.model
    names = ModelFacts.__dataclass_fields__
    return Facts(
        model=ModelFacts(**{name: getattr(model, name) for name in names}),
        description=runtime.description,
        bits_per_weight=runtime.bits_per_weight,
        n_ctx=runtime.n_ctx,
        n_pages=0 if model.is_encoder else runtime.engine.n_pages,
        fingerprint=fingerprint,
        stats=runtime.stats(),
    )


class RemoteModel(Prompts):
    """Answers the questions that endpoints ask a Runtime, without having a Runtime."""

    def __init__(self, model_path: Path, facts: Facts, pre_tokenizer: str | None = None) -> None:
        super().__init__(model_path, pre_tokenizer)
        self.model = facts.model
        self.description = facts.description
        self.bits_per_weight = facts.bits_per_weight
        self.n_ctx = facts.n_ctx
        self.n_vocab = facts.model.n_vocab
