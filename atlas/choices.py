"""Two-choice evaluation of contrastive vectors, and what they cost (method: section 5, evaluation 1, 2, 4 and 6).

Vectors are made from one part of a behaviour's pairs and tried on the other: does the model prefer the completion that
shows the behaviour more when it is steered, and how much worse does it predict unrelated texts?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from atlas.contrast import TAU, check_settings, contrast
from atlas.controls import CONTROLS
from atlas.errors import AtlasError, UnknownName
from atlas.evaluate import MethodSetting, Run, store_runs
from atlas.intervals import mean_interval
from atlas.likelihood import log_probabilities
from atlas.methods import METHODS, Options, settle_options
from atlas.pairs import PairSet, split_pairs
from atlas.progress import Progress, silent
from atlas.sides import Sides, tokenize_pairs
from atlas.steerer import Steerer
from atlas.steering import Layer, Steering
from atlas.vectors import current_vectors
from atlas.vocabulary import bos_token_id

if TYPE_CHECKING:
    from atlas.api import Atlas

PREFIX = "The answer is"  # put before the answer in the second round
STRENGTHS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
USERS = tuple(name for name, method in METHODS.items() if method.vector)
ABLATIONS = {
    "positive part": "only the neurons of the positive side",
    "negative part": "only the neurons of the negative side",
    "error dropped": "x' = decode(a') instead of x + s (a' - a) D",
}
RANDOM = "random"  # control: the entries at random neurons of like support and decoder norm, or a random direction


@dataclass(frozen=True)
class ChoiceConfig:
    """How vectors are made and tried.

    Attributes:
        strengths: the λ to try.
        tau: see contrast.
        position: see contrast.
        held_out: share of the pairs that is tried, the vectors being made from the rest (see split_pairs); 1 tries a
            vector that is there already on all of them.
        sigma: see Options, for method sas.
        topic: whose scores method filtered weighs neurons by; None for none.
        ablations: whether to try ABLATIONS of method sas too.
        seed: of the random control.
    """

    strengths: Sequence[float] = STRENGTHS
    tau: float = TAU
    position: str = "last"
    held_out: float = 0.5
    sigma: str = "own"
    topic: str | None = None
    ablations: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self.tau, self.position)
        if not 0 < self.held_out <= 1:
            raise AtlasError(f"held_out {self.held_out} is out of range: give a share above 0 and at most 1")


def evaluate_choices(
    atlas: Atlas,
    name: str,
    pairs: PairSet,
    texts: Sequence[str],
    *,
    methods: Sequence[str] = ("sas", "dense"),
    config: ChoiceConfig = ChoiceConfig(),
    sae_ids: Sequence[str | int] | None = None,
    steerer: Steerer | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Try a behaviour's vectors on held-out pairs at several strengths, each beside its random control, and store it.

    The vectors made from the other pairs are kept under the name NAME/choices.

    Args:
        atlas: an open atlas.
        name: the behaviour.
        pairs: its contrast pairs.
        texts: unrelated texts, whose perplexity says what the steering costs.
        methods: keys of METHODS that steer by a vector.
        config: how.
        sae_ids: which SAEs at once; None for the first.
        steerer: the loaded model and SAEs.
        progress: called with (stage, done, total).

    Returns:
        A row per method, strength and figure: method, strength, name, value, low, high (95 %, paired by pair or text).
        Figures: probability (of the matching completion against the other), shift (steered minus unsteered), both also
        "after 'The answer is'"; perplexity (of the texts), perplexity ratio (steered over unsteered).

    Raises:
        AtlasError: a method steers by no vector, or there are too few pairs.
    """
    for method in methods:
        if method not in USERS:
            raise UnknownName("method that steers by a vector", method, USERS)
    steerer = steerer or Steerer(atlas.store)
    made, tried = split_pairs(pairs, config.held_out)
    if tried is None or (made is None and config.held_out < 1):
        raise AtlasError(f"{len(pairs)} pairs are too few to hold out {config.held_out:g} of them: give more")
    vector = name if made is None else f"{name}/choices"
    if made is not None:
        contrast(
            atlas, vector, made, tau=config.tau, position=config.position, sae_ids=sae_ids, replace=True,
            steerer=steerer, progress=progress,
        )  # fmt: skip
    else:
        _require_other_pairs(atlas, vector, tried)
    trial = Trial(atlas, vector, tried, texts, config, sae_ids=sae_ids, steerer=steerer)
    settings = [setting for method in methods for setting in trial.settings(method)]
    runs = [trial.unsteered]
    for done, setting in enumerate(settings):
        progress("trying choices", done, len(settings))
        runs.append(trial.run(setting))
    progress("trying choices", len(settings), len(settings))
    shared = {**asdict(config), "vector": vector, "pairs": len(trial.sides[""]), "sae_ids": trial.sae_ids}
    figures = [replace(run, values={}) for run in runs]  # of the whole run; there is no text that they belong to
    store_runs(atlas.store, name, figures, trial.scoring_ids, shared)
    return choice_table(runs)


class Trial:
    """Held-out pairs and unrelated texts, the vectors to steer by, and what the unsteered model says of them.

    Attributes:
        sides: "" -> the pairs as token ids; PREFIX -> the same with PREFIX before the answer.
        unsteered: the model as it is.
    """

    def __init__(
        self,
        atlas: Atlas,
        vector: str,
        pairs: PairSet,
        texts: Sequence[str],
        config: ChoiceConfig,
        *,
        sae_ids: Sequence[str | int] | None = None,
        steerer: Steerer | None = None,
    ) -> None:
        steerer = steerer or Steerer(atlas.store)
        keys = None if sae_ids is None else [atlas.sae_key(one) for one in sae_ids]
        self.config = config
        self.layers, self.scoring_ids, rows = steerer.layers(config.topic, keys, vectors=[vector])
        self.model, self.tokenizer = steerer.model
        self.sae_ids = [row["sae_id"] for row in rows]
        with atlas.store.read() as session:
            self._columns = [session.ask("matching_columns", sae_key=row["sae_key"]) for row in rows]
            made = current_vectors(session, [vector]).filter(pl.col("kind") == "sas")
            self._kept = [
                session.ask(
                    "make_sas_vector",
                    behaviour=vector,
                    **made.filter(pl.col("sae_key") == row["sae_key"])
                    .select("sae_key", "position", "tau", "pairs")
                    .to_dicts()[0],
                )
                for row in rows
            ]
        bos, context = bool(rows[0]["prepend_bos"]), min(row["context_size"] for row in rows)
        prefixed = replace(pairs, prompts=tuple(f"{prompt}\n\n{PREFIX}".lstrip() for prompt in pairs.prompts))
        self.sides = {
            key: tokenize_pairs(self.tokenizer, given, prepend_bos=bos, context=context)
            for key, given in (("", pairs), (PREFIX, prefixed))
        }
        opening = [bos_token_id(self.tokenizer)] * bos
        ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        self.texts = [(opening + row)[:context] for row in ids]
        self.unsteered = Run(MethodSetting("original", settle_options("original", Options())))
        self._measure(self.unsteered)

    def settings(self, method: str) -> list[MethodSetting]:
        """A method, its random control and, where asked for, its ablations, at every strength."""
        variants: list[str | None] = [None, RANDOM]
        if method == "sas" and self.config.ablations:
            variants += [variant for variant in ABLATIONS if self._layers(MethodSetting(method, control=variant))]
        sigma = self.config.sigma if METHODS[method].sigmas else "own"
        return [
            MethodSetting(method, settle_options(method, Options(strength, sigma=sigma)), variant)
            for variant in variants
            for strength in self.config.strengths
        ]

    def run(self, setting: MethodSetting) -> Run:
        """Steer, and measure against the unsteered model."""
        run = Run(setting)
        steering = Steering(
            self.model,
            self._layers(setting),
            method=setting.method,
            options=setting.options,
            keep_error=setting.control != "error dropped",
            special_ids=self.tokenizer.all_special_ids,
        )
        with steering:
            self._measure(run)
        for figure, source, compare in (
            *((f"shift{_after(key)}", f"probability{_after(key)}", np.subtract) for key in self.sides),
            ("perplexity ratio", "perplexity", np.divide),
        ):
            plain, own = self.unsteered.values[source], run.values[source]
            interval = mean_interval(compare(np.array(own, float), np.array(plain, float)))
            assert interval is not None
            run.figures[figure] = interval
        return run

    def _measure(self, run: Run) -> None:
        for key, sides in self.sides.items():
            run.values[f"probability{_after(key)}"] = list(choose(self.model, self.tokenizer, sides))
        run.values["perplexity"] = list(perplexities(self.model, self.tokenizer, self.texts))
        for name, values in run.values.items():
            interval = mean_interval([value for value in values if value is not None])
            assert interval is not None
            run.figures[name] = interval

    def _layers(self, setting: MethodSetting) -> list[Layer]:
        """The layers with a control's or an ablation's vector; empty where an ablation leaves nothing of it."""
        if setting.control in (None, "error dropped"):
            return self.layers
        layers = []
        for layer, columns, kept in zip(self.layers, self._columns, self._kept, strict=True):
            target = layer.target
            if setting.control == RANDOM:
                vectors = self._random(target.sas, target.dense, target.difference, columns)
            else:
                side = str(setting.control).split()[0]
                rows = kept.filter((pl.col("side") == side) & ~pl.col("shared"))
                part = torch.zeros_like(target.scores)
                part[rows["index"].to_torch().long()] = rows["value"].to_torch().to(part)
                if not part.any():
                    return []
                vectors = {"sas": part}
            layers.append(replace(layer, target=replace(target, **vectors)))
        return layers

    def _random(self, sas: Any, dense: Any, difference: Any, columns: pl.DataFrame) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng(self.config.seed)
        support, norm = columns["support"].to_numpy(), columns["decoder_norm"].to_numpy()
        source = torch.from_numpy(CONTROLS[RANDOM].permute(support, norm, generator)).to(sas.device)
        direction = torch.from_numpy(generator.standard_normal(len(dense))).to(dense)
        return {
            "sas": sas[source],
            "dense": direction * dense.norm() / direction.norm(),
            "difference": difference[source],
        }


def choose(model: Any, tokenizer: Any, sides: Sequence[Sides]) -> np.ndarray:
    """Probability of the positive completion of each pair against the negative one, under the model as it is now [pair].

    exp(m⁺) / (exp(m⁺) + exp(m⁻)), m the mean log-probability of a side's tokens from the first to the last in which the
    two differ. For lettered answers that is the one token of the letter; longer completions are so normalised by length.
    """
    rows, spans = [], []
    for pair in sides:
        begin, end = _differing(pair)
        for ids in (pair.positive, pair.negative):
            rows.append(ids)
            spans.append((max(begin, 1), len(ids) - end))
            if spans[-1][0] >= spans[-1][1]:
                raise AtlasError(f"pair {pair.pair + 1} has one token and nothing before it: give it a prompt")
    means = np.array([values.mean() for values in log_probabilities(model, tokenizer, rows, spans)])
    return 1 / (1 + np.exp(means[1::2] - means[0::2]))


def perplexities(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """exp of the mean negative log-likelihood of each text's tokens, under the model as it is now [text]."""
    spans = [(1, len(row)) for row in rows]
    return np.array([np.exp(-values.mean()) for values in log_probabilities(model, tokenizer, rows, spans)])


def choice_table(runs: Sequence[Run]) -> pl.DataFrame:
    """A row per run and figure: method, strength, name, value, low, high; the unsteered model has no strength."""
    rows = [
        (run.setting.name, run.setting.options.strength, name, *figure)
        for run in runs
        for name, figure in run.figures.items()
    ]
    numbers = dict.fromkeys(("value", "low", "high"), pl.Float64)
    schema = {"method": pl.String, "strength": pl.Float64, "name": pl.String, **numbers}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _differing(pair: Sides) -> tuple[int, int]:
    """Tokens that both sides share at the beginning and at the end; at least one of each side is left."""
    shorter = min(len(pair.positive), len(pair.negative))
    begin = min(pair.first, shorter - 1)
    backwards = zip(reversed(pair.positive[begin + 1 :]), reversed(pair.negative[begin + 1 :]), strict=False)
    end = next((i for i, (a, b) in enumerate(backwards) if a != b), shorter - begin - 1)
    return begin, end


def _after(prefix: str) -> str:
    return f" after '{prefix}'" if prefix else ""


def _require_other_pairs(atlas: Atlas, vector: str, tried: PairSet) -> None:
    """Raise AtlasError when a vector was made from some of the pairs it is to be tried on."""
    with atlas.store.read() as session:
        current_vectors(session, [vector])
        own = set(session.ask("behaviour_pairs", behaviour=vector).rows())
    shared = sum(row in own for row in tried.rows())
    if shared:
        raise AtlasError(f"vector {vector!r} was made from {shared} of these pairs: give others, or lower --held-out")
