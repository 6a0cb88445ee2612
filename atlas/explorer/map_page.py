"""All neurons on a map, those that are alike together; coloured by what a visitor asks for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
from nicegui import ui
from starlette.requests import Request

from atlas.errors import StoreError
from atlas.explorer.address import link
from atlas.explorer.frame import attempt, empty_state, framed, later
from atlas.explorer.listed import list_neurons, pairs
from atlas.explorer.scatter import Look, Scatter, colour_range
from atlas.explorer.spelled import literal
from atlas.explorer.visit import Visit

BASES = {"vectors": "what they mean", "decoder": "what they write"}
COLOURS = {
    "density": "density",
    "support": "support",
    "sae": "SAE",
    "z": "a topic's z",
    "score": "a topic's score",
    "sql": "SQL",
}
SHOWN = ("neuron", "sae_id", "colour", "support", "density", "label", "fires_on")
ROWS, MOST_FOUND = 500, 5000
SMALL, LARGE = 3000, 100_000  # points that are drawn large, and small


@dataclass
class Drawn:
    """What a visitor has on the map.

    Attributes:
        basis: key of BASES.
        colour: key of COLOURS.
        topic: whose z or score colours it.
        sae: key of the SAE; None for all on the map.
        find: a word that labels or strongest tokens hold.
        sql: a query with sae_key, neuron and a number that colours it.
    """

    basis: str = "vectors"
    colour: str = "density"
    topic: str = ""
    sae: int | None = None
    find: str = ""
    sql: str = ""

    def points_sql(self) -> str:
        """The query of all points with their colour."""
        return f"select m.sae_key, m.neuron, m.x, m.y, {self._value()} as colour\n{self._from()}order by m.sae_key, m.neuron"

    def list_sql(self, where: str) -> str:
        """The query of the table of some points."""
        return (
            f"select m.sae_key, e.sae_id, m.neuron, {self._value()} as colour, n.support, n.density, l.label,\n"
            "    (select list(lower(trim(t.token)) order by t.rank) from examples as t\n"
            "     where t.sae_key = m.sae_key and t.neuron = m.neuron) as fires_on\n"
            f"{self._from()}{where}\norder by m.sae_key, m.neuron\nlimit {ROWS}"
        )

    def found(self) -> str:
        """What narrows the query to neurons whose label or strongest tokens hold the word."""
        word = literal(f"%{self.find.strip().lower()}%")
        return (
            f"    and (lower(coalesce(l.label, '')) like {word} or exists (\n"
            "        from examples as t where t.sae_key = m.sae_key and t.neuron = m.neuron and "
            f"lower(t.token) like {word}))"
        )

    def _value(self) -> str:
        return {
            "density": "case when n.density > 0 then log10(n.density) end",
            "support": "case when n.support > 0 then log10(n.support) end",
            "sae": "m.sae_key",
            "z": "s.z",
            "score": "s.score",
            "sql": "0",
        }[self.colour]

    def _from(self) -> str:
        scores = ""
        if self.colour in ("z", "score"):
            scores = (
                "left join (\n    select g.sae_key, s.neuron, s.score, s.z\n    from topics as t\n"
                "    join scorings as g on g.topic_id = t.topic_id\n    join scores as s on s.scoring_id = g.scoring_id\n"
                f"    where t.name = {literal(self.topic)} and g.is_current and g.scorer = 'distance'\n"
                ") as s on s.sae_key = m.sae_key and s.neuron = m.neuron\n"
            )
        sae = "" if self.sae is None else f" and m.sae_key = {self.sae}"
        return (
            "from map as m\njoin neurons as n on n.sae_key = m.sae_key and n.neuron = m.neuron\n"
            "join saes as e on e.sae_key = m.sae_key\n"
            "left join neuron_labels as l on l.sae_key = m.sae_key and l.neuron = m.neuron\n"
            f"{scores}where m.basis = {literal(self.basis)}{sae}\n"
        )


def map_points(visit: Visit, drawn: Drawn) -> pl.DataFrame:
    """All points of a map with their colour: sae_key, neuron, x, y, colour; none where there is no map yet.

    Raises:
        StoreError: the SQL that colours it has a fault, or no columns sae_key, neuron and a number.
    """
    points = visit.atlas.sql(drawn.points_sql())
    if drawn.colour != "sql":
        return points
    values = visit.atlas.sql(drawn.sql)
    numbers = [name for name in values.columns if values[name].dtype.is_numeric() and name not in ("sae_key", "neuron")]
    if not {"sae_key", "neuron"} <= set(values.columns) or not numbers:
        raise StoreError(
            "what colours the map needs the columns sae_key and neuron, and a number: name them in the query"
        )
    own = values.select(
        pl.col("sae_key").cast(pl.UInt32, strict=False),
        pl.col("neuron").cast(pl.UInt32, strict=False),
        pl.col(numbers[0]).cast(pl.Float64).alias("colour"),
    ).unique(["sae_key", "neuron"], keep="first", maintain_order=True)
    return points.drop("colour").join(own, on=["sae_key", "neuron"], how="left", maintain_order="left")


def look_of(drawn: Drawn, points: pl.DataFrame) -> Look:
    """How the points of a map look: small where there are many."""
    low, high = colour_range(points["colour"])
    near = drawn.colour == "z"
    if near:  # 0 is chance: as far to the one side as to the other
        high = max(abs(low), abs(high))
        low = -high
    names = {"density": "log10 density", "support": "log10 support", "sae": "SAE", "sql": "SQL"}
    size = 6.0 if points.height < SMALL else 4.0 if points.height < LARGE else 2.0
    return Look(
        name=names.get(drawn.colour, f"{drawn.colour} for {drawn.topic}"), low=low, high=high,
        scale="Portland" if drawn.colour == "sae" else "RdBu" if near else "Viridis", reverse=near, size=size,
        opacity=0.75 if points.height < LARGE else 0.5, square=True,
    )  # fmt: skip


def add_map_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/map", title="Map")
    def page(
        request: Request,
        basis: str = "vectors",
        colour: str = "density",
        topic: str = "",
        sae: int | None = None,
        find: str = "",
        sql: str = "",
    ) -> None:
        with framed(visit, request, "/map", "Map"):
            ui.label("Map").classes("title")
            topics = visit.topics()
            known = topic if topic in topics else (topics[0] if topics else "")
            colour = colour if colour in colours_for(topics, sql) else "density"
            MapView(visit, topics, Drawn(basis if basis in BASES else "vectors", colour, known, sae, find, sql))


def colours_for(topics: Sequence[str], sql: str) -> dict[str, str]:
    """Those of COLOURS that there is something for: a topic to be scored by, a query to colour by."""
    return {
        name: shown
        for name, shown in COLOURS.items()
        if (topics or name not in ("z", "score")) and (sql or name != "sql")
    }


class MapView:
    """The map as one visitor sees it."""

    def __init__(self, visit: Visit, topics: list[str], drawn: Drawn) -> None:
        self.visit, self.drawn = visit, drawn
        self.points = pl.DataFrame()
        saes = {None: "all SAEs", **{row["sae_key"]: row["sae_id"] for row in visit.saes()}}
        drawn.sae = drawn.sae if drawn.sae in saes else None
        colours = colours_for(topics, drawn.sql)
        with ui.row().classes("controls items-center"):
            for name, options, label, width in (
                ("basis", BASES, "alike in", "w-40"), ("colour", colours, "coloured by", "w-40"),
                ("topic", topics or [""], "topic", "w-44"), ("sae", saes, "SAE", "w-64"),
            ):  # fmt: skip
                box = ui.select(options, value=getattr(drawn, name), label=label)
                box.on_value_change(functools.partial(self.set, name))
                box.props(f'dense outlined options-dense data-testid="map-{name}"').classes(width)
            find = ui.input("find a label or a token", value=drawn.find, on_change=functools.partial(self.set, "find"))
            find.props('dense outlined clearable debounce=500 data-testid="map-find"').classes("w-56")
        ui.label("Draw around points to list their neurons; click one for itself; scroll to zoom.").classes(
            "soft small"
        )
        self.scatter = Scatter(visit, pick=self.pick, hover=self.hover)
        self.caption = ui.label(" ").classes("soft").props('data-testid="caption"')
        self.place = ui.column().classes("w-full")
        later(self.show)

    async def set(self, name: str, event: Any) -> None:
        """Take what was changed, and draw what it changes."""
        setattr(self.drawn, name, event.value or "" if name in ("find", "topic") else event.value)
        if name == "topic" and self.drawn.colour not in ("z", "score"):
            self.drawn.colour = "z"
        if name == "find":
            await self.find()
        else:
            await self.show(again=name in ("colour", "topic"))

    async def show(self, *, again: bool = False) -> None:
        """Draw the map; only other colours when the points are drawn already."""
        ui.navigate.history.replace(link("/map", **asdict(self.drawn)))
        points = await attempt(map_points, self.visit, self.drawn)
        if points is None:
            return
        if points.is_empty():
            self._offer()
            return
        self.scatter.show(True)
        drawn_before = again and self.points.height == points.height
        self.points = points
        look = look_of(self.drawn, points)
        (self.scatter.recolour if drawn_before else self.scatter.draw)(points, look)
        if not drawn_before:
            self.place.clear()
            if self.drawn.find:
                await self.find()

    def _offer(self) -> None:
        """Say that there is no map yet, and offer to make it."""
        self.place.clear()
        self.scatter.show(False)
        command = f"atlas map {self.visit.atlas.store.path}" + (
            " --basis decoder" if self.drawn.basis == "decoder" else ""
        )
        with self.place:
            empty_state(
                f"There is no map of {BASES[self.drawn.basis]} yet. It is made once and kept; `{command}` makes it too."
            )
            if self.visit.read_only:
                return
            state = ui.label().classes("soft").props('aria-live="polite"')
            button = ui.button("Make the map", icon="scatter_plot").props('unelevated no-caps data-testid="make-map"')

            async def make() -> None:
                button.set_enabled(False)
                told = {"text": "beginning ..."}
                timer = ui.timer(0.3, lambda: state.set_text(told["text"]))

                def progress(stage: str, done: int, total: int) -> None:
                    told["text"] = f"{stage}: {done:,} of {total:,}" if total else f"{stage} ..."

                made = await attempt(
                    self.visit.atlas.map, self.drawn.basis, release=self.visit.places.release, progress=progress
                )
                timer.cancel()
                button.set_enabled(True)
                if made is not None:
                    await self.show()

            button.on_click(make)

    async def find(self) -> None:
        """Let all neurons fade whose labels and tokens do not hold the word, and list the others."""
        ui.navigate.history.replace(link("/map", **asdict(self.drawn)))
        if not self.drawn.find.strip():
            self.scatter.highlight(None)
            self.place.clear()
            return
        sql = self.drawn.list_sql(self.drawn.found())
        every = await attempt(self.visit.atlas.sql, sql.rpartition("\nlimit")[0])
        if every is None:
            return
        numbers = self.points.with_row_index("number").join(every.select("sae_key", "neuron"), on=["sae_key", "neuron"])
        self.scatter.highlight(numbers["number"].head(MOST_FOUND).to_list())
        await list_neurons(
            self.visit, self.place, sql, shown=SHOWN, title=f"With “{self.drawn.find}”", more=every.height > ROWS
        )

    async def hover(self, number: int) -> None:
        """Say which neuron is pointed at."""
        if number < self.points.height:
            row = self.points.row(number, named=True)
            self.caption.text = await attempt(self.visit.caption, row["sae_key"], row["neuron"]) or ""

    async def pick(self, numbers: list[int], count: int) -> None:
        """List the neurons of points."""
        rows = self.points[[number for number in numbers if number < self.points.height]].head(ROWS)
        if rows.height:
            where = f"    and (m.sae_key, m.neuron) in ({pairs(rows)})"
            title = f"{count:,} neurons" if count > 1 else "One neuron"
            await list_neurons(
                self.visit, self.place, self.drawn.list_sql(where), shown=SHOWN, title=title, more=count > rows.height
            )
