"""Prompts as a chat model reads them: each is what a user says, in the template of the model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas.errors import AtlasError


def check_chat(chat: bool, system: str | None) -> None:
    """Raise AtlasError for a system message where there is no chat."""
    if system is not None and not chat:
        raise AtlasError("a system message is part of a chat: give --chat too (in Python chat=True)")


def wrap_prompts(tokenizer: Any, prompts: Sequence[str], *, system: str | None = None) -> list[str]:
    """Each prompt as a user's message in the chat template, up to where the model's answer begins.

    Args:
        tokenizer: the model's.
        prompts: what the user says.
        system: a system message before it; None for what the template has by itself.

    Raises:
        AtlasError: the tokenizer has no template, or the template refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise AtlasError(
            "the model's tokenizer has no chat template, as those of base models have none: leave out --chat (in Python chat)"
        )
    head = [] if system is None else [{"role": "system", "content": system}]
    try:
        return [
            tokenizer.apply_chat_template(
                [*head, {"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
    except Exception as error:  # a template is a program of the model's maker, and says what it wants
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        remedy = "leave out the system message" if head else "prompt the model without its chat template"
        raise AtlasError(f"the model's chat template cannot be filled in: {reason}; {remedy}") from error
