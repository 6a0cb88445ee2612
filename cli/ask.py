"""atlas info, top, why and query"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click
from atlas.cli.engine import engine_options, open_on
from atlas.cli.labelled import labelled, outdated_lines, tokens_option
from atlas.cli.output import echo, format_option, print_batches, print_frame, print_table

from atlas.errors import StoreError
from atlas.models.encoder_copies import describe_embedding

ROWS = 1000  # of a query on a terminal, unless told
OPENINGS = {  # saes.prepend_bos -> what build, score, evaluate and steer put before a text
    True: "texts begin with the tokenizer's BOS token, once",
    False: "texts begin with their own first token, without BOS",
}
PATIENCE = 0.4  # seconds that DuckDB has to stop

sae_option = click.option("--sae-id", default=None, help="Which SAE, by id or key.  [default: all]")


@click.command()
@click.argument("atlas", type=click.Path())
@engine_options
@format_option
def info(atlas: str, engine: str, master: str, style: str) -> None:
    """Say what is in ATLAS, how it was made, and how many neurons its prompts reach.

    \b
    Example:
      atlas info pocket.atlas
    """
    import polars as pl

    from atlas.meaning.neuron_map import describe_stale

    with open_on(engine, atlas, master=master) as opened:
        found = opened.info()
    if style != "table":
        shared = {k: v for k, v in found.items() if not isinstance(v, pl.DataFrame) and k != "stale_maps"}
        print_frame(found["saes"].with_columns(pl.lit(value).alias(key) for key, value in shared.items()), style)
        return
    state = found["state"]
    if state != "complete":
        state = f"UNFINISHED, {found['pending_shards']} pieces to go: run the same `atlas build` command to go on"
    echo(f"{atlas}: {state}")
    echo(f"{found['prompts']:,} prompts, {found['rows']:,} activation rows, {found['generations']:,} generations")
    if "encoder" in found:
        echo(f"sentence encoder {found['encoder']} (from {found['encoder_source']})")
        echo(f"texts are embedded by {describe_embedding(found['encoder_hash'])}")
        echo(f"built {found['created_at']:%Y-%m-%d %H:%M} UTC with {found['libraries']}")
    for model in found["saes"]["model"].unique(maintain_order=True):
        echo(f"model {model}")
    policies = found["saes"]["prepend_bos"].unique(maintain_order=True).to_list()
    for policy in policies:
        keys = found["saes"].filter(pl.col("prepend_bos") == policy)["sae_key"]
        whose = "" if len(policies) == 1 else f"SAE {', '.join(map(str, keys))}: "
        echo(f"{whose}{OPENINGS[policy]}")
    for basis, saes in found.get("stale_maps", {}).items():
        echo(f"{describe_stale(basis, saes)}: atlas map {atlas} --basis {basis}")
    for line in outdated_lines(found["outdated_labels"].rows()):
        echo(line)
    columns = [
        "sae_key",
        "sae_id",
        "release",
        "architecture",
        "hook_name",
        "d_sae",
        "fired",
        "supported",
        "coverage_20",
    ]
    echo()
    print_table(found["saes"].select(columns))
    if found["topics"].height:
        echo()
        print_table(found["topics"].drop("created_at"))


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("topic")
@click.option("-n", default=10, show_default=True, type=click.IntRange(min=1), help="Neurons per SAE.")
@click.option(
    "--scorer", default="distance", show_default=True, help="distance, centroid, contrast, strawman or output."
)
@click.option("--by", default=None, help="Order: score, or z (against random topics).  [default: z where there is one]")
@sae_option
@tokens_option
@engine_options
@format_option
def top(
    atlas: str,
    topic: str,
    n: int,
    scorer: str,
    by: str | None,
    sae_id: str | None,
    tokens: bool,
    engine: str,
    master: str,
    style: str,
) -> None:
    """List the best neurons of ATLAS for TOPIC, the tokens they fire on most (fires_on), and the tokens they promote
    (top_tokens). Score says how close to the topic a neuron's prompts are, z how much closer than to random topics.

    Where `atlas label` has labelled neurons, their labels stand there instead; a neuron without a good one has the tokens that
    it fires on, in brackets.

    \b
    Example:
      atlas top pocket.atlas medicine -n 5
    """
    with open_on(engine, atlas, master=master) as opened:
        frame = opened.top(topic, n, sae_id=sae_id, scorer=scorer, by=by)
    if style == "table":
        frame = labelled(frame, "sae_id", "rank", "neuron", "score", "se", "z", "support", tokens=tokens)
    print_frame(frame, style)


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("topic")
@click.argument("neuron", type=int)
@click.option("-n", default=10, show_default=True, type=click.IntRange(min=1), help="Prompts to list per SAE.")
@click.option("--scorer", default="distance", show_default=True, help="distance or centroid.")
@sae_option
@engine_options
@format_option
def why(
    atlas: str, topic: str, neuron: int, n: int, scorer: str, sae_id: str | None, engine: str, master: str, style: str
) -> None:
    """List the reference prompts of ATLAS behind the score of NEURON for TOPIC, heaviest first.

    Contributions (weight x distance ** power) of all prompts sum to the neuron's g, which stands above them with its score,
    the score's standard error and z, and its label where it has one.

    \b
    Example:
      atlas why pocket.atlas medicine 1234 --sae-id 0
    """
    with open_on(engine, atlas, master=master) as opened:
        frame = opened.why(topic, neuron, sae_id=sae_id, scorer=scorer)
    frame = frame.group_by("scoring_id", maintain_order=True).head(n).select(frame.columns)
    if style == "table":
        label = ["label"] if frame["label"].count() else []
        print_frame(frame.select("sae_id", "g", "score", "se", "z", *label).unique(maintain_order=True), style)
        echo()
        frame = frame.select("sae_id", "prompt_id", "distance", "weight", "contribution", "source", "text")
    print_frame(frame, style)


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("sql")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=None,
    help=f"Print so many rows at most; 0 for all.  [default: {ROWS:,} on a terminal, else all]",
)
@click.option("--memory-limit", default=None, help="What DuckDB may take; more goes to the disk.  [default: 2GB]")
@format_option
def query(atlas: str, sql: str, limit: int | None, memory_limit: str | None, style: str) -> None:
    """Run a read-only SQL query on ATLAS; it can touch neither other files nor the network. SQL is - to read it from stdin.

    \b
    Example:
      atlas query pocket.atlas "select * from compare_topics('medicine', 'films') limit 5"
    """
    from atlas.store.file import MEMORY_LIMIT, Store

    if limit is None and on_terminal():
        limit = ROWS
    limit = limit or None
    text = read_stdin() if sql == "-" else sql
    store = Store(atlas, memory_limit=memory_limit or MEMORY_LIMIT)
    with stopped_soon(), store.stream(text, limit=limit and limit + 1) as batches:
        print_batches(batches, style, limit=limit)


def on_terminal() -> bool:
    """Whether the rows are read by a person."""
    return sys.stdout.isatty()


def read_stdin() -> str:
    """The SQL text on stdin."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoreError(f"the SQL text on stdin is not UTF-8 (byte {error.start}): save it as UTF-8") from error


@contextmanager
def stopped_soon() -> Iterator[None]:
    """On Ctrl-C, leave within a second, whatever DuckDB is at: some of what it does cannot be interrupted."""
    timers: list[threading.Timer] = []

    def stop(_number: int, _frame: object) -> None:
        timers.append(threading.Timer(PATIENCE, leave))
        timers[-1].daemon = True
        timers[-1].start()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone hears of Ctrl-C
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for timer in timers:
            timer.cancel()


def leave() -> None:
    """End the process as Ctrl-C does, without waiting for anything."""
    from atlas.store.spill import remove_all

    remove_all()
    os.write(2, b"stopped\n")
    os._exit(1)
