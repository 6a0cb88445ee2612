"""atlas notes"""

from __future__ import annotations

import click
from atlas.cli.labelled import TOKENS
from atlas.cli.output import format_option, print_frame


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("neurons", nargs=-1, type=int, metavar="[NEURON]...")
@click.option("--list", "name", default=None, help="Which list.  [default: all; notes, where neurons are put into one]")
@click.option("--text", default=None, help="What is to be said of the neurons.")
@click.option("--remove", is_flag=True, help="Take the neurons out of the list; without any, drop the list.")
@click.option("--rename", default=None, metavar="NAME", help="Give the list this name.")
@click.option("--sae-id", default=None, help="Whose neurons, by id or key.  [default: the only one]")
@format_option
def notes(
    atlas: str,
    neurons: tuple[int, ...],
    name: str | None,
    text: str | None,
    remove: bool,
    rename: str | None,
    sae_id: str | None,
    style: str,
) -> None:
    """Keep notes on neurons of ATLAS in lists: put each NEURON into a list, with --text as what is said of it; take it out again;
    or, without any, print what the lists hold.

    \b
    Examples:
      atlas notes pocket.atlas 476 812 --sae-id 0 --list blood --text "both look right"
      atlas notes pocket.atlas --list blood
      atlas notes pocket.atlas 812 --sae-id 0 --list blood --remove
    """
    import atlas as library
    from atlas.meaning.notes import DEFAULT_LIST

    if (remove or rename is not None) and name is None:
        raise click.UsageError("say which list with --list")
    if remove and (text is not None or rename is not None):
        raise click.UsageError("--remove goes with neither --text nor --rename")
    if text is not None and not neurons:
        raise click.UsageError("--text says something of neurons: name one or more")
    opened = library.open(atlas)
    if remove:
        opened.remove_notes(str(name), list(neurons) or None, sae_id=sae_id)
    elif neurons:
        opened.add_notes(list(neurons), text, name=name or DEFAULT_LIST, sae_id=sae_id)
    if rename is not None:
        opened.rename_list(str(name), rename)
    there = name if rename is None else rename.strip()
    there = DEFAULT_LIST if there is None and neurons else there
    gone = remove and there not in opened.lists()["list"]
    frame = opened.notes(None if gone else there)
    frame = frame.clear() if gone else frame
    if style == "table":
        shown = [column for column in ("label", *TOKENS[:1]) if frame[column].count()]
        frame = frame.select("list", "sae_id", "neuron", "text", "support", *shown)
    print_frame(frame, style)
