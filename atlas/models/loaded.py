"""A language model in memory, with all that it takes to give it texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atlas.models.chat import wrap_prompts
from atlas.models.configs import context_size
from atlas.models.tokens import token_rows


@dataclass(frozen=True)
class LoadedModel:
    """A language model, its tokenizer, and what stands before its texts.

    Attributes:
        transformer: a Hugging Face causal model (a TransformerBridge does where nothing is generated).
        tokenizer: its tokenizer.
        prepend_bos: whether BOS comes first, as the SAE wants it that the model is used with; where a text begins with
            it anyway, as one in a chat template may, it gets no second one.
        chat: whether prompts are a user's messages in the tokenizer's chat template.
        system: the system message before them; None for what the template has by itself.
    """

    transformer: Any
    tokenizer: Any
    prepend_bos: bool
    chat: bool = False
    system: str | None = None

    @property
    def context(self) -> int:
        """How many tokens the model can read at once."""
        return context_size(self.transformer)

    def prompt_rows(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt as the model is to go on with it, however long."""
        return self.whole_rows(wrap_prompts(self.tokenizer, prompts, system=self.system) if self.chat else prompts)

    def whole_rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, however long."""
        return token_rows(self.tokenizer, texts, prepend_bos=self.prepend_bos)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to what the model can read."""
        return token_rows(self.tokenizer, texts, prepend_bos=self.prepend_bos, context=self.context)
