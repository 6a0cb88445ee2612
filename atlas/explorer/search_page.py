"""The first page: a box for any text, and the neurons that stand for it."""

from __future__ import annotations

import functools
from typing import Any

import polars as pl
from nicegui import ui
from starlette.requests import Request

from atlas.explorer.address import link
from atlas.explorer.columns import neuron_rows, neuron_table
from atlas.explorer.export import export_buttons
from atlas.explorer.found import Filters, mean_embedding, search_errors, search_sql
from atlas.explorer.frame import attempt, code_block, empty_state, framed, later
from atlas.explorer.keep import keep_in_list, picked, steer_with
from atlas.explorer.spelled import shortened
from atlas.explorer.visit import Visit

SHOWN = ("neuron", "sae_id", "score", "z", "support", "density", "label", "fires_on", "writes")
SAMPLES = ("a pain in the chest", "tickets for the match", "how to bake bread", "the government lost a vote")
LOOK = 0.3  # seconds between two looks at what a search waits for
LONGEST = 20_000  # characters in the box


def add_search_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/", title="Search")
    def page(
        request: Request,
        q: str = "",
        sae: int | None = None,
        support: int | None = None,
        density: float | None = None,
        z: float | None = None,
        by: str = "z",
        n: int = 20,
    ) -> None:
        with framed(visit, request, "/", q[:40] or "Search"):
            SearchView(
                visit, q[:LONGEST], {"sae": sae, "support": support, "density": density, "z": z, "by": by, "n": n}
            )


class SearchView:
    """What one visitor searches for, and the rows found."""

    def __init__(self, visit: Visit, text: str, given: dict[str, Any]) -> None:
        self.visit, self.given = visit, given
        self.vector: list[float] = []
        ui.label("Which neurons stand for this?").classes("title")
        with ui.row().classes("w-full no-wrap items-end controls"):
            self.box = ui.textarea(
                "A word, a sentence, or several texts about one thing, a line each", value=text
            ).props(f'autogrow outlined dense autofocus maxlength={LONGEST} data-testid="search-box"')
            self.box.classes("grow").on(
                "keydown.enter", self.search, js_handler="(e) => { if (!e.shiftKey) { e.preventDefault(); emit(); } }"
            )
            ui.button("Search", icon="search", on_click=self.search).props('unelevated no-caps data-testid="search"')
        self._filters()
        self.state = ui.label().classes("soft small").props('aria-live="polite" data-testid="search-state"')
        self.is_searching = False
        self.look()
        ui.timer(LOOK, self.look)
        later(visit.begin_loading)
        self.result = ui.column().classes("w-full")
        later(self.start)

    def _filters(self) -> None:
        given, saes = self.given, self.visit.saes()
        with ui.row().classes("controls"):
            options = {None: "all SAEs", **{row["sae_key"]: row["sae_id"] for row in saes}}
            sae = given["sae"] if given["sae"] in options else None
            ui.select(options, value=sae, label="SAE", on_change=functools.partial(self.set, "sae")).props(
                "dense options-dense outlined"
            ).classes("w-64")
            for name, label, hint in (
                ("support", "support at least", "Only neurons that fired on so many reference prompts"),
                ("density", "density at most", "Leaves out neurons that fire on a larger share of the tokens"),
                ("z", "z at most", "-2 leaves only what is closer to the text than to random texts"),
            ):
                box = ui.number(label, value=given[name], on_change=functools.partial(self.set, name))
                box.props(f'dense outlined clearable debounce=400 data-testid="filter-{name}"').classes("w-36").tooltip(
                    hint
                )
            ui.select({"z": "order by z", "score": "order by score"}, value=given["by"] if given["by"] in ("z", "score")
                      else "z", label="order", on_change=functools.partial(self.set, "by")).props(
                "dense options-dense outlined").classes("w-36")  # fmt: skip
            ui.select([10, 20, 50, 100, 500], value=given["n"] if given["n"] in (10, 20, 50, 100, 500) else 20,
                      label="rows", on_change=functools.partial(self.set, "n")).props(
                "dense options-dense outlined").classes("w-24")  # fmt: skip

    async def set(self, name: str, event: Any) -> None:
        """Take a filter that was changed, and search again."""
        self.given[name] = int(event.value) if name == "support" and event.value is not None else event.value
        await self.search()

    async def start(self) -> None:
        """What stands there first: the rows of the link, or what to do."""
        if self.box.value:
            await self.search()
            return
        with self.result:
            empty_state("Type anything and press Enter. Several lines are searched for as one topic. Try one of these:")
            with ui.row():
                for sample in SAMPLES:
                    ui.link(sample, link("/", q=sample)).classes("sample")

    def look(self) -> None:
        """Say what a search waits for."""
        loading = "loading the sentence encoder, which takes some seconds once ..." if self.visit.is_loading else ""
        self.state.text = loading or ("searching ..." if self.is_searching else "")

    def filters(self) -> Filters:
        """The filters as they stand."""
        given = self.given
        return Filters(given["sae"], given["support"], given["density"], given["z"], given["by"], given["n"])

    def texts(self) -> list[str]:
        """The lines of the box."""
        return list(dict.fromkeys(line.strip() for line in (self.box.value or "").splitlines() if line.strip()))

    async def search(self) -> None:
        """Rank the neurons for the texts, and then their errors, which take longer."""
        texts = self.texts()
        if not texts:
            return
        ui.navigate.history.replace(link("/", q="\n".join(texts), **self.given))
        if not await self._has_vectors():
            return
        self.is_searching = True
        found = await attempt(self._find, texts)
        self.is_searching = False
        self.look()
        if found is None:
            return
        frame, sql = found
        self.result.clear()
        with self.result:
            table = self._show(frame.with_columns(se=pl.lit(None, pl.Float64)), sql, texts)
        errors = await attempt(search_errors, self.visit.atlas.store, self.vector, frame)
        if errors is not None and not table.is_deleted:
            table.rows = neuron_rows(errors, {"q": "\n".join(texts)})

    async def _has_vectors(self) -> bool:
        has = await attempt(self.visit.has_vectors)
        if has is False:
            self.result.clear()
            with self.result:
                empty_state(
                    "This atlas has no neuron vectors yet, which a search goes by: run `atlas search` on it once, or start "
                    "this page without --read-only."
                )
        return bool(has)

    def _find(self, texts: list[str]) -> tuple[pl.DataFrame, str]:
        self.vector = mean_embedding(self.visit.embed(texts))
        sql = search_sql(self.vector, texts=len(texts), filters=self.filters())
        return self.visit.atlas.sql(sql), sql

    def _show(self, frame: pl.DataFrame, sql: str, texts: list[str]) -> ui.table:
        if frame.is_empty():
            empty_state("No neuron passes these filters: loosen one of them.", icon="filter_alt_off")
        table = neuron_table(frame, SHOWN, pick=True, mark="found", why={"q": "\n".join(texts)})
        with ui.row().classes("items-center"):
            ui.button("Save as topic", icon="bookmark_add", on_click=lambda: self._save(texts)).props(
                'outline no-caps data-testid="save-topic"'
            ).set_enabled(not self.visit.read_only)
            keep_in_list(self.visit, lambda: picked(table))
            ui.button("Steer with the ticked", icon="tune", on_click=lambda: steer_with(table)).props("outline no-caps")
            export_buttons(self.visit, sql, "search")
        with ui.expansion("The SQL behind this table", icon="terminal").classes("w-full").props('data-testid="sql"'):
            code_block(shortened(sql), whole=sql)
            ui.label("The list is the mean embedding of your texts; the copy has all of it.").classes("soft small")
        return table

    def _save(self, texts: list[str]) -> None:
        with ui.dialog() as dialog, ui.card():
            ui.label("Save as topic").classes("text-lg")
            ui.label("Every neuron is scored for it, so that it can steer and be compared.").classes("soft")
            name = ui.input("Name of the topic", value=texts[0][:40]).props('autofocus data-testid="topic-name"')

            async def save() -> None:
                saved = await attempt(self._score, name.value or "", texts)
                if saved:
                    dialog.close()
                    ui.navigate.to(link("/topics", topic=saved))

            with ui.row():
                ui.button("Save", on_click=save).props('unelevated no-caps data-testid="topic-save"')
                ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
        dialog.open()

    def _score(self, name: str, texts: list[str]) -> str:
        encoder = self.visit.places.encoder
        self.visit.atlas.score_many({name: texts}, encoder=encoder, tell=lambda _line: None)
        return name
