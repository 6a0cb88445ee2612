"""What the tokens of a forward call are: prompt, generated, pad, special, computed before, thrown away afterwards.

It is known from lengths, masks and caches, and from what `generate` was given. Token ids are asked for two things only:
which tokens are special, and, in a loop of one's own that uses no KV cache, whether a call goes on with the one before.
A call that cannot be explained is an AtlasError, never a guess.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from atlas.errors import AtlasError
from atlas.steering.returned_rows import counted_lengths, parent_rows, pick_rows
from atlas.steering.token_records import Call, Embed, Run, Step, Text, cached_tokens, find_cache

PACKED = "several texts packed into one row cannot be steered: generate in a padded batch, without generate_batch"


class TokenTracker:
    """Follows the forward calls of a model, and says what their tokens are.

    Args:
        positions: "all", "prompt" or "generated".
        special_ids: ids of tokens that are never steered.

    Attributes:
        text: the text whose figures are asked for: that of the last call of `generate`, or of the last forward call.
        saw_embeddings: whether a call came with embeddings instead of ids.
    """

    def __init__(self, positions: str, special_ids: Iterable[int]) -> None:
        self.positions = positions
        self.text: Text | None = None
        self.saw_embeddings = False
        self._special = frozenset(special_ids)
        self._special_on: dict[torch.device, Tensor] = {}
        self._texts: list[Text] = []  # those with a cache
        self._runs: list[Run] = []
        self._loop = _Loop()
        self._said: set[str] = set()

    # what `generate` says

    def start_run(self, run: Run) -> None:
        """Take what comes from now on for tokens of `run`, until it ends."""
        self._runs.append(run)

    @property
    def run(self) -> Run | None:
        """The innermost call of `generate` that is running."""
        return self._runs[-1] if self._runs else None

    @property
    def is_drafting(self) -> bool:
        """Whether a `generate` inside a `generate` is running: a model that drafts for itself."""
        return len(self._runs) > 1

    def end_run(self, run: Run, *, sequences: Tensor | None = None, stopped: int | None = None) -> None:
        """Take in that a call of `generate` has ended.

        Args:
            run: the call.
            sequences: what it returned [sequence, place]; None where it failed or returned something else.
            stopped: the pad id, where rows may have ended otherwise than by an id of `stops`.
        """
        self._runs.remove(run)
        text = run.text
        if text is None:
            text = run.inner
        else:
            self._end_text(run, text, sequences, stopped)
        if self.run is not None:
            self.run.inner = text
        elif text is not None:
            self.text = text

    def _end_text(self, run: Run, text: Text, sequences: Tensor | None, stopped: int | None) -> None:
        text.settle()
        prompt = text.prompt or 0
        lead = prompt if run.lead is None else run.lead
        if run.is_wide:
            pick_rows(text, run, sequences, prompt - lead)
        if stopped is not None and sequences is not None and len(sequences) > 1:
            text.ends = prompt + counted_lengths(sequences[:, lead:], stopped, run.stops)

    # what forward calls say

    def see(self, given: dict[str, Any], embed: Embed | None) -> Call:
        """Take in the arguments of a forward call, by name."""
        ids, embeddings = given.get("input_ids"), given.get("inputs_embeds")
        tokens = ids if ids is not None else embeddings
        if not isinstance(tokens, Tensor) or tokens.ndim < 2:
            raise AtlasError("a call of the model has neither input_ids nor inputs_embeds: call it with one of them")
        if given.get("cu_seq_lens_q") is not None:
            raise AtlasError(PACKED)
        self.saw_embeddings |= ids is None
        rows, width = int(tokens.shape[0]), int(tokens.shape[1])
        cache = find_cache(given.values())
        cached = cached_tokens(cache) if cache is not None else 0
        real = self._real(given, rows, width, cached, cache)
        meant: Tensor | bool
        if self.run is not None:
            text, start = self._see_in_run(self.run, cache, cached, rows, width)
            meant = self._meant(cached, width, text.prompt)
        elif cached:
            text, start = self._see_cached(cache, cached, rows, width)
            meant = self._meant(cached, width, text.prompt)
        else:
            _check_beginning(given, width)
            text, start = Text(rows, prompt=width), 0
            self._remember(text, cache)
            meant = True
            if self.positions != "all":
                generated = self._loop.generated(ids, embeddings, real)
                meant = _only(generated if self.positions == "generated" else ~generated)
        step = self._add_step(text, start, cached + width, ids)
        if not self._runs:
            self.text = text
        steered, nothing = self._combine((rows, width), meant, real, self._special_at(ids, embeddings, embed))
        return Call((rows, width), cached, steered, nothing, step.kept, text, step)

    def link(self, call: Call, output: Any) -> None:
        """Learn from the output of a forward call which cache its tokens went into."""
        if call.cached and call.text.cache is not None:
            return
        values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else ()
        cache = find_cache(values)
        if cache is not None and (call.text.cache is None or call.text.cache() is not cache):
            self._remember(call.text, cache)

    def _see_in_run(self, run: Run, cache: Any, cached: int, rows: int, width: int) -> tuple[Text, int]:
        text = run.text
        if text is None:
            run.text = text = self._known(cache, cached, rows) if cached else Text(rows)
            run.prompt = text.prompt = cached + width if run.prompt is None else run.prompt
            text.stops, text.ends, text.picked, text.unknown = run.stops, None, None, None
        elif rows != text.rows:
            raise AtlasError(
                f"generate went from {text.rows} rows to {rows}, which steering cannot follow: use another way to generate"
            )
        elif cached > text.length or (not cached and width <= text.length):
            raise _unexplained(
                f"a call gives {width} tokens with {cached} in the KV cache after {text.length} tokens were read"
            )
        if cache is not None and (text.cache is None or text.cache() is not cache):
            self._remember(text, cache)
        return text, cached or (text.length if text.steps else 0)

    def _see_cached(self, cache: Any, cached: int, rows: int, width: int) -> tuple[Text, int]:
        text = self._known(cache, cached, rows)
        if self.positions == "all":
            return text, cached
        if text.prompt is None:
            raise AtlasError(
                f"positions {self.positions}: the KV cache holds {cached} tokens from before the steering began, so that "
                "where the prompt ends cannot be told: begin inside the block, call model.generate, or use positions all"
            )
        if width > 1 and cached + width > text.prompt:
            raise AtlasError(
                f"positions {self.positions}: a call gives {width} tokens at once after {cached} cached ones, which may "
                "be a prompt in pieces or generated tokens: give them one at a time, call model.generate, or use "
                "positions all"
            )
        return text, cached

    def _known(self, cache: Any, cached: int, rows: int) -> Text:
        """The text under a filled cache; a new one, which is said, where some of it was not seen."""
        for text in self._texts:
            if text.cache is not None and text.cache() is cache and text.rows == rows and text.length >= cached:
                text.trim(cached)
                return text
        self._say(
            f"the KV cache holds {cached} tokens that were computed before or otherwise than under this steering: they "
            "stay as they are, and figures leave them out"
        )
        text = Text(rows, length=cached)
        self._remember(text, cache)
        return text

    def _remember(self, text: Text, cache: Any) -> None:
        if cache is None:
            return
        alive = [(one, one.cache() if one.cache is not None else None) for one in self._texts]
        self._texts = [one for one, its in alive if its is not None and its is not cache and one is not text]
        text.cache = weakref.ref(cache)
        if self.run is not None and self.run.text is text:
            self.run.cache = cache
        self._texts.append(text)

    def _add_step(self, text: Text, start: int, end: int, ids: Tensor | None) -> Step:
        run, new = self.run, end - start
        text.trim(start)
        step = Step(start, new, new)
        if run is not None and ids is not None and (text.rows > 1):
            step.tokens = ids[:, -new:]
        if run is not None and run.is_wide:
            step.parents = parent_rows(run, text)
            run.before = run.ids
        text.steps.append(step)
        text.length = end
        return step

    def _meant(self, start: int, width: int, prompt: int | None) -> Tensor | bool:
        """Which of the places from `start` on the positions mean: all, none, or some [1, token]."""
        if self.positions == "all":
            return True
        if prompt is None:
            raise ValueError("a text without a known prompt is refused before")
        inside = self.positions == "prompt"
        if start >= prompt:
            return not inside
        if start + width <= prompt:
            return inside
        return ((torch.arange(start, start + width) < prompt) == inside).unsqueeze(0)

    def _real(self, given: dict[str, Any], rows: int, width: int, cached: int, cache: Any) -> Tensor | None:
        """Which tokens of a call are no pads [row, token], by the attention mask; None for all of them."""
        run = self.run
        if run is not None and run.prompt is not None and run.ids is not None and 0 < run.prompt <= cached:
            return None  # what `generate` of Transformers adds to a prompt is no pad
        mask = given.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            told = run.mask if run is not None else None
            if mask is not None and told is None and (run is None or run.odd_mask):
                self._say(
                    "the attention mask is not of the form [batch, token]: pads cannot be told from it, and count"
                )
            mask = told
        if mask is None:
            return None
        if mask.shape[1] != cached + width:
            room = _room(cache)
            if room is None or mask.shape[1] != room:
                raise _unexplained(
                    f"the attention mask covers {mask.shape[1]} tokens, and the KV cache and the call have {cached} and "
                    f"{width}"
                )
            mask = mask[:, : cached + width]
        real = mask[:, -width:] != 0
        return None if bool(real.all()) else real.expand(rows, -1)

    def _special_at(self, ids: Tensor | None, embeddings: Tensor | None, embed: Embed | None) -> Tensor | None:
        """Where special tokens are [row, token], None for nowhere; among embeddings, those that equal theirs."""
        if not self._special:
            return None
        if ids is not None:
            if ids.shape[1] == 1 and self._special.isdisjoint(ids.flatten().tolist()):
                return None  # quicker than a comparison of tensors
            if ids.device not in self._special_on:
                self._special_on[ids.device] = torch.tensor(sorted(self._special), device=ids.device)
            found = (ids.unsqueeze(-1) == self._special_on[ids.device]).any(-1)
        else:
            if embed is None or embeddings is None:
                return None
            theirs = embed(torch.tensor(sorted(self._special), device=embeddings.device)).to(embeddings)
            found = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
            for one in theirs:
                found |= (embeddings == one).all(-1)
        return found if bool(found.any()) else None

    def _combine(
        self, shape: tuple[int, int], meant: Tensor | bool, real: Tensor | None, special: Tensor | None
    ) -> tuple[Tensor | None, bool]:
        if meant is False:
            return None, True
        mask = real
        if special is not None:
            mask = ~special if mask is None else mask & ~special.to(mask.device)
        if isinstance(meant, Tensor):
            mask = meant if mask is None else mask & meant.to(mask.device)
        return (None if mask is None else mask.expand(shape)), False

    def _say(self, line: str) -> None:
        """Warn, once per line and steering."""
        if line not in self._said:
            self._said.add(line)
            warnings.warn(line, UserWarning, stacklevel=2)


class _Loop:
    """Tells, in a loop of one's own without a KV cache, the tokens that it generated from those of its prompt.

    A call goes on with the one before where every row is a row of that one, as it was or with a token more, pads left
    out; anything else is a new prompt.
    """

    def __init__(self) -> None:
        self._prompts: list[tuple[tuple[Any, ...], int]] = []

    def generated(self, ids: Tensor | None, embeddings: Tensor | None, real: Tensor | None) -> Tensor:
        """Which tokens are generated [row, token]."""
        tokens = ids if ids is not None else embeddings
        if tokens is None:
            raise ValueError("a call without ids has embeddings")
        counts = torch.ones(tokens.shape[:2], dtype=torch.bool) if real is None else real.cpu()
        rows = [_keys(row[kept]) for row, kept in zip(tokens.detach().cpu(), counts, strict=True)]
        before = dict(reversed(self._prompts))
        own = dict(enumerate(self._prompts))
        found = []
        for number, row in enumerate(rows):
            old = own.get(number)
            same_place = old is not None and old[0] in (row, row[:-1])
            found.append(old[1] if old is not None and same_place else before.get(row[:-1], before.get(row)))
        known = [length for length in found if length is not None]
        grew = any(row not in before for row in rows)
        goes_on = len(known) == len(rows) == len(own) and grew
        lengths = known if goes_on else [len(row) for row in rows]
        self._prompts = list(zip(rows, lengths, strict=True))
        rank = counts.cumsum(1)
        return (rank > torch.tensor([length for _, length in self._prompts])[:, None]) & counts


def _unexplained(what: str) -> AtlasError:
    return AtlasError(
        f"{what}, so that it cannot be told which tokens these are: generate with use_cache=False (on a TransformerBridge "
        "use_past_kv_cache=False; TransformerLens 3.9 does not fill its cache under transformers 5.24 or later: install "
        "transformers below 5.24)"
    )


def _check_beginning(given: dict[str, Any], width: int) -> None:
    """Raise AtlasError where a single token without a cache says that it is not the first."""
    for name in ("position_ids", "cache_position"):
        places = given.get(name)
        if width == 1 and isinstance(places, Tensor) and places.numel() and int(places.max()) > 0:
            raise _unexplained(f"a call gives 1 token at place {int(places.max())} with an empty KV cache")


def _room(cache: Any) -> int | None:
    """How many tokens a cache of a fixed size can hold; None for one that grows."""
    asked = getattr(cache, "get_max_length", None) or getattr(cache, "get_max_cache_shape", None)
    found = asked() if asked is not None else None
    return int(found) if found is not None and int(found) > 0 else None


def _only(mask: Tensor) -> Tensor | bool:
    """A mask, or the one value that it has everywhere."""
    return True if bool(mask.all()) else mask if bool(mask.any()) else False


def _keys(row: Tensor) -> tuple[Any, ...]:
    return tuple(row.tolist()) if row.ndim == 1 else tuple(map(tuple, row.tolist()))
