"""atlas export and import"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
from atlas.cli.options import model_options
from atlas.cli.output import Progress, echo

if TYPE_CHECKING:
    from atlas.store.manifest import Manifest


@click.command("export")
@click.argument("atlas", type=click.Path())
@click.argument("out", metavar="OUT", type=click.Path())
@click.option(
    "--to",
    type=click.Choice(("parquet", "html")),
    default="parquet",
    show_default=True,
    help="What OUT is: a folder of every table, or a page about the neurons of a topic or of a list.",
)
@click.option("--topic", default=None, help="A page of the best neurons of this topic.")
@click.option("--list", "name", default=None, help="A page of the neurons in this list of notes.")
@click.option("-n", default=10, show_default=True, type=click.IntRange(min=1), help="Neurons per SAE, of a topic.")
@click.option("--sae-id", default=None, help="Which SAE, by id or key, for a page.  [default: all]")
@click.option("--stored", is_flag=True, help="Load neither model nor SAEs for a page: show what the file has.")
@model_options
def export(
    atlas: str,
    out: str,
    to: str,
    topic: str | None,
    name: str | None,
    n: int,
    sae_id: str | None,
    stored: bool,
    model: str | None,
    release: str | None,
) -> None:
    """Write every table of ATLAS into the new folder OUT, as Parquet files that other programs read too; or, with --to html, a page
    about the neurons of a topic or of a list into the new file OUT, which needs no other file.

    The activations are one folder per SAE, with runs of neurons as files.

    \b
    Examples:
      atlas export pocket.atlas pocket-parquet
      atlas export pocket.atlas medicine.html --to html --topic medicine -n 5
    """
    if to == "html":
        export_page(
            atlas, out, topic=topic, name=name, n=n, sae_id=sae_id, live=not stored, model=model, release=release
        )
        return
    if topic is not None or name is not None or sae_id is not None or stored:
        raise click.UsageError(
            "--topic, --list, --sae-id and --stored are for --to html: an export has every table whole"
        )
    from atlas.store.exchange import export_atlas
    from atlas.store.file import Store

    progress = Progress()
    try:
        made = export_atlas(Store(atlas), out, progress=progress)
    finally:
        progress.close()
    files = sum(map(len, made.tables.values()))
    echo(f"{out}: {len(made.tables)} tables, {made.rows('activations'):,} activation rows, {files} files")


def export_page(atlas: str, out: str, **wanted: Any) -> None:
    """Write a page, and say what is on it, and what could not be shown."""
    import atlas as library

    opened = library.open(atlas)
    with closing(Progress()) as progress:
        neurons = opened.export_page(out, progress=progress, **wanted)
    for notice in dict.fromkeys(notice for neuron in neurons for notice in neuron.notices):
        echo(notice, err=True)
    echo(f"{out}: {len(neurons)} neurons")


@click.command("import")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.argument("atlas", type=click.Path())
def import_(folder: str, atlas: str) -> None:
    """Make the file ATLAS from the folder DIR that `atlas export` wrote: the same tables, row for row.

    \b
    Example:
      atlas import pocket-parquet copy.atlas
    """
    from atlas.store.exchange import import_atlas

    progress = Progress()
    try:
        made = import_atlas(folder, atlas, progress=progress)
    finally:
        progress.close()
    warn_of_missing_hashes(made)
    echo(f"{atlas}: {len(made.tables)} tables, {made.rows('activations'):,} activation rows. Next: atlas info {atlas}")


def warn_of_missing_hashes(manifest: Manifest) -> None:
    """Say of an export from before there were hashes what cannot be checked."""
    if not manifest.hashes:
        echo(
            f"{manifest.folder} has no hashes, so that nobody can tell whether its contents were changed: export it again "
            "for some",
            err=True,
        )
