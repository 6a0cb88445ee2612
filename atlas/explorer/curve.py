"""What strength costs and brings: the curve that an evaluation stored, with the strength that is used marked on it."""

from __future__ import annotations

from typing import Any

import polars as pl

from atlas.explorer.visit import Visit

NAMES = {"perplexity": "perplexity", "distance_topic": "distance to the topic"}
COLOURS = {"perplexity": "#d9480f", "distance_topic": "#3b5bdb"}


def strength_curve(visit: Visit, topic: str, method: str) -> pl.DataFrame:
    """The figures of the last calibration of a method for a topic: strength, name, value, low, high; empty without one."""
    return visit.ask("strength_curve", topic=topic, method=method)


def curve_figure(curve: pl.DataFrame, strength: float | None, picked: float | None) -> dict[str, Any]:
    """A curve as Plotly has it, with a line at the strength that is used and at the one that the calibration picked."""
    lines = []
    for name, shown in NAMES.items():
        own = curve.filter(pl.col("name") == name)
        x, y = own["strength"].to_list(), own["value"].to_list()
        error = (own["high"] - own["value"]).fill_null(0).to_list()
        lines.append(
            {
                "x": x, "y": y, "name": shown, "type": "scatter", "mode": "lines+markers",
                "yaxis": "y" if name == "perplexity" else "y2", "line": {"color": COLOURS[name]},
                "error_y": {"type": "data", "array": error, "thickness": 1},
            }
        )  # fmt: skip
    layout: dict[str, Any] = {
        "height": 260,
        "margin": {"l": 50, "r": 50, "t": 24, "b": 36},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#8a94a3"},
        "xaxis": {"title": {"text": "strength"}, "gridcolor": "rgba(128,128,128,.2)"},
        "yaxis": {"title": {"text": NAMES["perplexity"]}, "gridcolor": "rgba(128,128,128,.2)"},
        "yaxis2": {"title": {"text": NAMES["distance_topic"]}, "overlaying": "y", "side": "right", "showgrid": False},
        "legend": {"orientation": "h", "y": 1.2},
    }
    places = {"in use": strength, "picked by calibration": picked}
    if picked == strength:
        places = {"in use, picked by calibration": picked}
    known = [(text, place) for text, place in places.items() if place is not None]
    line = {"color": "#2f9e44", "dash": "dot"}
    layout["shapes"] = [
        {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "yref": "paper", "line": line}
        for _, place in known
    ]
    layout["annotations"] = [
        {"x": place, "y": 1 - 0.12 * row, "yref": "paper", "text": text, "showarrow": False, "xanchor": "left"}
        for row, (text, place) in enumerate(known)
    ]
    return {"data": lines, "layout": layout, "config": {"displayModeBar": False, "responsive": True}}
