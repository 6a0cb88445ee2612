"""A neuron's own page: its card, what to do with it, and a box for texts of one's own."""

from __future__ import annotations

from dataclasses import replace

from nicegui import ui
from nicegui.events import KeyEventArguments
from starlette.requests import Request

from atlas.errors import AtlasError
from atlas.explorer.address import link, neuron_link, selection
from atlas.explorer.frame import attempt, framed, from_elsewhere, later
from atlas.explorer.keep import keep_in_list
from atlas.explorer.visit import Visit

LONGEST = 5000  # characters of a text of one's own


def add_neuron_page(visit: Visit) -> None:
    """Let the application have the page."""

    @ui.page("/neuron/{sae_key}/{neuron}", title="Neuron")
    def page(request: Request, sae_key: int, neuron: int, text: str = "") -> None:
        with framed(visit, request, "", f"Neuron {neuron}"):
            ui.add_head_html('<link rel="stylesheet" href="/_atlas_cards.css">')
            NeuronView(visit, sae_key, neuron, text[:LONGEST], live=not from_elsewhere(request))


class NeuronView:
    """A neuron as one visitor sees it."""

    def __init__(self, visit: Visit, sae_key: int, neuron: int, text: str, *, live: bool) -> None:
        self.visit, self.sae_key, self.neuron, self.live = visit, sae_key, neuron, live
        with ui.row().classes("items-center"):
            go = link("/steer", neurons=selection({sae_key: [neuron]}))
            ui.button("Steer with it", icon="tune", on_click=lambda: ui.navigate.to(go)).props("outline no-caps")
            keep_in_list(visit, lambda: {sae_key: [neuron]})
            self.state = ui.label().classes("soft small").props('aria-live="polite" data-testid="neuron-state"')
        self.card = (
            ui.html("", sanitize=False).classes("w-full").props('data-testid="neuron"')
        )  # the card escapes all texts
        with ui.expansion("Try a text of your own on it", icon="edit_note", value=bool(text)).classes("w-full") as own:
            own.props('data-testid="own"')
            self.box = ui.textarea("Your text", value=text).props(f"autogrow outlined dense maxlength={LONGEST}")
            self.box.classes("w-full").props('data-testid="own-text"')
            ui.button("Show where it fires", on_click=self.try_text).props('unelevated no-caps data-testid="own-run"')
            self.tried = ui.html("", sanitize=False).classes("w-full").props('data-testid="own-result"')
        ui.keyboard(on_key=self._turn)
        later(self.show)

    def _turn(self, event: KeyEventArguments) -> None:
        """The arrow keys lead to the neurons beside it."""
        key = event.key
        if event.action.keydown and not event.modifiers.alt:
            step = 1 if key.arrow_right else -1 if key.arrow_left else 0
            if step and self.neuron + step >= 0:
                ui.navigate.to(neuron_link(self.sae_key, self.neuron + step))

    async def show(self) -> None:
        """Show the card as far as the file has it, and then what the model adds."""
        self.state.text = "reading ..."
        card = await attempt(neuron_card, self.visit, self.sae_key, self.neuron, live=False, goes_on=self.live)
        if card is None:
            self.state.text = ""
            return
        self.card.content = card[0]
        if not card[1] and self.live:
            self.state.text = "the model reads the prompts ..."
            whole = await attempt(neuron_card, self.visit, self.sae_key, self.neuron, live=True)
            if whole is not None:
                self.card.content = whole[0]
        self.state.text = ""
        if self.box.value and self.live:
            await self.try_text()

    async def try_text(self) -> None:
        """Show a text with the neuron's activation on each token."""
        text = (self.box.value or "").strip()
        if not text:
            return
        ui.navigate.history.replace(link(neuron_link(self.sae_key, self.neuron), text=text))
        self.state.text = "the model reads your text ..."
        made = await attempt(tried_text, self.visit, self.sae_key, self.neuron, text)
        self.state.text = ""
        if made is not None:
            self.tried.content = made


def neuron_card(visit: Visit, sae_key: int, neuron: int, *, live: bool, goes_on: bool = False) -> tuple[str, bool]:
    """A neuron's card as HTML, and whether nothing is missing that a model could add.

    Args:
        visit: the atlas.
        sae_key: the SAE.
        neuron: the neuron.
        live: whether to run the model for what the file lacks.
        goes_on: whether it is run next, so that the card need not say that it was not.

    Raises:
        UnknownName: no such SAE or neuron.
    """
    from atlas.cards.html import Links
    from atlas.cards.neuron import NOT_RUN, read_neuron
    from atlas.cards.rendering import render_neuron

    store, keep = visit.atlas.store, not visit.read_only
    visit.atlas.sae_key(sae_key)
    found = read_neuron(store, sae_key, neuron, recorded=visit.models if live else None, save=keep)
    if goes_on:
        found = replace(found, notices=tuple(line for line in found.notices if line != NOT_RUN))
    links = Links(neuron=neuron_link, topic=lambda name: link("/topics", topic=name))
    return render_neuron(found, links=links), live or found.is_dead


def tried_text(visit: Visit, sae_key: int, neuron: int, text: str) -> str:
    """A text with a neuron's activation on each token, as HTML."""
    import polars as pl

    from atlas.cards.rendering import render_text
    from atlas.cards.token_values import measure_token_values

    row = {one["sae_key"]: one for one in visit.saes()}.get(sae_key)
    if row is None:
        raise AtlasError(f"there is no SAE {sae_key} in this atlas")
    highest = visit.ask("neuron_facts", sae_key=sae_key, neuron=neuron).item(0, "max_activation")
    codec = visit.models.placed_sae(row).codec
    frame = pl.DataFrame({"prompt_id": [0], "text": [text]}, schema={"prompt_id": pl.UInt32, "text": pl.String})
    found = measure_token_values(visit.models.read_as(row), codec, neuron, frame).row(0, named=True)
    largest = max((value or 0.0 for value in found["activations"]), default=0.0)
    said = f"largest activation {largest:.4g}, on the reference prompts {highest:.4g}"
    return render_text(found["tokens"], found["activations"], highest=max(highest, largest) or 1.0, said=said)
