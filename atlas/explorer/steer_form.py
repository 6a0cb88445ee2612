"""The form of the page that steers: what, how, how strongly, and how text is sampled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from atlas.explorer.comparison import Settled
from atlas.explorer.visit import Visit
from atlas.explorer.wish import PLAIN, Wish
from atlas.steering.methods import METHODS
from atlas.steering.selection import RULES
from atlas.steering.settings import POSITIONS

FURTHEST = 4  # times the settled strength that the slider goes
BOX = "dense outlined options-dense"


class SteerForm:
    """The fields of a wish.

    Args:
        visit: the atlas.
        wish: what stands in them first.
        changed: called when one that changes what steers was set.
    """

    def __init__(self, visit: Visit, wish: Wish, changed: Callable[[], Awaitable[None]]) -> None:
        self._changed, self._quiet = changed, False
        self._raw: float | None = None
        self._reach = 1.0  # of the slider
        self.fields: dict[str, Any] = {}
        self._prompt(wish)
        self._source(visit, wish)
        self._strength(wish)
        self._sampling(wish)

    def _prompt(self, wish: Wish) -> None:
        box = ui.textarea("Prompt", value=wish.prompt, placeholder="I want to tell you about").classes("w-full")
        self.fields["prompt"] = box.props('autogrow outlined dense data-testid="prompt"')
        with ui.row().classes("controls"):
            self.fields["chat"] = ui.switch("chat", value=wish.chat, on_change=self._set).tooltip(
                "The prompt is what a user says to a chat model, in its template"
            )
            system = ui.input("system message", value=wish.system).props(BOX).classes("w-72")
            self.fields["system"] = system.bind_visibility_from(self.fields["chat"], "value")

    def _source(self, visit: Visit, wish: Wish) -> None:
        topics = dict.fromkeys(visit.topics())
        vectors = visit.ask("behaviours")["name"].to_list()
        saes = {None: "first scored", **{row["sae_key"]: row["sae_id"] for row in visit.saes()}}
        methods = {
            name: name for name, method in METHODS.items() if name != PLAIN and (vectors or method.vector is None)
        }
        with ui.row().classes("controls"):
            self._choice("topic", ["", *topics], wish.topic if wish.topic in topics else "", "topic", "w-44")
            box = ui.input("or neurons", value=wish.neurons, placeholder="0:476,3521").props(
                f"{BOX} debounce=600 clearable"
            )
            box.props('data-testid="neurons"').classes("w-48").on_value_change(self._set)
            box.tooltip("Key of the SAE, a colon, and neurons: 0:476,3521. They steer in a topic's stead")
            self.fields["neurons"] = box
            lists = visit.ask("note_lists")["list"].to_list()
            if lists:
                named = wish.listed if wish.listed in lists else ""
                self._choice("listed", ["", *lists], named, "or a list", "w-40")
                self.fields["listed"].tooltip("Neurons that were kept in a list: they steer in a topic's stead")
            if vectors:
                self._choice("vector", ["", *vectors], wish.vector if wish.vector in vectors else "", "vector", "w-40")
            self._choice("sae", saes, wish.sae if wish.sae in saes else None, "SAE", "w-64")
            self._choice("method", methods, wish.method if wish.method in methods else Wish.method, "method", "w-36")
            rules = {name: name for name in RULES}
            self._choice("select", rules, wish.select if wish.select in rules else Wish.select, "which neurons", "w-40")
            self.fields["select"].tooltip(" / ".join(f"{name}: {rule.help}" for name, rule in RULES.items()))
            self._number(
                "count", "how many", wish.count, "w-28", "How many of the best neurons; empty for the usual number"
            )
            positions = {name: f"{name} tokens" for name in POSITIONS}
            self._choice(
                "positions", positions, wish.positions if wish.positions in positions else "all", "where", "w-40"
            )

    def _choice(self, name: str, options: Any, value: Any, label: str, width: str) -> None:
        box = ui.select(options, value=value, label=label, on_change=self._set)
        self.fields[name] = box.props(f'{BOX} data-testid="{name}"').classes(width)

    def _number(self, name: str, label: str, value: float | None, width: str, hint: str = "") -> None:
        box = ui.number(label, value=value, on_change=self._set).props(f'{BOX} debounce=500 data-testid="{name}"')
        self.fields[name] = box.classes(width)
        if hint:
            box.tooltip(hint)

    def _strength(self, wish: Wish) -> None:
        with ui.row().classes("controls slider-row items-center w-full no-wrap"):
            self._number("strength", "strength", wish.strength, "w-32",
                         "In the method's unit: for add and clamp times the neuron's largest activation over the reference "
                         "prompts. Empty for the one that was picked or fitted")  # fmt: skip
            self.fields["strength"].props("clearable step=any")
            self.slider = ui.slider(min=-1, max=1, step=0.01, value=wish.strength or 0).classes("grow slider")
            self.slider.props('label data-testid="slider"').on(
                "change", lambda event: self._take(event.args), args=[None]
            )
            self.raw = ui.number("as activation", on_change=self._from_raw).props(
                f'{BOX} debounce=500 data-testid="raw"'
            )
            self.raw.classes("w-32").tooltip(
                "The same as a mean activation of the neurons that steer, in the SAE's own unit"
            )
            self.raw.set_enabled(False)
        self.said = ui.label().classes("soft small").props('data-testid="settled"')

    def _sampling(self, wish: Wish) -> None:
        with ui.row().classes("controls"):
            self._number("tokens", "tokens", wish.tokens, "w-24")
            self._number(
                "temperature", "temperature", wish.temperature, "w-28", "0 takes the likeliest token each time"
            )
            self._number("top_k", "top k", wish.top_k, "w-24", "Sample among so many; 0 for all")
            self._number("top_p", "top p", wish.top_p, "w-24", "Sample among the likeliest with this total probability")
            self._number("seed", "seed", wish.seed, "w-24", "The same in all three columns")

    async def _set(self) -> None:
        if not self._quiet:
            await self._changed()

    def _take(self, value: Any) -> None:
        self.fields["strength"].value = float(value)

    def _from_raw(self) -> None:
        if not self._quiet and self._raw and self.raw.value is not None:
            self.fields["strength"].value = float(f"{self.raw.value / self._raw:.6g}")

    def show_settled(self, settled: Settled) -> None:
        """Show the strength and the number of neurons that were found, in both units."""
        wish = settled.wish
        self._quiet, self._raw = True, settled.raw
        try:
            if wish.strength is not None:
                given = self.fields["strength"].value
                if given is None or abs(wish.strength) > self._reach:
                    self._reach = max(abs(wish.strength) * FURTHEST, 1e-3)
                self.slider.props.update({"min": -self._reach / 2, "max": self._reach, "step": self._reach / 400})
                self.slider.value = wish.strength
                self.fields["strength"].props(f'placeholder="{wish.strength:g}" stack-label')
                self.raw.value = None if settled.raw is None else float(f"{wish.strength * settled.raw:.4g}")
            self.raw.set_enabled(settled.raw is not None)
            raw = "" if settled.raw is None else f"; their mean largest activation is {settled.raw:.4g}"
            whose = (
                "neurons of your choice"
                if wish.chosen
                else f"neurons of the list {wish.listed}"
                if wish.listed
                else "neurons"
            )
            strength = "" if wish.strength is None else f"strength {wish.strength:g}, "
            self.said.text = f"{strength}{settled.neurons:,} {whose} steer{raw}"
        finally:
            self._quiet = False

    def wish(self) -> Wish:
        """What stands in the fields."""
        values = {name: field.value for name, field in self.fields.items()}
        usual = vars(Wish())
        whole = ("tokens", "top_k", "seed", "count")
        for name, value in values.items():
            if name in ("strength", "count") and value is None:
                continue
            values[name] = usual[name] if value is None and name != "sae" else value
            if name in whole:
                values[name] = int(values[name])
        return Wish(**values)
