"""What strength costs and brings: the curve that a calibration stored, with the strength that is used marked on it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import polars as pl

from atlas.explorer.visit import Visit
from atlas.explorer.wish import PLAIN, Wish
from atlas.steering.methods import METHODS
from atlas.steering.prepare import PreparedSteering
from atlas.steering.settings import SteeringSettings

NAMES = {"perplexity": "perplexity", "distance_topic": "distance to the topic"}
SCHEMA = {"strength": pl.Float64, "name": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
LEAST = 3  # strengths of a curve
COLOURS = {"perplexity": "#d9480f", "distance_topic": "#3b5bdb"}


def strength_curve(visit: Visit, prepared: PreparedSteering, method: str) -> pl.DataFrame:
    """The figures of the last calibration under the settings of a steer: strength, name, value, low, high; empty without one.

    Strength 0 is unsteered text.
    """
    if prepared.topic is None:
        return pl.DataFrame(schema=SCHEMA)
    wanted, runs = conditions(prepared, method), visit.ask("calibration_runs", topic=prepared.topic, method=method)
    for part in runs.partition_by("evaluation_id", maintain_order=True):
        strengths = {row["run_id"]: _strength(row, wanted) for row in part.iter_rows(named=True)}
        known = {run: strength for run, strength in strengths.items() if strength is not None}
        if len({strength for strength in known.values() if strength}) >= LEAST:
            return _figures(visit, known)
    return pl.DataFrame(schema=SCHEMA)


def conditions(prepared: PreparedSteering, method: str) -> dict[str, Any]:
    """What the runs of a calibration must have in common with a steer, as they are stored."""
    own, options = METHODS[method], prepared.options[method]
    shared = asdict(prepared.settings)
    del shared["system"]  # like a prompt, it is what the model reads
    if own.vector and not own.weighs:
        del shared["scorer"], shared["select"]
    found = {**shared, "neurons": options.neurons, "sigma": options.sigma, "sae_keys": prepared.sae_keys}
    return {**found, "vectors": list(prepared.vectors)} if own.vector else found


def _strength(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> float | None:
    """The strength of a run; None where it is one of other settings, or says none."""
    if row["method"] == PLAIN:
        return 0.0
    try:
        stored = json.loads(row["parameters"])
        flat = {"chat": False, **stored, **stored["options"]}
        return float(flat["strength"]) if all(flat.get(name) == value for name, value in wanted.items()) else None
    except (ValueError, TypeError, KeyError):  # not one that this program wrote
        return None


def _figures(visit: Visit, strengths: Mapping[int, float]) -> pl.DataFrame:
    found = visit.ask("strength_curve", runs=list(strengths))
    named = found.with_columns(strength=pl.col("run_id").replace_strict(strengths, return_dtype=pl.Float64))
    return named.select(*SCHEMA).sort("name", "strength")


def calibrate_command(path: Any, wish: Wish, prepared: PreparedSteering) -> str:
    """The command that makes the curve of a steer."""
    usual, options = SteeringSettings(), prepared.options[wish.method]
    words = ["atlas", "evaluate", str(path), str(prepared.topic), "--method", wish.method, "--calibrate"]
    words += [word for key in prepared.sae_keys for word in ("--sae-id", str(key))]
    words += [word for name in prepared.vectors for word in ("--vector", name)] if METHODS[wish.method].vector else []
    for option, value, without in (
        ("--select", wish.select, usual.select), ("--positions", wish.positions, usual.positions),
        ("--neurons", options.neurons, METHODS[wish.method].neurons),
    ):  # fmt: skip
        words += [option, str(value)] if value != without else []
    words += ["--chat"] if wish.chat else []
    words += ["--system", wish.system] if wish.chat and wish.system else []
    return shlex.join(words)


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
