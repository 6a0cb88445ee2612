"""The stored topics, and the best neurons of one."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import polars as pl
from nicegui import ui
from starlette.requests import Request

from atlas.explorer.address import link
from atlas.explorer.columns import neuron_table
from atlas.explorer.export import export_buttons
from atlas.explorer.frame import attempt, chips, code_block, empty_state, framed, later
from atlas.explorer.keep import keep_in_list, picked, steer_with
from atlas.explorer.spelled import literal
from atlas.explorer.visit import Visit
from atlas.scoring.centroid_errors import with_errors
from atlas.scoring.scored import require_scored

SHOWN = ("rank", "neuron", "sae_id", "score", "z", "support", "density", "label", "fires_on", "top_tokens")
ROWS = (10, 20, 50, 100, 500)


@dataclass
class Asked:
    """What a visitor asks of a topic."""

    topic: str
    sae: int | None = None
    scorer: str = "distance"
    by: str = ""  # z where the topic was compared with random ones, else score
    n: int = 20

    def sql(self) -> str:
        """The query of the best neurons."""
        sae = "" if self.sae is None else f", sae := {self.sae}"
        return (
            "select g.sae_key, t.*, n.density\n"
            f'from top_neurons({literal(self.topic)}, {self.n}{sae}, scorer := {literal(self.scorer)}, "by" := '
            f"{literal(self.by or None)}) as t\n"
            "join scorings as g on g.scoring_id = t.scoring_id\n"
            "join neurons as n on n.sae_key = g.sae_key and n.neuron = t.neuron\n"
            "order by t.scoring_id, t.rank"
        )


def add_topics_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/topics", title="Topics")
    def page(
        request: Request,
        topic: str = "",
        sae: int | None = None,
        scorer: str = "distance",
        by: str = "",
        n: int = 20,
    ) -> None:
        with framed(visit, request, "/topics", topic or "Topics"):
            topics = visit.ask("all_topics")
            ui.label("Topics").classes("title")
            if topics.is_empty():
                empty_state(
                    "No topic is stored yet. Search for a text and save it as a topic, or run "
                    "`atlas score ATLAS TOPIC TEXTS`."
                )
                return
            hints = {row["name"]: f"{row['texts']} texts" for row in topics.iter_rows(named=True)}
            chips("/topics", "topic", hints, topic)
            if not topic:
                empty_state("Choose a topic to see the neurons that stand for it.")
                return
            TopicView(visit, Asked(topic, sae, scorer, by if by in ("score", "z") else "", min(max(n, 1), 500)))


class TopicView:
    """A topic as one visitor sees it."""

    def __init__(self, visit: Visit, asked: Asked) -> None:
        self.visit, self.asked = visit, asked
        scorers = sorted(set(visit.ask("topic_scorers", topic=asked.topic)["scorer"]))
        with ui.row().classes("controls"):
            saes = {None: "all SAEs", **{row["sae_key"]: row["sae_id"] for row in visit.saes()}}
            for name, options, label, width in (
                ("sae", saes, "SAE", "w-64"),
                ("scorer", scorers or ["distance"], "scorer", "w-36"),
                ("by", {"": "usual order", "score": "order by score", "z": "order by z"}, "order", "w-36"),
                ("n", list(ROWS), "rows per SAE", "w-36"),
            ):
                value = getattr(asked, name)
                known: Any = options if isinstance(options, dict) else dict.fromkeys(options)
                box = ui.select(options, value=value if value in known else next(iter(known)), label=label)
                box.on_value_change(functools.partial(self.set, name))
                box.props(f'dense options-dense outlined data-testid="topic-{name}"').classes(width)
        self.place = ui.column().classes("w-full")
        later(self.show)

    async def set(self, name: str, event: Any) -> None:
        """Take what was changed, and ask again."""
        setattr(self.asked, name, event.value)
        ui.navigate.history.replace(link("/topics", **vars(self.asked)))
        await self.show()

    async def show(self) -> None:
        """Fill the place with the best neurons."""
        found = await attempt(best_neurons, self.visit, self.asked)
        if found is None:
            return
        self.place.clear()
        with self.place:
            table = neuron_table(found, SHOWN, pick=True, mark="top", why=self._why())
            with ui.row().classes("items-center"):
                ui.button("Steer towards it", icon="tune",
                          on_click=lambda: ui.navigate.to(link("/steer", topic=self.asked.topic))).props(
                    "outline no-caps")  # fmt: skip
                keep_in_list(self.visit, lambda: picked(table))
                ui.button("Steer with the ticked", icon="tune", on_click=lambda: steer_with(table)).props(
                    "outline no-caps"
                )
                export_buttons(self.visit, self.asked.sql(), self.asked.topic)
            with ui.expansion("The SQL behind this table", icon="terminal").classes("w-full"):
                code_block(self.asked.sql())
            self._texts()

    def _why(self) -> dict[str, str] | None:
        """What links to the prompts behind the scores say; None for scorers that are not made of prompts."""
        asked = self.asked
        return {"topic": asked.topic, "scorer": asked.scorer} if asked.scorer in ("distance", "centroid") else None

    def _texts(self) -> None:
        texts = self.visit.ask("topic_texts", topic=self.asked.topic)["text"].to_list()
        with ui.expansion(f"The {len(texts)} texts of the topic", icon="notes").classes("w-full"):
            for text in texts:
                ui.label(text)


def best_neurons(visit: Visit, asked: Asked) -> pl.DataFrame:
    """The best neurons of a topic, as `atlas top` has them, errors and all; UnknownName for a topic that is not scored so."""
    with visit.atlas.store.read() as session:
        require_scored(session, asked.topic, asked.scorer)
    found = visit.atlas.sql(asked.sql())
    if asked.scorer != "centroid":
        return found
    with visit.atlas.store.read() as session:
        return with_errors(session, found)
