"""Finish a build: write the tables once more, sorted, and the text around each neuron's strongest tokens."""

from __future__ import annotations

import polars as pl

from atlas.building.plan import TOKENIZED_PROMPTS
from atlas.building.strongest import EXAMPLES
from atlas.meaning.neuron_vectors import make_neuron_vectors
from atlas.models.loading import LanguageModel
from atlas.models.tokens import token_spans, token_strings, with_bos
from atlas.progress import Progress
from atlas.store.file import STREAMING_THREADS, Store
from atlas.store.replacement import replacement

SORTED_ROWS = 2**25  # activations sorted at a time: the time of a sort of all would grow faster than they do
COPIED_PROMPTS = 16_384  # sorted at a time: a sort of all embeddings would need memory for all
CONTEXT_CHARACTERS = 60  # of an example, on each side of the token


def finish_build(store: Store, model: LanguageModel, progress: Progress) -> bool:
    """Write every table once more, sorted, into a new file that takes this one's place; whether there was need to."""
    with store.read() as session:
        if session.ask("atlas_row").item(0, "state") == "complete":
            return False
        examples = session.ask("strongest_examples", count=EXAMPLES)
        texts = session.ask("example_prompts")
        policies = {row["sae_key"]: row["prepend_bos"] for row in session.ask("all_saes").to_dicts()}
    progress("sorting the tables", 0, 0)
    write_sorted(store, add_context(examples, texts, model, policies))
    return True


def write_sorted(store: Store, examples: pl.DataFrame) -> None:
    """Put in the place of an atlas whose shards are in the finished one: tables sorted, neurons settled."""
    store.checkpoint()
    with store.read() as session:
        prompts = session.ask("atlas_size").item(0, "prompts")
        ranges = session.ask("neuron_ranges", rows=SORTED_ROWS).drop("rows").to_dicts()
    with replacement(store.path) as path:
        new = Store(path, memory_limit=store.memory_limit, allowed=[store.path])
        new.create()
        with new.write(threads=STREAMING_THREADS) as session:
            session.attach(store.path, "old")
            session.run("copy_tables")
            for first in range(0, prompts, COPIED_PROMPTS):
                session.run("copy_prompts", first=first, count=COPIED_PROMPTS)
            for neurons in ranges:
                session.run("copy_activations", **neurons)
            session.append("examples", examples)
        with new.write(threads=1) as session:  # a sum over one thread does not depend on the scheduler
            session.attach(store.path, "old")
            session.run("settle_neurons")
            make_neuron_vectors(session)
            session.run("mark_complete")
        new.checkpoint()


def add_context(
    examples: pl.DataFrame, texts: pl.DataFrame, model: LanguageModel, prepend_bos: dict[int, bool]
) -> pl.DataFrame:
    """Rows of `examples` with the token and the text around it."""
    table = token_strings(model.tokenizer, len(model.tokenizer))
    frames = [examples.clear().with_columns(token=pl.lit(""), context=pl.lit(""))]
    for some in texts.iter_slices(TOKENIZED_PROMPTS):
        text_of = dict(some.select("prompt_id", "text").iter_rows())
        spans_of = dict(
            zip(text_of, zip(*token_spans(model.tokenizer, list(text_of.values())), strict=True), strict=True)
        )
        mine = examples.filter(pl.col("prompt_id").is_in(some["prompt_id"].implode()))
        tokens, contexts = [], []
        for key, prompt_id, position in mine.select("sae_key", "prompt_id", "position").iter_rows():
            ids, spans = spans_of[prompt_id]
            place = position - len(with_bos(model.tokenizer, ids, prepend_bos=prepend_bos[key])) + len(ids)
            start, end = spans[place]
            text = text_of[prompt_id]
            left, right = text[max(0, start - CONTEXT_CHARACTERS) : start], text[end : end + CONTEXT_CHARACTERS]
            tokens.append(table[ids[place]])
            contexts.append(f"{left}«{text[start:end]}»{right}")
        frames.append(
            mine.with_columns(token=pl.Series(tokens, dtype=pl.String), context=pl.Series(contexts, dtype=pl.String))
        )
    return pl.concat(frames).sort("sae_key", "neuron", "rank")
