"""Run the language model for the scorers that need it: over a topic's texts, and with single neurons raised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from atlas.errors import ModelError
from atlas.models.activations import entries_at, summarise
from atlas.models.fingerprints import check_identity
from atlas.models.hooks import find_site, hook_activations
from atlas.models.loading import LanguageModel, load_language_model
from atlas.models.recorded import RecordedModels
from atlas.models.saes import LoadedSae
from atlas.models.tokens import token_rows
from atlas.models.unembedding import promoted_ids
from atlas.progress import Progress, silent
from atlas.store.state import require_complete

NEUTRAL_PREFIX = "I think that"
PROMOTED = 20  # tokens a neuron is taken to write
RAISED_BY = 10.0  # times the neuron's largest reference activation
BATCH_SIZE = 32  # raised neurons per forward pass


class ModelProbe:
    """The language model and SAEs of an atlas, loaded when they are first asked (atlas.scoring.evidence.Probe).

    Args:
        recorded: the model and SAEs.
        progress: called with (stage, done, total).
    """

    def __init__(self, recorded: RecordedModels, *, progress: Progress = silent) -> None:
        self._recorded, self._progress = recorded, progress
        with recorded.store.read() as session:
            require_complete(session, recorded.store)
            self._rows = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}

    @cached_property
    def model(self) -> LanguageModel:
        """The language model as a TransformerBridge; StoreError when it is not the one the atlas was built with."""
        row, recorded = next(iter(self._rows.values())), self._recorded
        self._progress("loading model and SAEs", 0, 0)
        loaded = load_language_model(recorded.model_name, device=recorded.device, dtype=row["dtype"])
        check_identity(row, loaded.model_hash, loaded.tokenizer_hash)
        return loaded

    def topic_activations(self, texts: Sequence[str], sae_keys: Sequence[int]) -> tuple[list[int], pl.DataFrame]:
        """Tokens per text, and rows of `topic_activations` without their topic_id."""
        counts: list[int] = []
        frames: list[pl.DataFrame] = []
        for prepend_bos in {self._rows[key]["prepend_bos"] for key in sae_keys}:
            alike = [self._rows[key] for key in sae_keys if self._rows[key]["prepend_bos"] == prepend_bos]
            codecs = {row["sae_key"]: self._recorded.placed_sae(row).codec for row in alike}
            names, counts = [row["hook_name"] for row in alike], []
            for caught, mask in hook_activations(self._recorded.read_as(alike[0]), texts, names):
                self._progress("running the model over the topic", len(counts), len(texts))
                text_ids = np.arange(len(counts), len(counts) + len(mask))
                for row in alike:
                    codec = codecs[row["sae_key"]]
                    rows, _ = summarise(entries_at(codec, caught[row["hook_name"]], mask), text_ids, codec.d_sae)
                    key_column = pl.lit(row["sae_key"], pl.UInt32).alias("sae_key")
                    frames.append(rows.rename({"prompt_id": "text_id"}).with_columns(key_column))
                counts += mask.sum(dim=1).tolist()
        return counts, pl.concat(frames)

    @torch.no_grad()
    def output_scores(self, sae_key: int, neurons: Sequence[int]) -> pl.DataFrame:
        """Output scores of neurons: S = max over its 20 tokens T of P(t) x (1 - smallest rank of T / V).

        One forward pass of a neutral prefix per neuron, in batches, with the neuron raised at the last position by
        RAISED_BY times its largest reference activation, reconstruction error kept (arXiv 2505.20063).

        Raises:
            ModelError: the SAE's hook does not write to the residual stream.
        """
        sae, wanted = self._recorded.sae(self._rows[sae_key]), torch.tensor(list(neurons), dtype=torch.long)
        tokens = promoted_ids(self.model, sae, count=PROMOTED, neurons=wanted)
        if tokens is None:
            raise ModelError(
                f"SAE {sae.sae_id}: {sae.hook_name} does not write to the residual stream, so its neurons have no "
                "output score"
            )
        with self._recorded.store.read() as session:
            peaks = session.ask("steering_columns", sae_key=sae_key, scoring_id=None)["max_activation"].to_torch()
        values: list[Tensor] = []
        for start in range(0, len(wanted), BATCH_SIZE):
            self._progress("raising neurons", start, len(wanted))
            part = slice(start, start + BATCH_SIZE)
            logits = self._logits_with(sae, wanted[part], peaks[wanted[part]] * RAISED_BY)
            promoted = logits.gather(-1, tokens[part])
            ranks = (logits.unsqueeze(-2) > promoted.unsqueeze(-1)).sum(-1) + 1
            chance = logits.softmax(-1).gather(-1, tokens[part]).amax(-1)
            values.append(chance * (1 - ranks.amin(-1) / logits.shape[-1]))
        output = torch.cat([torch.zeros(0), *(value.cpu() for value in values)]).double().numpy()
        return pl.DataFrame({"neuron": pl.Series(list(neurons), dtype=pl.UInt32), "output": output})

    def _logits_with(self, sae: LoadedSae, neurons: Tensor, raises: Tensor) -> Tensor:
        """Logits after the neutral prefix [neuron, vocabulary], each row with one neuron raised at the last position."""
        tokenizer, codec = self.model.tokenizer, sae.codec
        [row] = token_rows(tokenizer, [NEUTRAL_PREFIX], prepend_bos=sae.prepend_bos)
        batch = torch.tensor([row] * len(neurons), device=self._recorded.device)
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
