"""What a visitor wants to see steered, and the same as a command, as Python and as SQL."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from atlas.errors import AtlasError
from atlas.explorer.address import link, read_selection
from atlas.explorer.spelled import literal
from atlas.steering.generation import Sampling
from atlas.steering.methods import DEFAULT_METHOD, METHODS
from atlas.steering.selection import REMARKABLE
from atlas.steering.settings import Options, SteeringSettings

MOST_TOKENS = 500
PLAIN = "original"
ORDERS = {  # selection rule -> what chooses and what orders the neurons in SQL, over the columns of neuron_signals
    "score": ("score is not null", "score desc"),
    "z": ("score is not null", "z"),
    "remarkable": (f"z <= {REMARKABLE}", "score desc"),
    "writes": (
        f"z <= {REMARKABLE} and output >= (select median(output) from neuron_signals where {{where}})",
        "z",
    ),
    "combined": (f"z <= {REMARKABLE}", "auroc desc"),
    "centroid": ("score is not null", "centroid_z"),
    "centroid-combined": (f"centroid_z <= {REMARKABLE}", "auroc desc"),
    "centroid-joint": (
        "score is not null",
        "(auroc - avg(auroc) over ()) / stddev(auroc) over () - "
        "(centroid_z - avg(centroid_z) over ()) / stddev(centroid_z) over () desc",
    ),
}
KINDS = {"sae": int, "strength": float, "count": int}  # of what may be None
PYTHON = """import atlas
from atlas.models.recorded import RecordedModels
from atlas.steering.generation import Sampling
from atlas.steering.prepare import prepare_steering
from atlas.steering.settings import Options, SteeringSettings
from atlas.steering.steer import steer_prompts

a = atlas.open({path!r})
prepared = prepare_steering(
    RecordedModels(a.store{places}),
    {topic!r},
    {{"original": Options(), {method!r}: {options}}},
    settings={settings},
    vectors={vectors!r},
{whose})
for text in steer_prompts(prepared, [{prompt!r}], sampling={sampling}, save=False):
    print(text.method, text.text)
"""


@dataclass(frozen=True)
class Wish:
    """Everything that a steer is made of; a link holds all of it.

    Attributes:
        prompt: what the model is given.
        topic: a scored topic; empty where neurons steer.
        neurons: neurons that steer in its stead, as a selection.
        listed: a list of notes whose neurons do.
        vector: a behaviour whose contrastive vector steers, for the methods that want one.
        sae: key of the SAE; None for the first that the topic is scored for.
        method: key of METHODS.
        strength: None for the picked or fitted one.
        count: how many of the best neurons; None for the method's default.
        select: key of RULES.
        positions: key of POSITIONS.
        chat: whether the prompt is a user's message.
        system: the system message before it.
        tokens, temperature, top_k, top_p, seed: as Sampling has them.
    """

    prompt: str = ""
    topic: str = ""
    neurons: str = ""
    listed: str = ""
    vector: str = ""
    sae: int | None = None
    method: str = DEFAULT_METHOD
    strength: float | None = None
    count: int | None = None
    select: str = SteeringSettings.select
    positions: str = "all"
    chat: bool = False
    system: str = ""
    tokens: int = 40
    temperature: float = 1.0
    top_k: int = 5
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def read(cls, given: Mapping[str, str]) -> Wish:
        """What `link` wrote; what it could not have written is as usual."""
        values: dict[str, Any] = {}
        for name, usual in vars(cls()).items():
            kind = KINDS.get(name, type(usual))
            try:
                values[name] = kind(given[name]) if kind is not bool else given[name] in ("1", "true", "True")
            except (KeyError, ValueError):
                values[name] = usual
        return cls(**{**values, "method": values["method"] if values["method"] in METHODS else DEFAULT_METHOD})

    def link(self) -> str:
        """The page that restores it; what is as usual is left out."""
        usual = vars(Wish())
        return link("/steer", **{name: value for name, value in vars(self).items() if value != usual[name]})

    @property
    def chosen(self) -> dict[int, list[int]] | None:
        """The neurons that steer by their numbers; None where a list or a topic does."""
        return read_selection(self.neurons) or None

    @property
    def source(self) -> dict[int, list[int]] | str | None:
        """What steers in a topic's stead: neurons, or a list by its name; None where a topic does."""
        return self.chosen or self.listed or None

    @property
    def own_topic(self) -> str | None:
        """The topic that steers; None where something else does."""
        return None if self.source else self.topic or None

    @property
    def is_scored(self) -> bool:
        """Whether neurons have scores, by which contamination is measured."""
        return bool(self.topic or self.source)

    @property
    def vectors(self) -> list[str]:
        """The behaviours that steer: none where the method steers by none."""
        return [self.vector] if self.vector and METHODS[self.method].vector else []

    def sampling(self) -> Sampling:
        """How tokens are drawn; AtlasError for more than the page generates at once."""
        if self.tokens > MOST_TOKENS:
            raise AtlasError(
                f"{self.tokens} tokens are more than this page generates at once: give at most {MOST_TOKENS}"
            )
        return Sampling(self.tokens, self.temperature, self.top_k, self.top_p, self.seed)

    def settings(self) -> SteeringSettings:
        """What all methods share."""
        system = self.system or None
        return SteeringSettings(
            select=self.select, positions=self.positions, chat=self.chat, system=system if self.chat else None
        )

    def options(self) -> Options:
        """The method's own settings."""
        method = METHODS[self.method]
        return Options(
            None if method.strength is None else self.strength, None if method.neurons is None else self.count
        )

    def settled(self, options: Options) -> Wish:
        """The same with the strength and the number of neurons that were found for it."""
        count = None if self.source else options.neurons
        return replace(self, strength=options.strength, count=count)

    def command(self, path: Any) -> str:
        """`atlas steer` with the same texts."""
        words = ["atlas", "steer", str(path), self.own_topic or "-", self.prompt, "--method", PLAIN]
        words += ["--method", self.method] if self.method != PLAIN else []
        for key, neurons in (self.chosen or {}).items():
            words += ["--sae-id", str(key), *(word for neuron in neurons for word in ("--neuron", str(neuron)))]
        words += ["--list", self.listed] if self.listed and not self.chosen else []
        words += ["--vector", *self.vectors] if self.vectors else []
        words += ["--sae-id", str(self.sae)] if self.sae is not None and not self.chosen else []
        usual = Wish()
        for name, option in (
            ("strength", "--strength"), ("count", "--neurons"), ("select", "--select"), ("positions", "--positions"),
            ("tokens", "--max-new-tokens"), ("temperature", "--temperature"), ("top_k", "--top-k"), ("top_p", "--top-p"),
            ("seed", "--seed"),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value != getattr(usual, name) and not (name == "select" and self.source):
                words += [option, f"{value:g}" if name == "strength" else str(value)]
        words += ["--chat"] if self.chat else []
        words += ["--system", self.system] if self.chat and self.system else []
        return shlex.join(words)

    def python(self, path: Any, *, model: str | None = None, release: str | None = None) -> str:
        """A program with the same texts."""
        named = {"model": model, "release": release}
        places = "".join(f", {name}={value!r}" for name, value in named.items() if value)
        whose = [] if self.sae is None or self.chosen else [f"sae_ids={[self.sae]!r}"]
        whose += [f"chosen={self.source!r}"] if self.source else []
        lines = "".join(f"    {one},\n" for one in whose)
        return PYTHON.format(
            path=str(path), places=places, topic=self.own_topic, method=self.method,
            vectors=self.vectors, options=self.options(), settings=self.settings(), whose=lines, prompt=self.prompt,
            sampling=self.sampling(),
        )  # fmt: skip

    def sql(self, sae_key: int) -> str:
        """A query of the neurons that steer, best first; sae_key is that of a topic's SAE."""
        if self.chosen:
            pairs = [f"({key}, {neuron})" for key, neurons in self.chosen.items() for neuron in neurons]
            return (
                "select sae_key, neuron, max_activation, density, top_tokens\nfrom neurons\n"
                f"where (sae_key, neuron) in ({', '.join(pairs)})"
            )
        if self.listed:
            sae = "" if self.sae is None else f" and o.sae_key = {self.sae}"
            return (
                "select o.sae_key, o.neuron, o.text, n.max_activation, n.density, n.top_tokens\nfrom notes as o\n"
                "join neurons as n on n.sae_key = o.sae_key and n.neuron = o.neuron\n"
                f"where o.list = {literal(self.listed)}{sae}\norder by o.sae_key, o.created_at, o.neuron"
            )
        if self.vectors and not self.topic:
            return (
                'select x."index" as neuron, x.value\nfrom vectors as v\njoin vector_entries as x on x.vector_id = v.vector_id\n'
                f"where v.name = {literal(self.vector)} and v.kind = 'sas' and v.is_current and v.sae_key = {sae_key}\n"
                "order by abs(x.value) desc"
            )
        where = f"topic = {literal(self.topic)} and sae_key = {sae_key}"
        choose, order = ORDERS[self.select]
        limit = f"\nlimit {self.count}" if self.count is not None else ""
        return (
            "select sae_key, neuron, score, z, auroc, output, max_activation, top_tokens\nfrom neuron_signals\n"
            f"where {where} and {choose.format(where=where)}\norder by {order}, neuron{limit}"
        )
