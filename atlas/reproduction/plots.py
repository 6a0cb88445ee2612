"""Draw a frame: each function takes columns by name and gives a figure. The only importer of matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from atlas.errors import AtlasError
from atlas.store.replacement import replacement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Picture = Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#777777"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def require_matplotlib() -> None:
    """Raise AtlasError when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise AtlasError("matplotlib is not installed: pip install 'neuron-atlas[plots]'") from error


def save(draw: Callable[[pl.DataFrame], Figure], frame: pl.DataFrame, path: Path) -> None:
    """Draw a frame and write it as PNG."""
    import matplotlib

    with matplotlib.rc_context(STYLE), replacement(path) as new:  # type: ignore[arg-type]
        draw(frame).savefig(new, dpi=110, format="png")


def lines(
    frame: pl.DataFrame,
    *,
    x: str,
    series: str | None,
    panel: str,
    labels: tuple[str, str],
    log_x: bool = True,
    ticks: bool = False,
    columns: int = 2,
    share_y: bool = True,
    zero: bool = False,
    y: tuple[float, float] | None = None,
) -> Figure:
    """`value` over `x`, a line per `series`, a panel per `panel`; a band where the columns low and high are.

    Args:
        labels: of the two axes.
        ticks: put one tick at each x that there is.
        columns: panels side by side.
        zero: draw a line at 0.
        y: range of the values.
    """
    panels = values_of(frame, panel)
    columns = min(columns, len(panels))
    figure, grid = new_figure(
        len(panels), columns, width=3.6 if columns < 4 else 2.5, height=2.9 if columns < 4 else 2.0, share_y=share_y
    )
    names = values_of(frame, series) if series else [None]
    for axes, name in zip(grid, panels, strict=True):
        mine = frame.filter(pl.col(panel) == name)
        for place, one in enumerate(names):
            part = (mine if one is None else mine.filter(pl.col(str(series)) == one)).sort(x)
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(part[x], part["value"], color=colour, marker="." if len(part) < 15 else None, label=one)
            if "low" in part.columns and (part["low"] != part["high"]).any():
                axes.fill_between(part[x], part["low"], part["high"], color=colour, alpha=0.2, linewidth=0)
        axes.set_title(str(name))
        if log_x:
            axes.set_xscale("log", base=2 if ticks else 10)
        if ticks:
            found = sorted(mine[x].unique())
            axes.set_xticks(found, [f"{value:,}" for value in found], rotation=45, fontsize=7)
            axes.minorticks_off()
        if zero:
            axes.axhline(0, color=GREY, linewidth=0.8)
        if y is not None:
            axes.set_ylim(*y)
    label_outside(grid, columns, *labels)
    if series:
        legend_below(figure, grid[0])
    return figure


def dots(
    frame: pl.DataFrame,
    *,
    row: str,
    series: str | None,
    panel: str,
    label: str = "",
    labels: dict[str, str] | None = None,
    scale: str = "linear",
    mark: float | None = None,
    share_x: bool = False,
    columns: int = 2,
) -> Figure:
    """`value` with its interval (low, high), a row per `row`, a colour per `series`, a panel per `panel`.

    Args:
        label: of every x axis.
        labels: panel -> label of its x axis, in place of `label`.
        scale: of the x axes, as matplotlib names it.
        mark: draw a line there.
    """
    panels, rows = values_of(frame, panel), values_of(frame, row)
    names = values_of(frame, series) if series else [None]
    columns = min(columns, len(panels))
    height = 0.9 + len(rows) * max(0.22, 0.11 * len(names))
    figure, grid = new_figure(len(panels), columns, width=3.6, height=height, share_y=True, share_x=share_x)
    for axes, name in zip(grid, panels, strict=True):
        mine = frame.filter((pl.col(panel) == name) & pl.col("value").is_not_null())
        for place, one in enumerate(names):
            part = mine if one is None else mine.filter(pl.col(str(series)) == one)
            height_of = np.array([rows.index(value) for value in part[row]], dtype=float)
            shift = 0.0 if len(names) == 1 else 0.6 * (place / (len(names) - 1) - 0.5)
            value, low, high = (part[column].cast(pl.Float64).to_numpy() for column in ("value", "low", "high"))
            axes.errorbar(
                value, height_of + shift, xerr=np.nan_to_num(np.stack([value - low, high - value]).clip(min=0)),
                fmt=MARKERS[place % len(MARKERS)], color=COLOURS[place % len(COLOURS)], markersize=4, elinewidth=1.2,
                label=one,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.set_xscale(scale, **({"linthresh": 10} if scale == "symlog" else {}))
        axes.set_title(str(name))
        axes.set_xlabel((labels or {}).get(str(name), label))
        axes.grid(visible=False, axis="y")
        if mark is not None:
            axes.axvline(mark, color=GREY, linewidth=0.8)
    if series:
        legend_below(figure, grid[0])
    return figure


def bars(frame: pl.DataFrame, *, x: str, y: str, panel: str, labels: tuple[str, str]) -> Figure:
    """A bar per row of the frame, a panel per `panel`."""
    panels = values_of(frame, panel)
    figure, grid = new_figure(len(panels), min(2, len(panels)), width=4.2, height=3.0, share_y=True)
    for axes, name in zip(grid, panels, strict=True):
        mine = frame.filter(pl.col(panel) == name)
        axes.bar(range(len(mine)), mine[y], color=COLOURS[0], width=0.85)
        axes.set_xticks(
            range(len(mine)), mine[x].to_list(), rotation=60, ha="right", rotation_mode="anchor", fontsize=7
        )
        axes.set_title(str(name))
        axes.grid(visible=False, axis="x")
    label_outside(grid, min(2, len(panels)), *labels)
    return figure


def horizontal_bars(frame: pl.DataFrame, *, row: str, value: str, panel: str, label: str) -> Figure:
    """A horizontal bar per row of the frame with its value written beside it, a panel per `panel`, each on its own scale."""
    panels = values_of(frame, panel)
    figure, grid = new_figure(len(panels), 1, width=6.5, height=1.5, share_y=False)
    for axes, name in zip(grid, panels, strict=True):
        mine = frame.filter(pl.col(panel) == name)
        drawn = axes.barh(mine[row].to_list(), mine[value].to_list(), color=COLOURS[0])
        axes.bar_label(drawn, labels=[f"{one:.3g}" for one in mine[value]], padding=3, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(str(name))
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
    return figure


def matrix(frame: pl.DataFrame, *, row: str, column: str, panel: str | None, label: str) -> Figure:
    """`value` as coloured squares with the number in each, of a symmetric table given once per pair."""
    panels = values_of(frame, panel) if panel else [""]
    names = list(dict.fromkeys([*frame[row].to_list(), *frame[column].to_list()]))
    side = 1.6 + 0.42 * len(names)
    figure, grid = new_figure(len(panels), min(2, len(panels)), width=side + 0.6, height=side, share_y=False)
    low, high = (float(end) for end in np.nanquantile(frame["value"].to_numpy(), (0, 1)))
    for axes, name in zip(grid, panels, strict=True):
        table = np.full((len(names), len(names)), np.nan)
        for one in (frame.filter(pl.col(panel) == name) if panel else frame).to_dicts():
            place = names.index(one[row]), names.index(one[column])
            table[place] = table[place[::-1]] = one["value"]
        image = axes.imshow(table, cmap="viridis", vmin=low, vmax=high)
        middle = (low + high) / 2
        for (i, j), value in np.ndenumerate(table):
            if not math.isnan(value):
                axes.text(
                    j,
                    i,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="black" if value > middle else "white",
                )
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(str(name))
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return figure


def boxes(frame: pl.DataFrame, *, row: str, series: str, panel: str, label: str) -> Figure:
    """Boxes from the columns q05, q25, q50, q75, q95: a row per `row`, a colour per `series`, a panel per `panel`."""
    from matplotlib.patches import Patch

    panels, rows, names = values_of(frame, panel), values_of(frame, row), values_of(frame, series)
    height = 0.9 + 0.16 * len(rows) * (len(names) + 0.6)
    figure, grid = new_figure(len(panels), min(2, len(panels)), width=3.6, height=height, share_y=True)
    for axes, name in zip(grid, panels, strict=True):
        for place, one in enumerate(names):
            mine = frame.filter((pl.col(panel) == name) & (pl.col(series) == one))
            step = 0.8 / len(names)
            stats = [
                {"whislo": q["q05"], "q1": q["q25"], "med": q["q50"], "q3": q["q75"], "whishi": q["q95"]}
                for q in mine.to_dicts()
            ]
            axes.bxp(
                stats, positions=[rows.index(value) + (place - (len(names) - 1) / 2) * step for value in mine[row]],
                widths=0.8 * step, orientation="horizontal", showfliers=False, patch_artist=True,
                boxprops={"facecolor": COLOURS[place], "edgecolor": COLOURS[place], "alpha": 0.6},
                medianprops={"color": "black"}, whiskerprops={"color": COLOURS[place]}, capprops={"color": COLOURS[place]},
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(str(name))
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
    handles = [Patch(color=COLOURS[place], alpha=0.6, label=f"{one}") for place, one in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names), title=series)
    return figure


def scatter(frame: pl.DataFrame, *, x: str, y: str, panel: str, labels: tuple[str, str]) -> Figure:
    """A dot per row of the frame, a panel per `panel`, all on the same x axis."""
    panels = values_of(frame, panel)
    figure, grid = new_figure(len(panels), min(2, len(panels)), width=3.6, height=2.4, share_y=False, share_x=True)
    for axes, name in zip(grid, panels, strict=True):
        mine = frame.filter(pl.col(panel) == name)
        axes.scatter(mine[x], mine[y], s=8, alpha=0.5, color=COLOURS[0], linewidths=0)
        axes.set_title(str(name))
    label_outside(grid, min(2, len(panels)), *labels)
    return figure


def values_of(frame: pl.DataFrame, column: str) -> list[Any]:
    """The values of a column in the order they come."""
    return frame[column].unique(maintain_order=True).to_list()


def new_figure(
    panels: int, columns: int, *, width: float, height: float, share_y: bool, share_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure and as many axes as there are panels; sizes in inches per panel."""
    from matplotlib.figure import Figure

    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(width * columns + 0.8, height * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y, sharex=share_x).ravel().tolist()
    for spare in grid[panels:]:
        spare.remove()
    return figure, grid[:panels]


def label_outside(grid: Sequence[Axes], columns: int, x: str, y: str) -> None:
    """Label the lowest panel of each column and the first of each row."""
    for place, axes in enumerate(grid):
        if place + columns >= len(grid):
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel(y)


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for all panels."""
    handles, names = axes.get_legend_handles_labels()
    room = figure.get_figwidth() * 11  # letters that fit side by side
    columns = max(1, min(len(names), int(room / (6 + max(len(str(name)) for name in names)))))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)
