"""The neurons that are nearest to one: by what they mean, by the prompts they fire on, by what they write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import torch

from atlas.models.codec import Codec
from atlas.store.session import Asks

KINDS = ("meaning", "co-firing", "decoder")
NEAREST = 8  # per kind and SAE
SCHEMA = {"kind": pl.String, "sae_key": pl.UInt32, "neuron": pl.UInt32, "cosine": pl.Float64}


def nearest_in_meaning(session: Asks, sae_key: int, neuron: int, keys: list[int], n: int = NEAREST) -> pl.DataFrame:
    """The n neurons per SAE that are nearest by the cosine of neuron vectors, as nearest_neurons gives them."""
    frames = [session.ask("nearest_in_meaning", neuron=neuron, n=n, sae=str(sae_key), other=str(key)) for key in keys]
    return _as_kind("meaning", pl.concat(frames))


def nearest_in_firing(session: Asks, sae_key: int, neuron: int, n: int = NEAREST) -> pl.DataFrame:
    """The n neurons per SAE that fire on the same prompts, by the cosine of similar_neurons."""
    return _as_kind("co-firing", session.ask("co_firing", sae_key=sae_key, neuron=neuron, n=n))


def nearest_in_writing(
    row: Mapping[str, Any],
    neuron: int,
    others: list[dict[str, Any]],
    codec_of: Callable[[Mapping[str, Any]], Codec],
    n: int = NEAREST,
) -> pl.DataFrame:
    """The n neurons per SAE whose decoder rows are nearest to one's, by their cosine.

    Args:
        row: the SAE's row of `saes`.
        neuron: the neuron.
        others: rows of the SAEs to look in; those that write to another kind of place, or in another width, are passed over.
        codec_of: gives the SAE of such a row.
        n: per SAE.
    """
    own = _directions(codec_of(row))[neuron]
    frames = [pl.DataFrame(schema=SCHEMA)]
    for other in others:
        if not _comparable(row, other):
            continue
        cosines = _directions(codec_of(other)) @ own
        if other["sae_key"] == row["sae_key"]:
            cosines[neuron] = -torch.inf
        best = cosines.topk(min(n + 1, len(cosines)))
        found = {"neuron": best.indices.tolist(), "cosine": best.values.double().tolist()}
        frame = pl.DataFrame(found, schema_overrides={"neuron": pl.UInt32})
        frame = frame.filter(pl.col("cosine").is_finite()).head(n)
        frames.append(_as_kind("decoder", frame.with_columns(sae_key=pl.lit(other["sae_key"], pl.UInt32))))
    return pl.concat(frames)


def _comparable(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two SAEs write to the same kind of place of one model."""
    places = [one["hook_name"].rsplit(".", 1)[-1].replace("_pre", "_post") for one in (row, other)]
    return places[0] == places[1] and row["d_in"] == other["d_in"] and row["model_hash"] == other["model_hash"]


def _directions(codec: Codec) -> torch.Tensor:
    """Decoder rows of length 1 [neuron, d_in]; zeros stay zeros."""
    return torch.nn.functional.normalize(codec.decoder_rows.float(), dim=-1)


def _as_kind(kind: str, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.lit(kind).alias("kind"), "sae_key", "neuron", "cosine").cast(SCHEMA)  # type: ignore[arg-type]
