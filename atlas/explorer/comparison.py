"""Unsteered, steered and shuffled text side by side, from the same seed: one after the other, each as it grows."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from atlas.errors import AtlasError
from atlas.evaluation.controls import controlled_saes
from atlas.evaluation.metrics import text_perplexities
from atlas.explorer.visit import Visit
from atlas.explorer.wish import PLAIN, Wish
from atlas.steering.calibrations import picked_strength
from atlas.steering.methods import METHODS
from atlas.steering.prepare import PreparedSteering, prepare_steering
from atlas.steering.settings import Options
from atlas.steering.steer import store_steered
from atlas.steering.streaming import Streamed, Token, stream

COLUMNS = {
    "unsteered": "the model as it is",
    "steered": "with the neurons turned up",
    "shuffled": "control: the same scores, shuffled over all neurons. What it does too is not the topic's doing",
}


@dataclass(frozen=True)
class Settled:
    """What a wish comes to.

    Attributes:
        prepared: what steers.
        wish: the wish with its strength and number of neurons.
        raw: the activation that strength 1 stands for, as a mean over the neurons that steer; None where it stands for none.
        neurons: how many steer.
        picked: the strength that a calibration picked; None where there was none.
    """

    prepared: PreparedSteering
    wish: Wish
    raw: float | None
    neurons: int
    picked: float | None = None


@dataclass
class Comparison:
    """The columns as they grow. Written by the thread that generates, read by the page.

    Attributes:
        tokens: per column what there is.
        done: per column the finished text.
        perplexity: per column that of the finished text under the unsteered model.
        state: what is being done, in words.
        stopped: set to end it.
    """

    tokens: dict[str, Sequence[Token]] = field(default_factory=dict)
    done: dict[str, Streamed] = field(default_factory=dict)
    perplexity: dict[str, float | None] = field(default_factory=dict)
    state: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)

    def grow(self, name: str, tokens: Sequence[Token]) -> None:
        """Take in the tokens of a column so far."""
        self.tokens[name] = tuple(tokens)


def settle(visit: Visit, wish: Wish, going: Comparison) -> Settled | None:
    """Load what a wish needs and find its strength, when it is its turn; None when it was stopped before.

    Raises:
        AtlasError: it cannot be done, and why.
    """
    if wish.method not in METHODS:
        raise AtlasError(f"there is no steering method {wish.method!r}: choose one of {', '.join(METHODS)}")
    if not wish.is_scored and not wish.vectors:
        raise AtlasError("nothing steers yet: choose a topic or a list, or neurons by their numbers")

    def progress(stage: str, _done: int, _total: int) -> None:
        going.state = f"{stage} ..."

    with visit.turns.wait(going, going.stopped) as mine:
        if not mine:
            return None
        prepared = prepare_steering(
            visit.models,
            wish.own_topic,
            {PLAIN: Options(), wish.method: wish.options()},
            settings=wish.settings(),
            vectors=wish.vectors,
            sae_ids=None if wish.sae is None or wish.chosen else [wish.sae],
            chosen=wish.source,
            progress=progress,
        )
    options = prepared.options[wish.method]
    with visit.atlas.store.read() as session:
        picked = picked_strength(session, prepared.calibration_key(session, wish.method, options))
    targets = [sae.target for sae in prepared.saes]
    count = options.neurons
    used = [target.max_activation[target.first(count)] for target in targets]
    raw = float(sum(float(one.sum()) for one in used) / max(1, sum(len(one) for one in used)))
    own = METHODS[wish.method]
    return Settled(
        prepared,
        wish.settled(options),
        raw if own.neurons is not None and wish.method in ("add", "clamp") else None,
        sum(len(one) for one in used),
        picked,
    )


def compare_texts(visit: Visit, settled: Settled, going: Comparison) -> None:
    """Fill the columns, when it is its turn, and keep the texts that are no control in the atlas, unless it is read-only.

    Raises:
        AtlasError: the prompt does not fit, or the texts cannot be stored; those that are there stay on the page.
    """
    wish, prepared = settled.wish, settled.prepared
    sampling = wish.sampling()
    with visit.turns.wait(going, going.stopped) as mine:
        if not mine:
            return
        for name in COLUMNS:
            if name != "unsteered" and wish.method == PLAIN:
                continue
            going.state = f"generating {name} text ..."
            source = _shuffled(visit, settled) if name == "shuffled" else prepared
            going.done[name] = stream(
                prepared.model,
                wish.prompt,
                source.steering(PLAIN if name == "unsteered" else wish.method),
                sampling=sampling,
                show=functools.partial(going.grow, name),
                stopped=going.stopped.is_set,
            )
            if going.stopped.is_set():
                return
            text = going.done[name].generation.text
            going.perplexity[name] = text_perplexities(prepared.model, [wish.prompt], [text])[0]
    if not visit.read_only:
        going.state = "storing the texts ..."
        kept = [going.done[name].generation for name in ("unsteered", "steered") if name in going.done]
        store_steered(prepared, kept, sampling)


def _shuffled(visit: Visit, settled: Settled) -> PreparedSteering:
    """The same steering with its scores shuffled over the neurons."""
    prepared, wish = settled.prepared, settled.wish
    columns: list[pl.DataFrame] = [visit.ask("matching_columns", sae_key=key) for key in prepared.sae_keys]
    return replace(prepared, saes=controlled_saes(prepared.saes, columns, wish.method, "shuffled", wish.seed))
