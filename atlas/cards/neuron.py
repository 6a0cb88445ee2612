"""All that an atlas says of one neuron: from the file, and where that has not all, from the model and the SAEs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from atlas.cards.frames import NeuronFrames
from atlas.cards.html import with_style
from atlas.cards.neighbours import SCHEMA as NEIGHBOURS
from atlas.cards.neighbours import nearest_in_firing, nearest_in_meaning, nearest_in_writing
from atlas.cards.rendering import render_neuron
from atlas.cards.token_values import measure_token_values, token_histogram
from atlas.cards.written_tokens import SCHEMA as LOGITS
from atlas.cards.written_tokens import bins_of, measure_token_logits
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.meaning.described import describe
from atlas.meaning.neuron_vectors import lacks_neuron_vectors
from atlas.models.codec import Codec
from atlas.models.recorded import RecordedModels
from atlas.store.file import Store
from atlas.store.session import Asks
from atlas.store.state import require_complete

STRONGEST, RANGES, PER_RANGE, RANDOM = 10, 4, 3, 5  # prompts that are picked to be shown
BINS = 30  # of the histogram
NOT_RUN = (
    "no model was run: values of tokens and logits, and their histograms, are shown where the file has them (`atlas neuron` "
    "without --stored runs it over the prompts that are shown)"
)


class Neuron(NeuronFrames):
    """The same; it shows itself as a card in a notebook."""

    def _repr_html_(self) -> str:
        return with_style(render_neuron(self))


@dataclass
class _Draft:
    """A card in the making: what the file has, and what is still missing."""

    samples: pl.DataFrame
    kept: pl.DataFrame
    written: pl.DataFrame
    spread: pl.DataFrame
    neighbours: list[pl.DataFrame]
    notices: list[str] = field(default_factory=list)

    @property
    def missing(self) -> pl.DataFrame:
        """The prompts whose tokens have no values yet."""
        return (
            self.samples.unique("prompt_id", maintain_order=True)
            .join(self.kept, on="prompt_id", how="anti")
            .select("prompt_id", "text")
        )

    @property
    def lacks_logits(self) -> bool:
        """Whether no model has told yet what is written."""
        return self.written["logit"].count() == 0 or self.spread.is_empty()


def read_neuron(
    store: Store, sae_key: int, neuron: int, *, recorded: RecordedModels | None = None, save: bool = True
) -> Neuron:
    """What an atlas says of a neuron.

    The values of tokens and the logits come from the file, where an earlier call left them, else from a run of the model over
    the few prompts that are shown; then they are kept for the next call.

    Args:
        store: a finished atlas.
        sae_key: the SAE.
        neuron: the neuron.
        recorded: the language model and the SAEs, loaded when they are needed; None to show only what the file has.
        save: whether to keep what a model was run for.

    Raises:
        UnknownName: the SAE has no such neuron.
        StoreError: the atlas is unfinished.
    """
    with store.read() as session:
        require_complete(session, store)
        rows = {row["sae_key"]: row for row in session.ask("all_saes").to_dicts()}
        if not 0 <= neuron < rows[sae_key]["d_sae"]:
            raise UnknownName("neuron", neuron, [f"0 to {rows[sae_key]['d_sae'] - 1}"])
        place = {"sae_key": sae_key, "neuron": neuron}
        facts = session.ask("neuron_facts", **place)
        labels = session.ask("labels_of_neuron", **place)
        topics = session.ask("topics_of_neuron", **place)
        notes = session.ask("notes_of_neuron", **place)
        histogram = session.ask("activation_histogram", **place, bins=BINS)
        _require_sound(store, facts, histogram)
        contexts = session.ask("neuron_examples", neuron=neuron, sae=str(sae_key))
        draft = _read_draft(session, sae_key, neuron, list(rows), facts)
    if recorded is not None:
        _complete(draft, store, rows, place, recorded, save=save)
    elif draft.missing.height or draft.lacks_logits:
        draft.notices.append(NOT_RUN)
    with store.read() as session:
        neighbours = _described(session, pl.concat(draft.neighbours))
    samples = draft.samples.join(draft.kept, on="prompt_id", how="left", maintain_order="left")
    return Neuron(
        facts, labels, samples, contexts, histogram, draft.written, neighbours, topics, notes, tuple(draft.notices),
        token_histogram(draft.kept, facts.item(0, "max_activation"), BINS), bins_of(draft.spread),
    )  # fmt: skip


def _require_sound(store: Store, facts: pl.DataFrame, histogram: pl.DataFrame) -> None:
    """Raise StoreError where a neuron has not the activations that its support says, or some that are no numbers."""
    support, counted = facts.item(0, "support"), int(histogram["prompts"].sum())
    if support != counted:
        raise StoreError(
            f"{store.path} is damaged (neuron {facts.item(0, 'neuron')} fires on {support} prompts, and has {counted} activations "
            "that are numbers): build it again, or get the file again from where it came"
        )


def _read_draft(session: Asks, sae_key: int, neuron: int, keys: list[int], facts: pl.DataFrame) -> _Draft:
    picked = {"strongest": STRONGEST, "ranges": RANGES, "per_range": PER_RANGE, "random": RANDOM}
    samples = session.ask("neuron_samples", sae_key=sae_key, neuron=neuron, **picked)
    prompts = samples["prompt_id"].unique().to_list()
    kept = session.ask("kept_token_values", sae_key=sae_key, neuron=neuron, prompts=prompts)
    written = session.ask("kept_token_logits", sae_key=sae_key, neuron=neuron)
    spread = session.ask("kept_logit_histogram", sae_key=sae_key, neuron=neuron)
    if written.is_empty():  # what the build kept has no logits
        tokens = facts.item(0, "top_tokens").to_list() if facts.item(0, "top_tokens") is not None else []
        own = {"side": ["promoted"] * len(tokens), "rank": range(1, len(tokens) + 1), "token": tokens}
        written = pl.DataFrame({**own, "logit": [None] * len(tokens)}, schema=LOGITS)
    draft = _Draft(samples, kept, written, spread, [pl.DataFrame(schema=NEIGHBOURS)])
    if samples.is_empty():
        return draft
    keys = sorted(keys, key=lambda key: (key != sae_key, key))
    if lacks_neuron_vectors(session):
        draft.notices.append(
            "the atlas has no neuron vectors yet, so none are near in meaning: `atlas search` makes them"
        )
    else:
        draft.neighbours.append(nearest_in_meaning(session, sae_key, neuron, keys))
    draft.neighbours.append(nearest_in_firing(session, sae_key, neuron))
    return draft


def _complete(
    draft: _Draft,
    store: Store,
    rows: Mapping[int, dict[str, Any]],
    place: dict[str, int],
    recorded: RecordedModels,
    *,
    save: bool,
) -> None:
    """Add what takes the SAEs and the model, where they can be loaded."""
    row, neuron = rows[place["sae_key"]], place["neuron"]
    with _told(draft, "neurons that write alike are not shown"):
        others = sorted(rows.values(), key=lambda other: (other is not row, other["sae_key"]))
        draft.neighbours.append(nearest_in_writing(row, neuron, others, _codecs(recorded)))
    fresh: dict[str, pl.DataFrame] = {}
    if draft.missing.height:
        with _told(draft, "the tokens of the prompts have no values, and are shown as the build kept them"):
            codec = recorded.placed_sae(row).codec
            fresh["token_values"] = measure_token_values(recorded.read_as(row), codec, neuron, draft.missing)
            draft.kept = pl.concat([draft.kept, fresh["token_values"]])
    if draft.lacks_logits:
        with _told(draft, "the tokens that it writes have no logits"):
            found = measure_token_logits(recorded.read_as(row), recorded.sae(row), neuron)
            if found.tokens.height:
                fresh["token_logits"] = draft.written = found.tokens
                fresh["logit_histograms"] = draft.spread = found.spread
    if save and fresh and not store.read_only:
        with _told(draft, "what the model was run for is not kept"):
            keep(store, place, fresh)


def _codecs(recorded: RecordedModels) -> Callable[[Mapping[str, Any]], Codec]:
    return lambda row: recorded.sae(dict(row)).codec


@contextmanager
def _told(draft: _Draft, what: str) -> Iterator[None]:
    """Go on without what cannot be had, and say so on the card."""
    try:
        yield
    except AtlasError as error:
        draft.notices.append(f"{what}: {error}")


def keep(store: Store, place: dict[str, int], fresh: Mapping[str, pl.DataFrame]) -> None:
    """Store what a model was run for, in one short transaction; a file that is taken is not waited for.

    Args:
        store: the atlas.
        place: sae_key and neuron.
        fresh: table -> rows without those.

    Raises:
        StoreError: the file is taken, or cannot be written.
    """
    columns = {name: pl.lit(value, pl.UInt32) for name, value in place.items()}
    impatient = Store(store.path, memory_limit=store.memory_limit, patience=0)
    with impatient.write() as session:
        if "token_values" in fresh:  # another process may have kept some meanwhile
            session.run("drop_token_values", **place, prompts=fresh["token_values"]["prompt_id"].to_list())
        if "token_logits" in fresh:
            session.run("drop_token_logits", **place)
            session.run("drop_logit_histogram", **place)
        for table, frame in fresh.items():
            session.append(table, frame.with_columns(**columns))


def _described(session: Asks, found: pl.DataFrame) -> pl.DataFrame:
    """Neighbours with what a reader knows them by."""
    return describe(session, found).select(
        "kind", "sae_key", "sae_id", "neuron", "cosine", "support", "fires_on", "label"
    )
