"""One file of HTML about ranked or listed neurons: the list first, then each neuron's card. It needs nothing else."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from atlas.cards.html import Links, write_page
from atlas.cards.neuron import Neuron, read_neuron
from atlas.cards.rendering import render_neuron, render_topic
from atlas.errors import AtlasError, StoreError
from atlas.models.recorded import RecordedModels
from atlas.progress import Progress, silent
from atlas.store.file import Store


def write_static_page(
    store: Store,
    path: str | Path,
    listed: pl.DataFrame,
    title: str,
    *,
    subtitle: str = "",
    recorded: RecordedModels | None = None,
    save: bool = True,
    progress: Progress = silent,
) -> list[Neuron]:
    """Write a page of neurons into a new file.

    Args:
        store: a finished atlas.
        path: the file; it must not be there yet.
        listed: the neurons, best first: neuron, sae_key or release and sae_id, and what `render_topic` takes.
        title: of the page, such as the topic's name.
        subtitle: beside it.
        recorded: the language model and the SAEs, for what the file does not have; None to show only what it has.
        save: whether to keep in the atlas what the model was run for.
        progress: called with (stage, done, total), in neurons.

    Raises:
        AtlasError: there is no neuron to show.
        StoreError: the page is there already or cannot be written, or the atlas is unfinished.
    """
    if Path(path).exists():
        raise StoreError(f"{path} is there already: remove it, or name another file")
    if listed.is_empty():
        raise AtlasError(f"there is no neuron to show for {title!r}")
    if "sae_key" not in listed.columns:  # two releases may have SAEs of one name
        with store.read() as session:
            keys = session.ask("all_saes").select("release", "sae_id", "sae_key")
        listed = listed.join(keys, on=["release", "sae_id"], how="left", maintain_order="left")
    places = list(listed.select("sae_key", "neuron").iter_rows())
    there = set(places)
    links = Links(lambda key, neuron: f"#neuron-{key}-{neuron}" if (key, neuron) in there else None)
    found: list[Neuron] = []
    for done, (key, neuron) in enumerate(places):
        progress("neurons", done, len(places))
        found.append(read_neuron(store, key, neuron, recorded=recorded, save=save))
    progress("neurons", len(places), len(places))
    cards = [render_topic(listed, title, subtitle=subtitle, links=links)]
    write_page(path, title, cards + [render_neuron(neuron, links=links) for neuron in found])
    return found
