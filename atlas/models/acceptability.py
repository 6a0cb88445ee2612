"""A classifier of acceptable English, where one is in the local cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from atlas.models.checkpoints import SAFELY
from atlas.models.quiet import quiet

ACCEPTABILITY = "textattack/roberta-base-CoLA"


def load_acceptability(name: str = ACCEPTABILITY) -> Callable[[Sequence[str]], list[float]] | None:
    """A classifier of acceptable English from the local cache: texts -> probabilities; None where it is not cached."""
    with quiet():
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(name, local_files_only=True, **SAFELY).eval()
        except (OSError, ValueError):
            return None

    @torch.inference_mode()
    def classify(texts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(list(texts[start : start + 32]), return_tensors="pt", padding=True, truncation=True)
            found += model(**batch).logits.softmax(-1)[:, 1].tolist()
        return found

    return classify
