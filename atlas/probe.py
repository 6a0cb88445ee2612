"""Run the language model for the scorers that need it: over a topic's texts, and with single neurons raised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from atlas.activations import entries_at, summarise
from atlas.checks import check_identity, require_complete
from atlas.errors import ModelError, UnknownName
from atlas.layerwise import hook_activations
from atlas.models import LanguageModel, LoadedSae, load_language_model
from atlas.progress import Progress, silent
from atlas.prompts import collect_texts
from atlas.score import ScoringConfig, score_topics
from atlas.scorers import SCORERS
from atlas.selection import RULES, SCORERS_OF
from atlas.sites import find_site
from atlas.steerer import Steerer
from atlas.vocabulary import promoted_ids, with_bos

NEUTRAL_PREFIX = "I think that"
PROMOTED = 20  # tokens a neuron is taken to write
RAISED_BY = 10.0  # times the neuron's largest reference activation
BATCH_SIZE = 32  # raised neurons per forward pass


class ModelProbe:
    """The language model and SAEs of an atlas, loaded when they are first asked (score.Probe).

    Args:
        steerer: the model and SAEs.
        progress: called with (stage, done, total).
    """

    def __init__(self, steerer: Steerer, *, progress: Progress = silent) -> None:
        self._steerer, self._progress = steerer, progress
        with steerer.store.read() as session:
            require_complete(session, steerer.store)
            self._rows = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}

    @cached_property
    def model(self) -> LanguageModel:
        """The language model as a TransformerBridge; StoreError when it is not the one the atlas was built with."""
        row, steerer = next(iter(self._rows.values())), self._steerer
        self._progress("loading model and SAEs", 0, 0)
        loaded = load_language_model(steerer.model_name, device=steerer.device, dtype=row["dtype"])
        check_identity(row, loaded.model_hash, loaded.tokenizer_hash)
        return loaded

    def topic_activations(self, texts: Sequence[str], sae_keys: Sequence[int]) -> tuple[list[int], pl.DataFrame]:
        """Tokens per text, and rows of `topic_activations` without their topic_id."""
        model, tokenizer = self._steerer.model
        counts: dict[int, list[int]] = {}
        frames: list[pl.DataFrame] = []
        for key in sae_keys:
            row = self._rows[key]
            codec, done, counts[key] = self._steerer.placed_sae(row).codec, 0, []
            batches = hook_activations(model, tokenizer, texts, row["hook_name"], prepend_bos=row["prepend_bos"])
            for x, mask in batches:
                self._progress("running the model over the topic", done, len(texts))
                text_ids = np.arange(done, done + len(mask))
                rows, _ = summarise(entries_at(codec, x, mask), text_ids, codec.d_sae)
                key_column = pl.lit(key, pl.UInt32).alias("sae_key")
                frames.append(rows.rename({"prompt_id": "text_id"}).with_columns(key_column))
                counts[key] += mask.sum(dim=1).tolist()
                done += len(mask)
        return counts[sae_keys[0]], pl.concat(frames)

    @torch.no_grad()
    def output_scores(self, sae_key: int, neurons: Sequence[int]) -> pl.DataFrame:
        """Output scores of neurons: S = max over its 20 tokens T of P(t) x (1 - smallest rank of T / V).

        One forward pass of a neutral prefix per neuron, in batches, with the neuron raised at the last position by
        RAISED_BY times its largest reference activation, reconstruction error kept (arXiv 2505.20063).

        Raises:
            ModelError: the SAE's hook does not write to the residual stream.
        """
        sae, wanted = self._steerer.sae(self._rows[sae_key]), torch.tensor(list(neurons), dtype=torch.long)
        tokens = promoted_ids(self.model, sae, count=PROMOTED, neurons=wanted)
        if tokens is None:
            raise ModelError(
                f"SAE {sae.sae_id}: {sae.hook_name} does not write to the residual stream, so its neurons have no "
                "output score"
            )
        with self._steerer.store.read() as session:
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
        ids = tokenizer(NEUTRAL_PREFIX, add_special_tokens=False)["input_ids"]
        row = with_bos(tokenizer, ids, prepend_bos=sae.prepend_bos)
        batch = torch.tensor([row] * len(neurons), device=self._steerer.device)
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


def ensure_signals(
    steerer: Steerer,
    topic: str | None,
    rule: str,
    sae_keys: Sequence[int] | None = None,
    *,
    progress: Progress = silent,
) -> None:
    """Score a topic by what a selection rule needs and the loaded model can give at once (scorer contrast), once.

    A signal that takes longer, such as output, is left to `atlas score`, and selection says so.

    Args:
        topic: None needs no signal.
        rule: key of RULES.
        sae_keys: which SAEs; None for all that the topic is scored for.
    """
    if rule not in RULES:
        raise UnknownName("selection rule", rule, RULES)
    scorers = {SCORERS_OF[column] for column in RULES[rule].needs}
    wanted = [name for name in scorers if SCORERS[name].needs == "activations"]
    if topic is None or not wanted:
        return
    with steerer.store.read() as session:
        texts = session.ask("topic_texts", topic=topic)["text"].to_list()
        scored = {name: session.ask("current_scorings", topic=topic, scorer=name) for name in ("distance", *wanted)}
    keys = scored["distance"]["sae_key"].to_list() if sae_keys is None else list(sae_keys)
    for name in wanted:
        missing = [key for key in keys if key not in scored[name]["sae_key"].to_list()]
        if missing and texts:
            probe = ModelProbe(steerer, progress=progress)
            config = ScoringConfig(scorer=name)
            score_topics(
                steerer.store, {topic: collect_texts(texts)}, embed=_never, config=config, sae_keys=missing, probe=probe
            )


def _never(texts: Sequence[str]) -> pl.DataFrame:
    raise AssertionError("a topic's own texts are embedded already")
