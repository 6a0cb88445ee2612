"""A map of all neurons: two numbers each, so that those that are alike lie together (UMAP, McInnes et al. 2018).

By `vectors`, what neurons mean, all SAEs lie on one map: their vectors are points among the same embeddings. By `decoder`, what
neurons write, each SAE has a map of its own. A map is stored, and made again only when what it was made of has changed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from atlas.errors import AtlasError, UnknownName
from atlas.meaning.neuron_vectors import ensure_neuron_vectors
from atlas.progress import Progress, silent
from atlas.store.contents import stack_vectors
from atlas.store.file import Store
from atlas.store.session import Asks, now
from atlas.store.state import require_complete
from atlas.store.waiting import patient

BASES = ("vectors", "decoder")
NEIGHBOURS = 15  # of each neuron, whose distances the map keeps
EXACT = 60_000  # neurons up to which all are compared with all; more are compared with some
MANY = 30_000  # neurons whose map takes more than a minute
FEW = 10  # neurons that need no map: they lie by their two largest components
EPOCHS = 200
BLOCK_VALUES = 1 << 24  # cosines in memory at once
Rows = Callable[[Mapping[str, Any]], np.ndarray]  # a row of `saes` -> its decoder rows [neuron, dimension]


def ensure_map(
    store: Store,
    basis: str = "vectors",
    *,
    decoder_rows: Rows,
    seed: int | None = None,
    again: bool = False,
    progress: Progress = silent,
) -> pl.DataFrame:
    """The map of a basis, made and stored where there is none, or none of today's neurons.

    Args:
        store: a finished atlas.
        basis: key of BASES.
        decoder_rows: gives an SAE's decoder rows; called for basis decoder only.
        seed: of the random numbers; None for 0, or whatever a map that is there has.
        again: whether to make it anew all the same.
        progress: called with (stage, done, total).

    Returns:
        A row per neuron: sae_key, sae_id, neuron, x, y, support, density, label.

    Raises:
        UnknownName: there is no such basis.
        AtlasError: no neuron fired, or umap-learn is not installed.
        StoreError: the atlas is unfinished, or cannot be written.
    """
    if basis not in BASES:
        raise UnknownName("basis of a map", basis, BASES)
    with store.read() as session:
        require_complete(session, store)
        maps = session.ask("current_maps").filter(pl.col("basis") == basis)
        saes = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
    if maps.is_empty():
        raise AtlasError(f"no neuron of {store.path} fired, so there is none to map: add prompts to the atlas")
    other = pl.lit(False) if seed is None else pl.col("seed") != seed
    wanted = maps.filter((pl.col("state") != "current") | pl.lit(again) | other)
    if stale := wanted.filter(pl.col("state") == "stale").height:
        logging.getLogger("atlas").warning("%s: %s; making it again", store.path, describe_stale(basis, stale))
    if wanted.height:
        require_umap()
        if basis == "vectors":
            keys = maps["sae_key"].to_list()
            places = _place_vectors(store, keys, seed or 0, progress)
        else:
            keys = wanted["sae_key"].to_list()
            places = _place_rows({key: decoder_rows(saes[key]) for key in keys}, seed or 0, progress)
        made_of = maps.select("sae_key", "made_of")
        _keep(store, basis, keys, places.join(made_of, on="sae_key", maintain_order="left"), seed or 0)
    with store.read() as session:
        return session.ask("map_places", basis=basis)


def stale_maps(session: Asks) -> dict[str, int]:
    """Basis -> how many of its SAEs have places that were made of other neurons than today's."""
    stale = session.ask("current_maps").filter(pl.col("state") == "stale")
    return dict(stale.group_by("basis").len().sort("basis", descending=True).iter_rows())


def describe_stale(basis: str, saes: int) -> str:
    """What is wrong with a map, in words."""
    of = "prompts or SAEs were added since" if basis == "vectors" else f"{saes} SAEs are other ones than it was made of"
    return f"the map of {basis} is stale ({of})"


def require_umap() -> None:
    """Raise AtlasError unless umap-learn is installed, before anything long is begun."""
    from importlib.util import find_spec

    if find_spec("umap") is None:
        raise AtlasError("a map takes the package umap-learn: pip install 'neuron-atlas[explore]'")


def _place_vectors(store: Store, keys: list[int], seed: int, progress: Progress) -> pl.DataFrame:
    """The places of all neurons that have a vector, by its direction from the mean embedding."""
    ensure_neuron_vectors(store)
    frames, parts = [pl.DataFrame(schema={"sae_key": pl.UInt32, "neuron": pl.UInt32})], []
    with store.read() as session:
        mean = stack_vectors(session.ask("moments")["mean"])[0]
        for key in keys:
            run = session.ask("vector_run", sae_key=key, first=0, count=2**32)
            if run.height:
                parts.append(stack_vectors(run["vector"], len(mean)) - mean)
                frames.append(run.select(sae_key=pl.lit(key, pl.UInt32), neuron="neuron"))
    placed = place_points(np.concatenate(parts), seed=seed, progress=progress)
    return pl.concat(frames).with_columns(x=pl.Series(placed[:, 0]), y=pl.Series(placed[:, 1]))


def _place_rows(rows: Mapping[int, np.ndarray], seed: int, progress: Progress) -> pl.DataFrame:
    """The places of all neurons of some SAEs, each SAE alone."""
    frames = []
    for key, own in rows.items():
        placed = place_points(own, seed=seed, progress=progress)
        found = {"neuron": np.arange(len(own), dtype=np.uint32), "x": placed[:, 0], "y": placed[:, 1]}
        frames.append(pl.DataFrame(found).select(pl.lit(key, pl.UInt32).alias("sae_key"), "neuron", "x", "y"))
    return pl.concat(frames)


def place_points(points: np.ndarray, *, seed: int = 0, progress: Progress = silent) -> np.ndarray:
    """Two numbers for each point [point, 2], by the cosines between them; the same for the same seed.

    Args:
        points: [point, dimension].
        seed: of the random numbers.
        progress: called with (stage, done, total).
    """
    unit = points.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    if len(unit) < FEW:
        return _components(unit)
    known = nearest_points(unit, min(NEIGHBOURS, len(unit) - 1), progress) if len(unit) <= EXACT else None
    long = "; this takes some minutes" if len(unit) > MANY else ""
    progress(f"placing {len(unit):,} neurons{long}", 0, 0)
    settings = {
        "n_neighbors": min(NEIGHBOURS, len(unit) - 1),
        "metric": "cosine",
        "n_epochs": EPOCHS,
        "random_state": seed,
        "n_jobs": 1,
        "precomputed_knn": (None, None, None) if known is None else (*known, None),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are not needed, of a seed that excludes threads ...
        import umap

        placed = np.asarray(umap.UMAP(**settings).fit_transform(unit), dtype=np.float32)
    if not np.isfinite(placed).all():  # UMAP leaves out points that are like none
        placed = np.where(np.isfinite(placed), placed, np.nanmax(placed, axis=0) + 1).astype(np.float32)
    return placed


def nearest_points(unit: np.ndarray, count: int, progress: Progress = silent) -> tuple[np.ndarray, np.ndarray]:
    """The nearest points of each, itself first, and their cosine distances [point, count]: all compared with all."""
    places, distances = [], []
    step = max(1, BLOCK_VALUES // len(unit))
    for start in range(0, len(unit), step):
        progress("comparing neurons", start, len(unit))
        away = np.maximum(1 - unit[start : start + step] @ unit.T, 0)
        away[np.arange(len(away)), start + np.arange(len(away))] = -1  # each is nearest to itself
        near = np.argpartition(away, count - 1, axis=1)[:, :count]
        own = np.take_along_axis(away, near, axis=1)
        order = np.lexsort((near, own), axis=1)
        places.append(np.take_along_axis(near, order, axis=1))
        distances.append(np.maximum(np.take_along_axis(own, order, axis=1), 0))
    progress("comparing neurons", len(unit), len(unit))
    return np.concatenate(places), np.concatenate(distances).astype(np.float32)


def _components(unit: np.ndarray) -> np.ndarray:
    """The two largest principal components of points."""
    off = unit - unit.mean(axis=0)
    left, sizes, _ = np.linalg.svd(off, full_matrices=False)
    placed = np.zeros((len(unit), 2), dtype=np.float32)
    placed[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    return placed


def _keep(store: Store, basis: str, keys: list[int], places: pl.DataFrame, seed: int) -> None:
    constants = {"basis": pl.lit(basis), "seed": pl.lit(seed, pl.UInt64), "created_at": pl.lit(now())}
    with patient(), store.write() as session:
        session.run("drop_map", basis=basis, sae_keys=keys)
        session.append("map", places.with_columns(**constants))
