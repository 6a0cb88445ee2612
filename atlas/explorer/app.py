"""The pages and files as one application, behind the guard."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import plotly
from fastapi import FastAPI
from nicegui import app as nicegui_app
from nicegui import ui
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp

from atlas.explorer.guard import Guard
from atlas.explorer.neuron_page import add_neuron_page
from atlas.explorer.search_page import add_search_page
from atlas.explorer.sql_page import add_sql_page
from atlas.explorer.steer_page import add_steer_page
from atlas.explorer.topics_page import add_topics_page
from atlas.explorer.visit import Visit
from atlas.explorer.why_page import add_why_page

STATIC = Path(__file__).parent / "static"
PLOTLY = Path(plotly.__file__).parent / "package_data/plotly.min.js"
PAGES = (add_search_page, add_neuron_page, add_topics_page, add_why_page, add_steer_page, add_sql_page)
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


def _plotly() -> Response:
    return FileResponse(PLOTLY, media_type="text/javascript", headers={"cache-control": "max-age=86400"})
