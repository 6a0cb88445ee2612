"""What stands on the page that steers: a form, and three texts as they grow. Imports the libraries of models."""

from __future__ import annotations

from dataclasses import replace

from nicegui import ui

from atlas.explorer.comparison import COLUMNS, Comparison, Settled, compare_texts, settle
from atlas.explorer.curve import calibrate_command, curve_figure, strength_curve
from atlas.explorer.frame import attempt, code_block, empty_state, later
from atlas.explorer.steer_form import SteerForm
from atlas.explorer.tokens import tint_range, token_html
from atlas.explorer.visit import Visit
from atlas.explorer.wish import Wish
from atlas.steering.methods import METHODS

LEGEND = (
    "The warmer a token, the more of its code is off the topic: from {:.2f} to {:.2f} contaminated, one scale for all three. Point "
    "at a token for what else might have stood there."
)
LOOK = 0.15  # seconds between two looks at texts that grow


class SteerView:
    """A visitor's wish and its texts."""

    def __init__(self, visit: Visit, wish: Wish, *, begin: bool) -> None:
        self.visit, self.going = visit, Comparison()
        self.settled: Settled | None = None
        self.wanted = wish  # what was settled
        self.asked = 0  # how often something was set: an answer to an older wish is not shown
        self.form = SteerForm(visit, wish, self.changed)
        with ui.row().classes("items-center"):
            self.go = ui.button("Generate", icon="play_arrow", on_click=self.generate).props(
                'unelevated no-caps data-testid="generate"'
            )
            self.stop = ui.button("Stop", icon="stop", on_click=self.halt).props('outline no-caps data-testid="stop"')
            self.stop.set_enabled(False)
            self.state = ui.label().classes("soft").props('data-testid="state" aria-live="polite"')
        self.columns: dict[str, tuple[ui.label, ui.html]] = {}
        with ui.element("div").classes("side"):
            for name, hint in COLUMNS.items():
                with ui.element("div").classes("panel").props(f'data-testid="{name}"'):
                    ui.html(f"<h2>{name}</h2>", sanitize=False).tooltip(hint)
                    figures = ui.label().classes("soft small figures")
                    self.columns[name] = figures, ui.html("", sanitize=False).classes("generated")
        self.legend = ui.label().classes("soft small")
        self.below = ui.column().classes("w-full")
        ui.timer(LOOK, self.look)
        ui.context.client.on_disconnect(self.halt)
        if begin:
            later(self.changed)

    def halt(self) -> None:
        """End what is being generated, or the waiting for it."""
        self.going.stopped.set()

    async def changed(self) -> None:
        """Something was set: put it into the link, and find the strength and the copies anew."""
        self.asked += 1
        mine, wish = self.asked, self.form.wish()
        ui.navigate.history.replace(wish.link())
        self.settled = None
        if not wish.is_scored and not wish.vectors:
            self.below.clear()
            with self.below:
                empty_state(
                    "Choose a topic or a list, or give neurons by their numbers; a neuron's page and every list lead here too."
                )
            return
        going = Comparison()
        self.going = going if self.going.stopped.is_set() or not self.going.state else self.going
        settled = await attempt(settle, self.visit, wish, going)
        going.state = ""
        if settled is None or mine != self.asked:
            return
        self.settled, self.wanted = settled, wish
        self.form.show_settled(settled)
        self._show_below(settled)

    def _show_below(self, settled: Settled) -> None:
        wish, path = settled.wish, self.visit.atlas.store.path
        self.below.clear()
        with self.below:
            if wish.own_topic and METHODS[wish.method].strength is not None:
                self._show_curve(settled)
            if not wish.prompt:
                return
            places = self.visit.places
            for name, text in (
                ("As a command", wish.command(path)),
                ("As Python", wish.python(path, model=places.model, release=places.release)),
                ("The neurons that steer, as SQL", wish.sql(settled.prepared.sae_keys[0])),
            ):
                with ui.expansion(name, icon="content_copy").classes("w-full copies"):
                    code_block(text, what=name.rpartition(" ")[2])

    def _show_curve(self, settled: Settled) -> None:
        wish = settled.wish
        curve = strength_curve(self.visit, settled.prepared, wish.method)
        if curve.is_empty():
            command = calibrate_command(self.visit.atlas.store.path, wish, settled.prepared)
            ui.label(
                "How strength, perplexity and distance go together has not been measured for this topic with this SAE, method and "
                "choice of neurons" + (", in a chat" if wish.chat else "") + ". This measures it, and picks a strength:"
            ).classes("soft small").props('data-testid="no-curve"')
            code_block(command, what="Command")
            return
        with ui.element("div").classes("panel w-full"):
            ui.html("<h2>What strength costs and brings</h2>", sanitize=False)
            ui.plotly(curve_figure(curve, wish.strength, settled.picked)).classes("w-full").props('data-testid="curve"')

    async def generate(self) -> None:
        """Fill the three columns."""
        wish = self.form.wish()
        ui.navigate.history.replace(wish.link())
        if not wish.prompt.strip():
            ui.notify("Give a prompt first: what should the model go on with?")
            return
        going = self.going = Comparison(state="preparing ...")
        self._enable(running=True)
        for figures, text in self.columns.values():
            figures.text, text.content = "", ""
        try:
            settled = self.settled if self.settled is not None and self._is_same(wish) else None
            settled = settled or await attempt(settle, self.visit, wish, going)
            if settled is not None:
                settled = replace(settled, wish=replace(settled.wish, prompt=wish.prompt))
                self.settled, self.wanted = settled, wish
                self.form.show_settled(settled)
                await attempt(compare_texts, self.visit, settled, going)
                self._show_below(settled)
        finally:
            going.state = ""
            self.look()
            self._enable(running=False)

    def _is_same(self, wish: Wish) -> bool:
        """Whether what is settled is this wish but for the prompt."""
        return wish == replace(self.wanted, prompt=wish.prompt)

    def _enable(self, *, running: bool) -> None:
        self.go.set_enabled(not running)
        self.stop.set_enabled(running)

    def look(self) -> None:
        """Show the texts as far as they are."""
        going = self.going
        before = self.visit.turns.before(going)
        waiting = f"waiting: {before} before you" if before else going.state
        self.state.text = waiting if not going.stopped.is_set() or not going.state else "stopping ..."
        wish = self.settled.wish if self.settled is not None else self.form.wish()
        scored = wish.is_scored
        tints = tint_range(going.tokens.values()) if scored else None
        if tints is not None:
            self.legend.text = LEGEND.format(*tints)
        for name, (figures, text) in self.columns.items():
            tokens = going.tokens.get(name)
            if tokens is None:
                continue
            made = str(token_html(tokens, "" if wish.chat else wish.prompt, tints=tints))
            if text.content != made:
                text.content = made
            figures.text = self._figures(name, wish, scored=scored)

    def _figures(self, name: str, wish: Wish, *, scored: bool) -> str:
        going, found = self.going, []
        done = going.done.get(name)
        if name != "unsteered" and wish.strength is not None:
            found.append(f"{wish.method}, strength {wish.strength:g}")
        if done is not None and scored and done.generation.contamination is not None:
            found.append(f"contamination {done.generation.contamination:.3f}")
        own, plain = going.perplexity.get(name), going.perplexity.get("unsteered")
        if own and plain and name != "unsteered":
            found.append(f"{own / plain:.2f} times the perplexity")
        elif own:
            found.append(f"perplexity {own:.1f}")
        if done is not None and done.stopped:
            found.append("stopped")
        return ", ".join(found)
