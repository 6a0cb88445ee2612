"""atlas export and import"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from atlas.cli.output import Progress, echo

if TYPE_CHECKING:
    from atlas.store.manifest import Manifest


@click.command("export")
@click.argument("atlas", type=click.Path())
@click.argument("folder", metavar="DIR", type=click.Path())
def export(atlas: str, folder: str) -> None:
    """Write every table of ATLAS into the new folder DIR, as Parquet files that other programs read too.

    The activations are one folder per SAE, with runs of neurons as files.

    \b
    Example:
      atlas export pocket.atlas pocket-parquet
    """
    from atlas.store.exchange import export_atlas
    from atlas.store.file import Store

    progress = Progress()
    try:
        made = export_atlas(Store(atlas), folder, progress=progress)
    finally:
        progress.close()
    files = sum(map(len, made.tables.values()))
    echo(f"{folder}: {len(made.tables)} tables, {made.rows('activations'):,} activation rows, {files} files")


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
