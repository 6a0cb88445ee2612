"""The pages and files as one application, behind the guard."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

from fastapi import FastAPI
from nicegui import app as nicegui_app
from nicegui import ui
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from atlas.cards.html import style
from atlas.explorer.compare_page import add_compare_page
from atlas.explorer.files import parts
from atlas.explorer.guard import Guard
from atlas.explorer.lists_page import add_lists_page
from atlas.explorer.map_page import add_map_page
from atlas.explorer.neuron_page import add_neuron_page
from atlas.explorer.search_page import add_search_page
from atlas.explorer.sql_page import add_sql_page
from atlas.explorer.steer_page import add_steer_page
from atlas.explorer.topics_page import add_topics_page
from atlas.explorer.visit import Visit
from atlas.explorer.why_page import add_why_page

STATIC = Path(__file__).parent / "static"
PLOTLY = "package_data/plotly.min.js"  # in the package, which is not imported for it
PAGES = (
    add_search_page,
    add_neuron_page,
    add_topics_page,
    add_compare_page,
    add_map_page,
    add_why_page,
    add_steer_page,
    add_sql_page,
    add_lists_page,
)
ICON = "🧭"


def make_app(visit: Visit, *, hosts: Collection[str] = (), any_address: bool = False) -> ASGIApp:
    """The application that shows an atlas. A process has one: NiceGUI keeps its pages for all of it.

    Args:
        visit: the atlas.
        hosts: as Guard has it.
        any_address: as Guard has it.
    """
    nicegui_app.add_static_files("/_atlas", STATIC, max_cache_age=0)
    nicegui_app.get("/_atlas_plotly.js")(_plotly)
    nicegui_app.get("/_atlas_cards.css")(_card_style)
    nicegui_app.get("/_atlas_points/{name}")(functools.partial(_points, visit))
    nicegui_app.get("/_atlas_file/{word}")(functools.partial(_file, visit))
    for add_page in PAGES:
        add_page(visit)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    ui.run_with(
        app,
        title="neuron atlas",
        favicon=ICON,
        dark=None,
        tailwind=True,
        show_welcome_message=False,
        reconnect_timeout=20,
    )
    return Guard(app, hosts=hosts, any_address=any_address)


def _points(visit: Visit, name: str) -> Response:
    content = visit.points.get(name)
    if content is None:
        return PlainTextResponse("these points are gone: load the page again", status_code=404)
    return Response(content, media_type="application/octet-stream", headers={"cache-control": "no-store"})


def _file(visit: Visit, word: str) -> Response:
    found = visit.files.take(word)
    if found is None:
        return PlainTextResponse("this file is gone: ask for it again", status_code=404)
    file, name = found
    headers = {
        "cache-control": "no-store",
        "content-length": str(os.fstat(file.fileno()).st_size),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
    }
    return StreamingResponse(parts(file), media_type="application/octet-stream", headers=headers)


def _card_style() -> Response:
    return PlainTextResponse(style(), media_type="text/css")


def _plotly() -> Response:
    (folder,) = importlib.util.find_spec("plotly").submodule_search_locations  # type: ignore[union-attr,misc]
    return FileResponse(Path(folder) / PLOTLY, media_type="text/javascript", headers={"cache-control": "max-age=86400"})
