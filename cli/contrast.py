"""atlas contrast"""

from __future__ import annotations

import click
from atlas.cli.options import chat_options, device_option, model_options, position_option, sae_ids_option, tau_option
from atlas.cli.output import Progress, echo, format_option, print_frame


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("name")
@click.argument("pairs", type=click.Path(), required=False)
@click.option("--topic", default=None, help="Instead of PAIRS: a scored topic's texts against --unaligned ones.")
@click.option(
    "--unaligned", type=click.Path(), help="With --topic: texts about nothing of the kind.  [default: the bundled]"
)
@tau_option
@position_option("last; with --topic mean")
@sae_ids_option("all")
@chat_options
@click.option("--replace", is_flag=True, help="Give a behaviour that exists these pairs instead of its own.")
@model_options
@device_option
@click.option(
    "-n", default=5, show_default=True, type=click.IntRange(min=1), help="Strongest entries to print per SAE."
)
@format_option
def contrast(
    atlas: str,
    name: str,
    pairs: str | None,
    topic: str | None,
    unaligned: str | None,
    tau: float,
    position: str | None,
    sae_ids: tuple[str, ...],
    chat: bool,
    system: str | None,
    replace: bool,
    model: str | None,
    release: str | None,
    device: str,
    n: int,
    style: str,
) -> None:
    """Make a sparse (SAS) and a dense (CAA) steering vector of behaviour NAME from the contrast pairs in PAIRS, for every
    SAE of ATLAS.

    PAIRS is a .jsonl, .json, .csv or .parquet file with the columns question, answer_matching_behavior and
    answer_not_matching_behavior; or question, matching and not_matching; or positive, negative and, if you like, prompt.
    Without PAIRS the bundled ones of behaviour NAME are taken. With --topic, a topic's texts are set against everyday texts.
    Printed per SAE: the neurons kept on each side, those shared and so removed, the entries that are left, and the
    strongest of them with the tokens their neurons fire on.

    \b
    Examples:
      atlas contrast pocket.atlas praise praise.jsonl
      atlas contrast pocket.atlas medical --topic medicine
      atlas contrast smollm2.atlas formality formality.jsonl --chat --position mean --tau 0.3
    """
    if (pairs is not None or topic is None) and unaligned is not None:
        raise click.UsageError("--unaligned goes with --topic")
    if pairs is not None and topic is not None:
        raise click.UsageError("PAIRS and --topic exclude each other")
    if topic is not None and chat:
        raise click.UsageError("--chat goes with PAIRS: a topic's texts answer nothing")
    from atlas.cli.texts import read_behaviour, topic_pairs

    given = None if topic is not None else read_behaviour(name, pairs)
    import polars as pl

    import atlas as library
    from atlas.models.recorded import RecordedModels

    opened = library.open(atlas)
    if given is None:
        given = topic_pairs(opened.store, str(topic), unaligned)
    progress = Progress()
    try:
        counts = opened.contrast(
            name,
            given,
            tau=tau,
            position=position or ("last" if topic is None else "mean"),
            sae_ids=sae_ids or None,
            replace=replace,
            chat=chat,
            system=system,
            recorded=RecordedModels(opened.store, model=model, release=release, device=device),
            progress=progress,
        )
    finally:
        progress.close()
    left_out = len(given) - int(counts["pairs"].min())  # type: ignore[arg-type]
    if left_out:
        echo(f"{left_out} of {len(given)} pairs left out: they do not fit into the model's context", err=True)
    strongest = opened.vector(name, n).filter(pl.col("sae_id").is_in(counts["sae_id"].to_list()))
    if style != "table":
        print_frame(counts.join(strongest, on=["name", "sae_id", "position", "tau"], how="left"), style)
        return
    print_frame(counts.select("sae_id", "pairs", "positive", "negative", "shared", "entries"), style)
    echo()
    print_frame(strongest.select("sae_id", "neuron", "value", "support", "fires_on", "top_tokens"), style)
