"""Run the language model for the scorers that need it: over a topic's texts, and with single neurons raised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import polars as pl
import torch
from torch import Tensor

from atlas.activations import encode_entries, run_model, summarise, tokenize
from atlas.checks import check_identity, require_complete
from atlas.errors import ModelError
from atlas.models import LanguageModel, LoadedSae, load_language_model, load_sae
from atlas.progress import Progress, silent
from atlas.sites import find_site
from atlas.store import Store
from atlas.vocabulary import bos_token_id, promoted_ids

NEUTRAL_PREFIX = "I think that"
PROMOTED = 20  # tokens a neuron is taken to write
RAISED_BY = 10.0  # times the neuron's largest reference activation


class ModelProbe:
    """The language model and SAEs of an atlas, loaded when they are first asked.

    Args:
        store: a finished atlas.
        model: where the language model is now; None for where it was at build.
        release: where the SAEs are now; None for where they were at build.
        device: torch device.
        batch_size: texts, or raised neurons, per forward pass.
        progress: called with (stage, done, total).
    """

    def __init__(
        self,
        store: Store,
        *,
        model: str | None = None,
        release: str | None = None,
        device: str = "cpu",
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> None:
        self._model_name, self._release = model, release
        self._device, self._batch_size, self._progress = device, batch_size, progress
        with store.read() as session:
            require_complete(session, store)
            self._rows = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
            self._peaks = {
                key: session.ask("steering_columns", sae_key=key, scoring_id=None)["max_activation"].to_torch()
                for key in self._rows
            }
        self._loaded: dict[int, LoadedSae] = {}

    @cached_property
    def model(self) -> LanguageModel:
        """The language model; StoreError when it is not the one the atlas was built with."""
        row = next(iter(self._rows.values()))
        self._progress("loading model and SAEs", 0, 0)
        loaded = load_language_model(self._model_name or row["model"], device=self._device, dtype=row["dtype"])
        check_identity(row, loaded.model_hash, loaded.tokenizer_hash)
        return loaded

    def sae(self, key: int) -> LoadedSae:
        """An SAE; StoreError when it is not the one the atlas was built with."""
        if key not in self._loaded:
            row = self._rows[key]
            loaded = load_sae(self._release or row["release"], row["sae_id"], device=self._device, dtype=row["dtype"])
            check_identity(row, row["model_hash"], row["tokenizer_hash"], loaded.sae_hash)
            self._loaded[key] = loaded
        return self._loaded[key]

    def topic_activations(self, texts: Sequence[str], sae_keys: Sequence[int]) -> tuple[list[int], pl.DataFrame]:
        """Tokens per text, and rows of `topic_activations` without their topic_id (score.Probe)."""
        special = frozenset(self.model.tokenizer.all_special_ids)
        counts: list[int] = []
        frames: list[pl.DataFrame] = []
        for start in range(0, len(texts), self._batch_size):
            some = texts[start : start + self._batch_size]
            self._progress("running the model over the topic", start, len(texts))
            text_ids = torch.arange(start, start + len(some)).numpy()
            for key in sae_keys:
                sae = self.sae(key)
                ids, _ = tokenize(self.model, some, prepend_bos=sae.prepend_bos)
                caught = run_model(self.model, ids, [sae.hook_name])[sae.hook_name]
                rows, _ = summarise(encode_entries(sae, caught, ids, special), text_ids, sae.codec.d_sae)
                key_column = pl.lit(key, pl.UInt32).alias("sae_key")
                frames.append(rows.rename({"prompt_id": "text_id"}).with_columns(key_column))
                if key == sae_keys[0]:
                    counts += [sum(token not in special for token in row) for row in ids]
        return counts, pl.concat(frames)

    @torch.no_grad()
    def output_scores(self, sae_key: int, neurons: Sequence[int]) -> pl.DataFrame:
        """Output scores of neurons: S = max over its 20 tokens T of P(t) x (1 - smallest rank of T / V).

        One forward pass of a neutral prefix per neuron, in batches, with the neuron raised at the last position by
        RAISED_BY times its largest reference activation, reconstruction error kept (arXiv 2505.20063).

        Raises:
            ModelError: the SAE's hook does not write to the residual stream.
        """
        sae, wanted = self.sae(sae_key), torch.tensor(list(neurons), dtype=torch.long)
        tokens = promoted_ids(self.model, sae, count=PROMOTED, neurons=wanted)
        if tokens is None:
            raise ModelError(
                f"SAE {sae.sae_id}: {sae.hook_name} does not write to the residual stream, so its neurons have no "
                "output score"
            )
        values: list[Tensor] = []
        for start in range(0, len(wanted), self._batch_size):
            self._progress("raising neurons", start, len(wanted))
            part = slice(start, start + self._batch_size)
            logits = self._logits_with(sae, wanted[part], self._peaks[sae_key][wanted[part]] * RAISED_BY)
            promoted = logits.gather(-1, tokens[part])
            ranks = (logits.unsqueeze(-2) > promoted.unsqueeze(-1)).sum(-1) + 1
            chance = logits.softmax(-1).gather(-1, tokens[part]).amax(-1)
            values.append(chance * (1 - ranks.amin(-1) / logits.shape[-1]))
        output = torch.cat([torch.zeros(0), *(value.cpu() for value in values)]).double().numpy()
        return pl.DataFrame({"neuron": pl.Series(list(neurons), dtype=pl.UInt32), "output": output})

    def _logits_with(self, sae: LoadedSae, neurons: Tensor, raises: Tensor) -> Tensor:
        """Logits after the neutral prefix [neuron, vocabulary], each row with one neuron raised at the last position."""
        tokenizer, codec = self.model.tokenizer, sae.codec
        ids = tokenizer(NEUTRAL_PREFIX, add_special_tokens=False)["input_ids"]
        row = [bos_token_id(tokenizer)] * sae.prepend_bos + ids
        batch = torch.tensor([row] * len(neurons), device=self._device)
        steps = raises.to(codec.decoder_rows).unsqueeze(-1) * codec.decoder_rows[neurons.to(codec.decoder_rows.device)]

        def raise_last(x: Tensor) -> Tensor:
            last = x[:, -1]
            return torch.cat([x[:, :-1], codec.add(last, steps, codec.input_scale(last)).unsqueeze(1)], dim=1)

        bridge: Any = self.model.bridge
        handle = find_site(bridge, sae.hook_name).edit(raise_last)
        try:
            return bridge(batch)[:, -1].float()
        finally:
            handle.remove()
