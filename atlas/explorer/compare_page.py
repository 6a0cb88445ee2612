"""One topic against another: all neurons as points, and what stands for one and not for the other."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
from nicegui import ui
from starlette.requests import Request

from atlas.explorer.address import link
from atlas.explorer.frame import attempt, empty_state, framed, later
from atlas.explorer.listed import list_neurons, pairs
from atlas.explorer.scatter import Look, Scatter
from atlas.explorer.spelled import literal
from atlas.explorer.visit import Visit

MEASURES = {"z": "z (below 0 is closer than chance)", "score": "score", "g": "g (smaller is closer)"}
SHOWN = ("neuron", "sae_id", "a", "b", "support", "density", "label", "fires_on")
CLOSE, NOT_CLOSE = -2, 0  # z of a neuron that stands for a topic, and of one that does not
ROWS = 500


@dataclass
class Compared:
    """What a visitor compares."""

    a: str
    b: str
    by: str = "z"
    sae: int | None = None

    def sql(self, where: str = "") -> str:
        """The query of all neurons that have scores for both topics; `where` narrows it."""
        sae = "" if self.sae is None else f" and ga.sae_key = {self.sae}"
        return (
            f"select ga.sae_key, e.sae_id, x.neuron, x.{self.by} as a, y.{self.by} as b, n.support, n.density, l.label,\n"
            "    (select list(lower(trim(t.token)) order by t.rank) from examples as t\n"
            "     where t.sae_key = ga.sae_key and t.neuron = x.neuron) as fires_on\n"
            f"{self._joins()}"
            "left join neuron_labels as l on l.sae_key = ga.sae_key and l.neuron = x.neuron\n"
            f"where {self._scored()}{sae}{where}\n"
            "order by ga.sae_key, x.neuron"
        )

    def points_sql(self) -> str:
        """The same with what a plot needs."""
        sae = "" if self.sae is None else f" and ga.sae_key = {self.sae}"
        return (
            f"select ga.sae_key, x.neuron, x.{self.by} as x, y.{self.by} as y,\n"
            "    case when n.density > 0 then log10(n.density) end as colour\n"
            f"{self._joins()}where {self._scored()}{sae}\norder by ga.sae_key, x.neuron"
        )

    def difference(self) -> str:
        """What narrows the query to neurons that stand for A and not for B, by z."""
        return f" and x.z <= {CLOSE} and y.z >= {NOT_CLOSE}"

    def _joins(self) -> str:
        return (
            "from topics as ta\njoin scorings as ga on ga.topic_id = ta.topic_id\n"
            "join topics as tb on true\njoin scorings as gb on gb.topic_id = tb.topic_id and gb.sae_key = ga.sae_key\n"
            "join scores as x on x.scoring_id = ga.scoring_id\n"
            "join scores as y on y.scoring_id = gb.scoring_id and y.neuron = x.neuron\n"
            "join saes as e on e.sae_key = ga.sae_key\n"
            "join neurons as n on n.sae_key = ga.sae_key and n.neuron = x.neuron\n"
        )

    def _scored(self) -> str:
        kept = " and ".join(f"{one}.is_current and {one}.scorer = 'distance'" for one in ("ga", "gb"))
        return (
            f"ta.name = {literal(self.a)} and tb.name = {literal(self.b)}\n    and {kept}\n"
            "    and x.score is not null and y.score is not null"
        )


def add_compare_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/compare", title="Compare")
    def page(request: Request, a: str = "", b: str = "", by: str = "z", sae: int | None = None) -> None:
        with framed(visit, request, "/compare", f"{a} against {b}" if a and b else "Compare"):
            ui.label("One topic against another").classes("title")
            topics = visit.topics()
            if len(topics) < 2:
                empty_state(
                    "Two scored topics can be compared. Save a search as a topic, or run `atlas score ATLAS TOPIC TEXTS`."
                )
                return
            first = a if a in topics else topics[0]
            second = b if b in topics and b != first else next(name for name in topics if name != first)
            CompareView(visit, topics, Compared(first, second, by if by in MEASURES else "z", sae))


class CompareView:
    """Two topics as one visitor compares them."""

    def __init__(self, visit: Visit, topics: list[str], compared: Compared) -> None:
        self.visit, self.compared = visit, compared
        self.frame = pl.DataFrame()
        saes = {None: "all SAEs", **{row["sae_key"]: row["sae_id"] for row in visit.saes()}}
        with ui.row().classes("controls items-center"):
            for name, options, label, width in (
                ("a", topics, "topic A (across)", "w-44"), ("b", topics, "topic B (up)", "w-44"),
                ("by", MEASURES, "by", "w-72"), ("sae", saes, "SAE", "w-64"),
            ):  # fmt: skip
                box = ui.select(options, value=getattr(compared, name), label=label)
                box.on_value_change(functools.partial(self.set, name))
                box.props(f'dense outlined options-dense data-testid="compare-{name}"').classes(width)
            ui.button("For A and not for B", icon="filter_alt", on_click=self.pick_difference).props(
                'outline no-caps data-testid="difference"'
            ).tooltip(f"Neurons whose z for A is at most {CLOSE} and for B at least {NOT_CLOSE}")
        ui.label(
            "Draw around points to list their neurons; click one for itself. Colour: density, rare to common."
        ).classes("soft small")
        self.scatter = Scatter(visit, pick=self.pick, hover=self.hover)
        self.caption = ui.label(" ").classes("soft").props('data-testid="caption"')
        self.place = ui.column().classes("w-full")
        later(self.show)

    async def set(self, name: str, event: Any) -> None:
        """Take what was changed, and draw anew."""
        setattr(self.compared, name, event.value)
        await self.show()

    async def show(self) -> None:
        """Draw all neurons."""
        ui.navigate.history.replace(link("/compare", **asdict(self.compared)))
        found = await attempt(self.visit.atlas.sql, self.compared.points_sql())
        if found is None:
            return
        self.frame = found
        self.place.clear()
        if found["x"].count() == 0 or found["y"].count() == 0:
            with self.place:
                empty_state(
                    f"These topics have no {self.compared.by} for the same SAE: score them again, or choose"
                    " another measure."
                )
            return
        by = self.compared.by
        look = Look(f"{by} for {self.compared.a}", f"{by} for {self.compared.b}", "log10 density", -5, -1, "Viridis",
                    opacity=0.65)  # fmt: skip
        self.scatter.draw(found, look)

    async def hover(self, number: int) -> None:
        """Say which neuron is pointed at."""
        if number < self.frame.height:
            row = self.frame.row(number, named=True)
            self.caption.text = await attempt(self.visit.caption, row["sae_key"], row["neuron"]) or ""

    async def pick(self, numbers: list[int], count: int) -> None:
        """List the neurons of points."""
        rows = self.frame[[number for number in numbers if number < self.frame.height]].head(ROWS)
        if rows.height:
            await self._list(
                f" and (ga.sae_key, x.neuron) in ({pairs(rows)})", f"{count:,} neurons", count > rows.height
            )

    async def pick_difference(self) -> None:
        """List the neurons that stand for A and not for B."""
        await self._list(self.compared.difference(), f"For {self.compared.a} and not for {self.compared.b}", more=False)

    async def _list(self, where: str, title: str, more: bool) -> None:
        await list_neurons(self.visit, self.place, self.compared.sql(where), shown=SHOWN, title=title, more=more)
