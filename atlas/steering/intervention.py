"""Steer a model while a `with` block lasts: hooks at the SAEs' sites, and the figures of what they did.

Works on a TransformerLens TransformerBridge and on a plain Hugging Face model, with any generation code that calls the
model, with and without a KV cache. What is prompt, generated, pad or thrown away is told by atlas.steering.token_tracking.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from atlas.errors import AtlasError, UnknownName
from atlas.models.hooks import Handle, find_site
from atlas.models.loaded import LoadedModel
from atlas.models.tokens import pad_left
from atlas.steering.call_watching import ModelWatch, bare_model
from atlas.steering.contamination import Figures
from atlas.steering.methods import DEFAULT_METHOD, METHODS, EditedCode, MovedActivation, SteeredSae, settle_options
from atlas.steering.settings import POSITIONS, Options, SteeringSettings
from atlas.steering.token_records import Call, Text
from atlas.steering.token_tracking import TokenTracker


class Steering:
    """A context manager that steers `model` and removes every hook on exit.

    It is entered once at a time, and may be entered again afterwards; several contexts may steer a model at once, each on
    top of the others. The hooks are the model's and not the thread's: whoever calls the model meanwhile is steered too, so
    threads that steer differently need a model each, or take turns.

    Text and figures are those of each text generated alone without a KV cache, however the model is called:

    * `generate` with every kind of cache (also one that goes on from an earlier turn), or none; batches padded on either
      side, by the attention mask; sampling, beams, several returned sequences; the prompt in chunks; assisted decoding and
      prompt lookup, whose refused guesses count nowhere; embeddings instead of ids.
    * A loop of one's own. Its prompt is what the first call gives; after it come single tokens on a cache, or the whole
      text with a token more. Positions "prompt" and "generated" refuse several tokens at once on a filled cache.
    * Compiled models, which run uncompiled inside the block. Training and attribution: gradients pass through the edits;
      call `backward` inside the block where the model checkpoints gradients.

    Refused in one line: caches that hold another number of tokens than the mask and the call say (TransformerLens 3.9
    under transformers 5.24), texts packed into one row, copies of the model (DataParallel), a layer on another device than
    its SAE, a layer called without its model, a hook that never runs.

    Args:
        model: a TransformerBridge or a Hugging Face causal model; a compiled or otherwise wrapped one does too.
        saes: the SAEs, each with its scores.
        method: key of METHODS.
        options: strength, number of neurons, sigma; None where the method's default is meant.
        keep_error: for methods that decode: x' = x + s(x) · (a' - a) · D instead of x' = decode(a').
        positions: key of POSITIONS.
        special_ids: token ids that are never steered.
        reader: the model with its tokenizer and what stands before a text, for `encode`.

    Raises:
        AtlasError: it is entered while it steers already.
    """

    def __init__(
        self,
        model: nn.Module,
        saes: Sequence[SteeredSae],
        *,
        method: str = DEFAULT_METHOD,
        options: Options = Options(),
        keep_error: bool = SteeringSettings.keep_error,
        positions: str = SteeringSettings.positions,
        special_ids: Collection[int] = (),
        reader: LoadedModel | None = None,
    ) -> None:
        if positions not in POSITIONS:
            raise UnknownName("positions", positions, POSITIONS)
        self.model = bare_model(model)
        self.saes = list(saes)
        self.method = method
        self.options = settle_options(method, options)
        self.keep_error = keep_error
        kind = METHODS[method].vector
        for sae in self.saes if kind else []:
            vector = sae.target.vectors.get(str(kind))
            if vector is None:
                raise AtlasError(f"method {method} steers by a contrastive vector: name one with --vector")
            if not vector.any():
                raise AtlasError(
                    f"the vector has no entry for method {method} at {sae.hook_name}: make it with a lower --tau, "
                    "or use method dense"
                )
        self.positions = positions
        self._reader = reader
        self._handles: list[RemovableHandle | Handle] = []
        self._tokens = TokenTracker(positions, special_ids)
        self._watch = ModelWatch(self.model, self._tokens, self._end_call)
        self._ran = [0] * len(self.saes)  # how often each hook ran in the call that is running
        self._recent: list[Call] = []  # calls that gradients may still come back to
        self._recalled = False  # whether they have

    def encode(self, prompts: str | Sequence[str]) -> dict[str, Tensor]:
        """Prompts as what `generate` takes: BOS first where the SAE wants one, or in the chat template; padded on the left.

        Raises:
            AtlasError: there is no tokenizer to do it with, no prompt, or no chat template.
        """
        if self._reader is None:
            raise AtlasError("this steering has no tokenizer: use `a.steer`, or tokenize the prompts yourself")
        rows = self._reader.prompt_rows([prompts] if isinstance(prompts, str) else prompts)
        if not rows or not all(rows):
            raise AtlasError("a prompt has no token: give some text")
        batch, mask, _ = pad_left(self._reader.tokenizer, rows, next(self.model.parameters()).device)
        return {"input_ids": batch, "attention_mask": mask}

    @property
    def saw_embeddings(self) -> bool:
        """Whether a call came with embeddings instead of token ids: special tokens are then told by their embeddings."""
        return self._tokens.saw_embeddings

    def __enter__(self) -> Self:
        if self._watch.is_on:
            raise AtlasError("this steering is entered already: leave it first, or make another one with `steer`")
        self._ran, self._recent = [0] * len(self.saes), []
        try:
            self._watch.start()
            for number, sae in enumerate(self.saes):
                site = find_site(self.model, sae.hook_name)
                self._handles.append(site.edit(lambda x, number=number: self._edit(x, number)))  # type: ignore[misc]
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        attempts, waiting = self._watch.attempts, self._recent and not self._recalled
        self._remove()
        if kind is None and not attempts:
            warnings.warn(
                "the model was not called inside the block, or only in a form that runs no hooks (traced, exported): "
                "nothing was steered",
                UserWarning,
                stacklevel=2,
            )
        if kind is None and waiting and any(getattr(m, "gradient_checkpointing", False) for m in self.model.modules()):
            warnings.warn(
                "the model checkpoints gradients, and `backward` was not called inside the block: it would run the "
                "layers again without steering",
                UserWarning,
                stacklevel=2,
            )

    def contamination(self) -> list[float | None]:
        """Per sequence: the mean over its tokens of Σ|a'|(1 - score) / Σ|a'|, in [0, 1], lower is purer.

        With several SAEs, their mean. None for a sequence without a token that counts. Of the last `generate`, per
        returned sequence; in a loop of one's own, of the last prompt and what followed it. Tokens that are not steered do
        not count, nor does the last generated token, which the model never reads.
        """
        per_layer = [figures.contamination() for figures in self._figures()]
        result: list[float | None] = []
        for values in zip(*per_layer, strict=True):
            known = [value for value in values if value is not None]
            result.append(sum(known) / len(known) if known else None)
        return result

    def token_contamination(self) -> list[list[float | None]]:
        """The same per token that the model has read, prompt and generated alike; None for one that does not count.

        It may be asked for while the text is still being generated.
        """
        layers = [figures.token_contamination() for figures in self._figures()]
        if not layers:
            return []
        found = torch.stack(layers).nanmean(0).tolist()
        return [[None if value != value else value for value in row] for row in found]

    def swapped(self) -> list[dict[str, float]]:
        """Per sequence: neurons per token that were active and stay so ("kept"), or not ("dropped"), and "new" ones."""
        counts = [figures.swapped() for figures in self._figures()]
        return [
            {name: sum(float(row[i]) for row in rows) / len(rows) for i, name in enumerate(("kept", "new", "dropped"))}
            for rows in zip(*counts, strict=True)
        ]

    def _figures(self) -> list[Figures]:
        text = self._tokens.text
        if text is None:
            return []
        text.settle()
        if text.unknown:
            raise AtlasError(f"these texts have no figures: {text.unknown}")
        return self._figures_of(text)

    def _figures_of(self, text: Text) -> list[Figures]:
        if not text.figures:
            text.figures = [Figures(sae, text) for sae in self.saes]
        return text.figures

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._watch.stop()

    def _end_call(self, call: Call) -> None:
        silent = [sae.hook_name for sae, times in zip(self.saes, self._ran, strict=True) if not times]
        self._ran = [0] * len(self.saes)
        if silent and not self._tokens.is_drafting:  # a model that drafts for itself may leave out its last layers
            raise AtlasError(f"the model was called, but its hook {silent[0]} never ran: it cannot be steered there")
        kept = [] if self._recalled or not torch.is_grad_enabled() else self._recent
        self._recent, self._recalled = [*kept, call] if torch.is_grad_enabled() else [], False

    def _edit(self, x: Tensor, number: int) -> Tensor:
        sae, running = self.saes[number], self._watch.call
        call = self._recall(sae) if running is None else running
        self._ran[number] += running is not None
        if tuple(x.shape[:2]) != call.shape:
            raise AtlasError(
                f"{sae.hook_name} gives the shape {list(x.shape)} where {list(call.shape)} tokens were expected: this "
                "model cannot be steered there"
            )
        if x.device != sae.codec.decoder_rows.device:
            raise AtlasError(
                f"{sae.hook_name} is on {x.device} and its SAE on {sae.codec.decoder_rows.device}: put the model on "
                "one device before it is steered"
            )
        if call.nothing:
            return x
        method, codec = METHODS[self.method], sae.codec
        mask = _both(None if call.steered is None else call.steered.to(x.device), codec.reads(x))
        edit = method.edit(codec, x, sae.target, self.options) if method.edit else MovedActivation(x)
        figures = self._figures_of(call.text)[number] if running is not None and call.new else None
        if isinstance(edit, EditedCode):
            code, acts = codec.narrow(edit.acts, edit.code)
            out = _mix(codec.shift(x, code, acts) if self.keep_error else codec.decode(acts, code, x), x, mask)
            if figures is not None:
                figures.add_code(acts, code, mask, call)
        else:
            out = x if edit.activation is x else _mix(edit.activation, x, mask)
            if figures is not None:
                figures.add_activation(out, mask, call)
        return out

    def _recall(self, sae: SteeredSae) -> Call:
        """The call whose layers are run again for their gradients, to be steered as they were and counted no more."""
        if not self._recent:
            raise AtlasError(
                f"the layer of {sae.hook_name} was called without its model, so that its tokens are unknown: call the model"
            )
        first = self._recent[0]
        if any(call.steered is not None or call.nothing or call.shape != first.shape for call in self._recent[1:]) or (
            len(self._recent) > 1 and (first.steered is not None or first.nothing)
        ):
            raise AtlasError(
                "gradients of several calls are checkpointed, and which one runs again cannot be told: call `backward` "
                "after each"
            )
        self._recalled = True
        return first


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Where both masks say so; a mask of None says so everywhere."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _mix(moved: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """`moved` where mask [batch, token] says so, x elsewhere."""
    return moved if mask is None else torch.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), moved, x)
