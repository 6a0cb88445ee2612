"""Why a neuron has its score: the prompts behind it, and what it would be without some of them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import polars as pl
from nicegui import ui
from starlette.requests import Request

from atlas.explorer.address import link, neuron_link
from atlas.explorer.columns import HEADER, WORDS, column
from atlas.explorer.export import export_buttons
from atlas.explorer.frame import attempt, code_block, framed, later
from atlas.explorer.spelled import shortened
from atlas.explorer.visit import Visit
from atlas.explorer.why import Reasons, searched_reasons, stored_reasons

SHOWN = ("weight", "distance", "contribution", "text", "source")
MOST = 200  # prompts in the table; the others stand in its last line


def add_why_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/why/{sae_key}/{neuron}", title="Why")
    def page(
        request: Request, sae_key: int, neuron: int, topic: str = "", q: str = "", scorer: str = "distance"
    ) -> None:
        texts = [line.strip() for line in q.splitlines() if line.strip()]
        with framed(visit, request, "/topics" if topic else "/", f"Why {neuron}"):
            about = f"topic {topic}" if topic else f"“{' / '.join(texts)[:120]}”"
            ui.label(f"Why neuron {neuron} stands for {about}").classes("title")
            with ui.row().classes("small"):
                ui.link(f"neuron {neuron}", neuron_link(sae_key, neuron))
                ui.link("back to the list", link("/topics", topic=topic) if topic else link("/", q=q))
            ui.label(
                "A neuron's g is the mean squared distance of the prompts it fires on to the topic, each prompt weighted by "
                "the neuron's share in it. Untick prompts to see the score without them."
            ).classes("soft")
            place = ui.column().classes("w-full")
            reasons = functools.partial(stored_reasons, visit, topic, sae_key, neuron, scorer=scorer)
            if not topic:
                reasons = functools.partial(searched_reasons, visit, texts, sae_key, neuron)
            later(functools.partial(show_reasons, visit, place, reasons))


async def show_reasons(visit: Visit, place: ui.column, work: Callable[[], Reasons]) -> None:
    """Fill a place with the prompts behind a score."""
    reasons = await attempt(work)
    if reasons is None:
        return
    with place:
        result = ui.label().classes("result").props('data-testid="why-result" aria-live="polite"')
        shown = reasons.prompts.head(MOST)
        table = ui.table(
            rows=shown.with_columns(id=pl.col("prompt_id")).to_dicts(),
            columns=[column(name, shown[name].dtype) for name in SHOWN],
            row_key="id",
            selection="multiple",
            pagination=25,
        )
        table.classes("neurons reasons w-full").props('flat dense data-testid="reasons"')
        table.add_slot("header-cell", HEADER)
        table.add_slot("body-cell-text", WORDS)
        table.selected = list(table.rows)
        rest = reasons.prompts.slice(MOST)
        if rest.height:
            ui.label(
                f"and {rest.height:,} lighter prompts: weight {rest['weight'].sum():.5f}, contribution "
                f"{rest['contribution'].sum():.5f}"
            ).classes("soft")
        total = reasons.prompts["contribution"].sum()
        ui.label(f"All {reasons.prompts.height:,} contributions sum to g = {total:.6f}").props('data-testid="why-sum"')

        def weigh() -> None:
            kept = {row["prompt_id"] for row in table.selected}
            result.text = score_line(reasons, [row["prompt_id"] for row in table.rows if row["prompt_id"] not in kept])

        table.on_select(weigh)
        weigh()
        export_buttons(visit, reasons.sql, "why")
        with ui.expansion("The SQL behind this table", icon="terminal").classes("w-full"):
            code_block(shortened(reasons.sql), whole=reasons.sql)


def score_line(reasons: Reasons, dropped: list[int]) -> str:
    """The score in words, and what it is without the prompts that are dropped."""
    figures = [
        f"{name} {value:.{digits}f}"
        for name, value, digits in (
            ("g", reasons.g, 4), ("score", reasons.score, 3), ("standard error", reasons.se, 3), ("z", reasons.z, 2),
        )
        if value is not None
    ]  # fmt: skip
    line = ", ".join(figures)
    if not dropped:
        return line
    left = reasons.without(dropped)
    if left is None:
        return f"{line}. Without these {len(dropped)} prompts nothing is left of it."
    return f"{line}. Without {len(dropped)} of its prompts: g {left[0]:.4f}, score {left[1]:.3f}."
