"""atlas neuron"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from atlas.cli.options import model_options
from atlas.cli.output import echo, format_option, print_frame, print_table

if TYPE_CHECKING:
    import polars as pl

    from atlas.cards.neuron import Neuron

PARTS = (
    "facts",
    "labels",
    "samples",
    "contexts",
    "histogram",
    "token_histogram",
    "logit_histogram",
    "written",
    "neighbours",
    "topics",
    "notes",
)
SHOWN = {"meaning": "near in meaning", "co-firing": "fire together", "decoder": "write alike"}
ROWS = 5  # of a part, in a table
BARS = "▁▂▃▄▅▆▇█"


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("neuron", type=int)
@click.option("--sae-id", default=None, help="Which SAE, by id or key.  [default: the only one]")
@click.option(
    "--part",
    type=click.Choice(PARTS),
    default=None,
    help="Print this part alone, whole.  [default: as a table the most of all, as JSON or CSV facts]",
)
@click.option("--html", type=click.Path(), default=None, help="Write it as a page into this new file, too.")
@click.option("--stored", is_flag=True, help="Load neither model nor SAEs: show what the file has.")
@click.option("--no-save", is_flag=True, help="Do not keep in the atlas what the model was run for.")
@model_options
@format_option
def neuron(
    atlas: str,
    neuron: int,
    sae_id: str | None,
    part: str | None,
    html: str | None,
    stored: bool,
    no_save: bool,
    model: str | None,
    release: str | None,
    style: str,
) -> None:
    """Say all that ATLAS knows of NEURON: labels, the prompts it fires on most, less, and at random, the tokens it promotes and
    suppresses, the neurons near it in every SAE, and the topics it stands for.

    Activations of tokens and logits come from a run of the model over the few prompts shown, and are kept in the atlas for the
    next call. In the prompts, the token of the largest activation stands between « and ».

    \b
    Examples:
      atlas neuron pocket.atlas 476 --sae-id 0
      atlas neuron pocket.atlas 476 --sae-id 0 --part samples --format json
    """
    import atlas as library
    from atlas.cards.html import write_page
    from atlas.cards.rendering import render_neuron

    opened = library.open(atlas)
    found = opened.neuron(neuron, sae_id=sae_id, live=not stored, save=not no_save, model=model, release=release)
    for notice in found.notices:
        echo(notice, err=True)
    if html is not None:
        write_page(html, f"Neuron {neuron} of {found.row['sae_id']}", [render_neuron(found)])
        echo(f"{html}: written", err=True)
    if part is not None or style != "table":
        print_frame(getattr(found, part or "facts"), style)
        return
    print_neuron(found)


def print_neuron(found: Neuron) -> None:
    """The most of every part, one under the other."""
    import polars as pl

    row = found.row
    echo(f"neuron {row['neuron']} of {row['sae_id']}" + ("" if row["label"] is None else f": {row['label']}"))
    if found.is_dead:
        echo(f"dead: it fired on none of the {row['prompts']:,} reference prompts")
    else:
        echo(
            f"fires on {row['support']:,} of {row['prompts']:,} prompts and {row['density']:.3%} of tokens, at most "
            f"{row['max_activation']:.4g}  {sparkline(found.histogram['prompts'].to_list())}"
        )
    for side in ("promoted", "suppressed"):
        own = found.written.filter(pl.col("side") == side)
        if own.height:
            echo(f"{side}: {'  '.join(written(token, logit) for token, logit in own.select('token', 'logit').rows())}")
    section("labels", found.labels)
    section("your notes", found.notes.select("list", "text"))
    section("topics", found.topics.select("topic", "scorer", "score", "se", "z", "rank").head(ROWS))
    print_samples(found)
    for kind, title in SHOWN.items():
        own = found.neighbours.filter(pl.col("kind") == kind).group_by("sae_key", maintain_order=True).head(ROWS)
        names = ("sae_id", "neuron", "cosine", "support", "fires_on", "label")
        section(title, own.select(name for name in names if name != "label" or own["label"].count()))


def print_samples(found: Neuron) -> None:
    """The prompts that are shown, strongest first, then by range, then at random."""
    import polars as pl

    titles = {"strongest": "strongest prompts", "range": "weaker prompts, by range", "random": "prompts at random"}
    if found.samples["tokens"].count() == 0 and found.contexts.height:
        section(titles["strongest"], found.contexts.select("activation", "context"))
        titles.pop("strongest")
    for kind, title in titles.items():
        own = found.samples.filter(pl.col("kind") == kind)
        texts = [marked(*values) for values in own.select("text", "tokens", "activations").rows()]
        section(title, own.select(pl.col("act_max").alias("activation"), prompt=pl.Series(texts, dtype=pl.String)))


def section(title: str, frame: pl.DataFrame) -> None:
    """A title and a table, where there is something in it."""
    if frame.height:
        echo(f"\n{title}:")
        print_table(frame)


def marked(text: str, tokens: list[str] | None, activations: list[float | None] | None) -> str:
    """A prompt, the token of the largest activation marked."""
    if tokens is None or activations is None:
        return text
    values = [value or 0.0 for value in activations]
    peak = values.index(max(values))
    shown = ["" if value is None else token for token, value in zip(tokens, activations, strict=True)]
    word = shown[peak].lstrip()
    before = shown[peak][: len(shown[peak]) - len(word)]
    return f"{''.join(shown[:peak])}{before}«{word}»{''.join(shown[peak + 1 :])}"


def written(token: str, logit: float | None) -> str:
    """A token that is promoted or suppressed."""
    name = token.strip() or repr(token)
    return name if logit is None else f"{name} {logit:+.2f}"


def sparkline(counts: list[int]) -> str:
    """A histogram as a line."""
    most = max(counts, default=0)
    return "".join(" " if not count else BARS[round((len(BARS) - 1) * count / most)] for count in counts)
