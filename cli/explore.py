"""atlas explore"""

from __future__ import annotations

import importlib.util

import click
from atlas.cli.options import device_option, encoder_option, model_options
from atlas.cli.output import echo

from atlas.errors import AtlasError

NEEDED = ("nicegui", "plotly", "jinja2")  # of the extra


@click.command()
@click.argument("atlas", type=click.Path())
@click.option(
    "--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for any that is free."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Whoever reaches another one sees the atlas, and can store in it unless --read-only.",
)
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser.")
@click.option("--read-only", is_flag=True, help="Store nothing: no topic, list, note or text. For showing to others.")
@model_options
@encoder_option
@device_option
def explore(
    atlas: str,
    port: int,
    host: str,
    no_browser: bool,
    read_only: bool,
    model: str | None,
    release: str | None,
    encoder: str | None,
    device: str,
) -> None:
    """Open a page on ATLAS in the browser: type anything, see which neurons stand for it and why, and steer with them.

    The page is served by this command on this machine only, until Ctrl-C; nothing is fetched from elsewhere. Needs the extra
    explore.

    \b
    Examples:
      atlas explore pocket.atlas
      atlas explore smollm2.atlas --read-only --no-browser --port 9000
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise AtlasError(f"the page needs {', '.join(missing)}: pip install 'neuron-atlas[explore]'")
    from atlas.api import Atlas
    from atlas.explorer.serve import serve
    from atlas.explorer.visit import PATIENCE, Places, Visit
    from atlas.store.file import Store

    store = Store(atlas, patience=PATIENCE, read_only=read_only)
    store.check()
    visit = Visit(Atlas(store), places=Places(model, release, encoder, device))
    serve(
        visit, host=host, port=port, browser=not no_browser, tell=lambda url: echo(f"{atlas}: {url} (Ctrl-C to stop)")
    )
