"""What is remembered of a text while the model reads it: its steps, its calls, its run of `generate`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atlas.errors import AtlasError

Embed = Callable[[Tensor], Tensor]  # token ids -> their input embeddings


@dataclass
class Step:
    """The tokens that one forward call added to a text.

    Attributes:
        start: place of the first of them.
        width: how many they are.
        kept: how many have not been thrown away since.
        tokens: their ids [row, token]; None where the call came with embeddings.
        parents: which row of the step before each row goes on with [row]; None for the same row.
    """

    start: int
    width: int
    kept: int
    tokens: Tensor | None = None
    parents: Tensor | None = None


@dataclass(eq=False)
class Text:
    """A batch of texts as the model has read it so far, under one KV cache or without one.

    Attributes:
        rows: number of texts.
        prompt: how many of its places are the prompt's; None where that is not known.
        length: how many places it has, pads among them.
        steps: what the calls added.
        picked: per step, which row each returned sequence is [sequence], and whether it has one; None for the rows as
            they are.
        stops: ids that end a row of generated tokens; what such a row is given after its end counts nowhere.
        ends: places up to which each returned sequence counts; None where `stops` says it.
        unknown: why its figures cannot be told apart; None where they can.
        figures: of the SAEs that steer it, in their order.
    """

    rows: int
    prompt: int | None = None
    length: int = 0
    steps: list[Step] = field(default_factory=list)
    picked: list[tuple[Tensor, Tensor]] | None = None
    stops: tuple[int, ...] = ()
    ends: Tensor | None = None
    unknown: str | None = None
    figures: list[Any] = field(default_factory=list)
    cache: weakref.ref[Any] | None = None

    def trim(self, length: int) -> None:
        """Throw away what lies behind a length: guesses that were refused, a cache that was cut."""
        if length >= self.length:
            return
        for step in self.steps:
            step.kept = max(0, min(step.kept, length - step.start))
        self.length = length

    def settle(self) -> None:
        """Throw away what the cache, where it is still there, has dropped since the last call."""
        cache = self.cache() if self.cache is not None else None
        if cache is not None and (length := cached_tokens(cache)):
            self.trim(length)

    def going(self) -> list[Tensor] | None:
        """Per step, which of its tokens came before an id of `stops` was generated [row, token]; None for all."""
        if self.prompt is None or not self.stops or self.rows == 1:
            return None
        stops, going, found = torch.tensor(self.stops), torch.ones(self.rows, 1, dtype=torch.bool), []
        for step in self.steps:
            if step.tokens is not None and step.kept and step.start + step.kept > self.prompt:
                stopped = torch.isin(step.tokens[:, : step.kept].cpu(), stops)
                stopped[:, : max(0, self.prompt - step.start)] = False
                counts = going & ~stopped.cummax(dim=1).values
                going = counts[:, -1:]
            else:
                counts = going.expand(-1, step.kept)
            found.append(counts)
        return found


@dataclass
class Call:
    """What is known of one forward call's tokens.

    Attributes:
        shape: batch and number of tokens.
        cached: how many tokens the KV cache held.
        steered: which tokens are steered [batch, token]; None for all.
        nothing: whether none is.
        new: how many of the tokens, at the end, the text did not have before.
        text: the text they belong to.
        step: that text's last step.
    """

    shape: tuple[int, int]
    cached: int
    steered: Tensor | None
    nothing: bool
    new: int
    text: Text
    step: Step


@dataclass
class Run:
    """One call of `generate`.

    Attributes:
        batch: how many prompts it was given; None where that is not known.
        prompt: how many places they have; None until the first forward call shows it.
        stops: ids that end a row.
        lead: how many of them are among the ids that it returns; None for all.
        text: what has been read; None before the first forward call.
        mask: attention mask of the coming forward call [row, place so far], where `generate` has made one.
        ids: all ids so far of the coming forward call [row, place], where `generate` has told them.
        before: those of the forward call before.
        inner: what a `generate` that this one called has read, where this one only passes on.
        cache: that of its text, kept until its last length is known.
        odd_mask: whether its attention mask is of another form, in which pads cannot be seen.
    """

    batch: int | None
    prompt: int | None
    lead: int | None = None
    stops: tuple[int, ...] = ()
    text: Text | None = None
    mask: Tensor | None = None
    ids: Tensor | None = None
    before: Tensor | None = None
    inner: Text | None = None
    cache: Any = None
    odd_mask: bool = False

    def tell(self, ids: Tensor | None, mask: Any) -> None:
        """Take in what `generate` prepares a forward call from."""
        self.ids = ids
        self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        self.odd_mask = mask is not None and self.mask is None

    @property
    def is_wide(self) -> bool:
        """Whether a prompt has several rows, which may change places (beams)."""
        return self.text is not None and self.batch is not None and self.text.rows > self.batch


def find_cache(values: Iterable[Any]) -> Any:
    """The KV cache among a call's arguments or outputs, None without one.

    It is known by what it can do: Transformers has called it past_key_values, cache_params and cache.
    """
    return next((value for value in values if hasattr(value, "get_seq_length")), None)


def cached_tokens(cache: Any) -> int:
    """How many tokens a KV cache holds."""
    try:
        return int(cache.get_seq_length())
    except (ValueError, NotImplementedError) as error:
        raise AtlasError(
            f"a cache of the kind {type(cache).__name__} does not say how many tokens it holds: generate with "
            "use_cache=False"
        ) from error
