"""Plan a build: check that model and SAEs fit, and write down in one transaction what is to be done."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from atlas.models.activations import tokenize
from atlas.models.embeddings import count_cut
from atlas.models.encoders import Encoder
from atlas.models.loading import LanguageModel
from atlas.models.saes import LoadedSae
from atlas.models.tokens import special_ids
from atlas.models.unembedding import promoted_tokens
from atlas.progress import Progress
from atlas.store.file import SCHEMA_VERSION, Store
from atlas.store.session import Session, now
from atlas.texts.prompts import TextSet, hash_texts

SHARD_PROMPTS = 512
TOKENIZED_PROMPTS = 1024  # at a time: what a tokenizer gives takes far more memory than their text
LIBRARIES = ("torch", "transformers", "transformer-lens", "sae-lens", "sentence-transformers", "duckdb")


def write_plan(
    store: Store,
    prompts: TextSet,
    model: LanguageModel,
    saes: Mapping[int, LoadedSae],
    *,
    encoder: Encoder,
    dtype: str,
    progress: Progress,
) -> tuple[int, int, int]:
    """Write down what is to be done, in one transaction.

    Returns:
        New prompts, how many of them are cut to the model's context, and how many the sentence encoder cuts.
    """
    with store.read() as session:
        old = session.ask("prompt_texts")["text"].to_list()
        begun = session.ask("atlas_row").height > 0
        known = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
    have = set(old)
    fresh = [i for i, text in enumerate(prompts.texts) if text not in have]
    texts = [prompts.texts[i] for i in fresh]
    counts, truncated = _count_tokens(model, texts, prepend_bos=any(sae.prepend_bos for sae in saes.values()))
    prompt_rows = pl.DataFrame(
        {
            "prompt_id": np.arange(len(old), len(old) + len(texts), dtype=np.uint32),
            "text": pl.Series(texts, dtype=pl.String),
            "source": pl.Series([prompts.sources[i] for i in fresh], dtype=pl.String),
            "n_tokens": pl.Series(counts, dtype=pl.UInt32),
        }
    )
    neurons = {key: _static_neurons(model, sae, key, progress) for key, sae in saes.items() if key not in known}
    with store.write() as session:
        if not begun:
            session.append("atlas", _atlas_row(encoder))
        if not begun or texts or neurons:
            session.run("mark_building", reference_hash=hash_texts([*old, *texts]))
        session.append("prompts", prompt_rows)
        session.run("move_model", model=model.name)
        for key, sae in sorted(saes.items()):
            if key in known:
                session.run("move_sae", sae_key=key, release=sae.release, sae_id=sae.sae_id)
            else:
                session.append("saes", _sae_row(model, sae, key, dtype))
                session.append("neurons", neurons[key])
            first = len(old) if key in known else 0
            session.append("shards", _shard_rows(session, key, first, len(old) + len(texts)))
    return len(texts), truncated, count_cut(encoder, texts)


def _count_tokens(model: LanguageModel, texts: Sequence[str], *, prepend_bos: bool) -> tuple[list[int], int]:
    """Tokens of each text that are not special, and how many texts are cut to the context."""
    special = special_ids(model.tokenizer)
    counts, truncated = [], 0
    for start in range(0, len(texts), TOKENIZED_PROMPTS):
        ids, cut = tokenize(model, texts[start : start + TOKENIZED_PROMPTS], prepend_bos=prepend_bos)
        counts += [sum(token not in special for token in row) for row in ids]
        truncated += sum(cut)
    return counts, truncated


def _shard_rows(session: Session, key: int, first: int, last: int) -> pl.DataFrame:
    """Shards for prompts first to last - 1, numbered after the SAE's earlier ones."""
    starts = list(range(first, last, SHARD_PROMPTS))
    offset = session.value("count_shards", sae_key=key)
    return pl.DataFrame(
        {
            "sae_key": pl.Series([key] * len(starts), dtype=pl.UInt32),
            "shard": pl.Series([offset + i for i in range(len(starts))], dtype=pl.UInt32),
            "first_prompt": pl.Series(starts, dtype=pl.UInt32),
            "prompts": pl.Series([min(SHARD_PROMPTS, last - start) for start in starts], dtype=pl.UInt32),
        }
    )


def _static_neurons(model: LanguageModel, sae: LoadedSae, key: int, progress: Progress) -> pl.DataFrame:
    """Rows of `neurons` that do not depend on prompts."""
    progress(f"what the neurons of {sae.sae_id} write", 0, 0)
    return pl.DataFrame(
        {
            "sae_key": pl.Series([key] * sae.codec.d_sae, dtype=pl.UInt32),
            "neuron": np.arange(sae.codec.d_sae, dtype=np.uint32),
            "decoder_norm": sae.codec.decoder_rows.norm(dim=-1).float().cpu().numpy(),
            "top_tokens": pl.Series(promoted_tokens(model, sae), dtype=pl.List(pl.String)),
        }
    )


def _atlas_row(encoder: Encoder) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "schema_version": [SCHEMA_VERSION],
            "state": ["building"],
            "encoder": [encoder.name],
            "encoder_source": [encoder.source],
            "encoder_hash": [encoder.encoder_hash],
            "created_at": [now()],
            "libraries": [json.dumps({name: importlib.metadata.version(name) for name in LIBRARIES})],
        }
    )


def _sae_row(model: LanguageModel, sae: LoadedSae, key: int, dtype: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "sae_key": pl.Series([key], dtype=pl.UInt32),
            "model": [model.name],
            "model_hash": [model.model_hash],
            "tokenizer_hash": [model.tokenizer_hash],
            "release": [sae.release],
            "sae_id": [sae.sae_id],
            "sae_hash": [sae.sae_hash],
            "hook_name": [sae.hook_name],
            "architecture": [sae.architecture],
            "d_in": pl.Series([sae.codec.d_in], dtype=pl.UInt32),
            "d_sae": pl.Series([sae.codec.d_sae], dtype=pl.UInt32),
            "dtype": [dtype],
            "context_size": pl.Series([model.context_size], dtype=pl.UInt32),
            "prepend_bos": [sae.prepend_bos],
            "center_writing_weights": [sae.center_writing_weights],
            "normalize_activations": [sae.codec.sae.cfg.normalize_activations],
            "reshape_activations": [sae.codec.sae.cfg.reshape_activations],
            "neuronpedia_id": pl.Series([sae.neuronpedia_id], dtype=pl.String),
        }
    )
