"""Steer: the same prompt unsteered, steered and under shuffled scores, side by side."""

from __future__ import annotations

import importlib

from nicegui import ui
from starlette.requests import Request

from atlas.explorer.frame import attempt, framed, from_elsewhere, later
from atlas.explorer.visit import Visit


def add_steer_page(visit: Visit) -> None:
    """Let the application have the page. The libraries of models are imported when it is opened first, which takes seconds."""

    @ui.page("/steer", title="Steer")
    def page(request: Request) -> None:
        given = request.query_params
        with framed(visit, request, "/steer", f"Steer {given.get('topic', '')}"):
            ui.label("Steer").classes("title")
            ui.label(
                "The model goes on with your prompt three times from the same seed: as it is, with the chosen neurons turned "
                "up, and, as a control, with the same scores shuffled over all neurons."
            ).classes("soft")
            place = ui.column().classes("w-full")
            with place:
                ui.spinner(size="lg")

            async def build() -> None:
                view = await attempt(importlib.import_module, "atlas.explorer.steer_view")
                place.clear()
                if view is not None:
                    with place:
                        view.SteerView(visit, view.Wish.read(dict(given)), begin=not from_elsewhere(request))

            later(build)
