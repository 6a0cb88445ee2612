"""Measure what a vector does to the answers of held-out pairs, to unrelated pairs and texts, and to generated text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from atlas.contrast.make_vectors import TAU, check_settings
from atlas.contrast.pair_tokens import Sides, tokenize_pairs, wrap_pairs
from atlas.errors import AtlasError
from atlas.evaluation.figures import Figure
from atlas.evaluation.intervals import mean_interval
from atlas.evaluation.metrics import MetricInputs, make_metric_inputs, measure
from atlas.evaluation.runs import MethodSetting, Run, compare
from atlas.evaluation.vector_variants import ABLATIONS, Vectors
from atlas.models.chat import check_chat
from atlas.models.encoders import Encoder
from atlas.models.likelihood import log_probabilities, perplexities
from atlas.models.loaded import LoadedModel
from atlas.models.tokens import special_ids
from atlas.steering.generation import Sampling, generate_in_turn
from atlas.steering.intervention import Steering
from atlas.steering.methods import SteeredSae, settle_options
from atlas.steering.settings import Options, without_chat
from atlas.texts.pairs import PairSet

PREFIX = "The answer is"  # put before the answer in the second round
OWN, UNRELATED = Figure("probability"), Figure("probability", unrelated=True)  # of matching completions
PRICE = Figure("perplexity", unrelated=True)
STRENGTHS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class ChoiceSet:
    """What vectors are made from and tried on.

    Attributes:
        pairs: the behaviour's contrast pairs.
        texts: unrelated texts, whose perplexity is the price.
        unrelated: pairs of other behaviours, which should be answered as before; None for none.
        prompts: openings to generate from; None for the prompts of the pairs that are tried.
    """

    pairs: PairSet
    texts: Sequence[str]
    unrelated: PairSet | None = None
    prompts: Sequence[str] | None = None


@dataclass(frozen=True)
class ChoiceConfig:
    """How vectors are made and tried.

    Attributes:
        strengths: the λ to try.
        taus: see contrast; each makes a sparse vector of its own.
        position: see contrast.
        held_out: share of the pairs that is tried, the vectors being made from the rest (see split_pairs); 1 tries a
            vector that is there already on all of them.
        sigma: see Options, for method sas.
        topic: whose scores method filtered weighs neurons by; None for none.
        ablations: whether to try ABLATIONS of method sas too.
        samples: texts to generate per prompt under every method and strength; 0 for none.
        sampling: of these texts; its seed is that of the random control too.
        chat: whether prompts are a user's messages, and completions the answers, in the model's chat template.
        system: the system message before them; None for what the template has by itself.
    """

    strengths: Sequence[float] = STRENGTHS
    taus: Sequence[float] = (TAU,)
    position: str = "last"
    held_out: float = 0.5
    sigma: str = "own"
    topic: str | None = None
    ablations: bool = False
    samples: int = 0
    sampling: Sampling = Sampling(max_new_tokens=64)
    chat: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        check_chat(self.chat, self.system)
        for tau in self.taus:
            check_settings(tau, self.position)
        if not 0 < self.held_out <= 1:
            raise AtlasError(f"held_out {self.held_out} is out of range: give a share above 0 and at most 1")
        if self.held_out == 1 and len(self.taus) > 1:
            raise AtlasError("a vector that is there already has its tau: lower --held-out to compare several")
        if self.samples < 0:
            raise AtlasError(f"samples {self.samples} is negative: give the number of texts per prompt, 0 for none")

    def as_read(self, tokenizer: Any, pairs: PairSet) -> PairSet:
        """Pairs as the model reads them: in its chat template, where it is used as a chat model."""
        return wrap_pairs(tokenizer, pairs, system=self.system) if self.chat else pairs

    def flat(self) -> dict[str, Any]:
        """As it is stored: one level of names."""
        values = asdict(self) if self.chat else without_chat(asdict(self))
        return {**values, **values.pop("sampling")}


@dataclass(frozen=True)
class Measurement:
    """Something that is measured item by item under the model as it is, steered or not.

    Attributes:
        items: the pairs or texts, tokenized.
        measure: (model, items) -> a value per item.
    """

    items: Sequence[Any]
    measure: Callable[[LoadedModel, Sequence[Any]], np.ndarray]


@dataclass(frozen=True)
class ChoiceTrial:
    """Held-out pairs, unrelated pairs and texts, and what the unsteered model says of them; see `prepare_choice_trial`.

    Attributes:
        model: the language model, its texts beginning as the SAEs want it.
        config: how vectors are tried.
        measurements: what is measured under every vector.
        prompts: openings to generate from; none where no text is asked for.
        metric_inputs: what the metrics of a text need; None where no text is asked for.
        plain: what the unsteered model gives.
        unsteered: its run.
    """

    model: LoadedModel
    config: ChoiceConfig
    measurements: Mapping[Figure, Measurement]
    prompts: list[str]
    metric_inputs: MetricInputs | None
    plain: Mapping[Figure, np.ndarray]
    unsteered: Run

    def run(self, vectors: Vectors, setting: MethodSetting) -> Run:
        """Steer, and measure against the unsteered model."""
        run = vectors.run(setting)
        run.parameters |= self.unsteered.parameters
        sets = vectors.sae_sets(setting, self.config.sampling.seed)
        keep_error = setting.ablation is None or ABLATIONS[setting.ablation].keep_error
        steerings = _steerings(self.model, setting, sets, keep_error=keep_error)
        own = _measure(self.model, self.measurements, steerings)
        _keep_all(run, own)
        for figure, plain in self.plain.items():
            if figure == PRICE:
                with np.errstate(invalid="ignore"):  # both infinite
                    _keep(run, replace(figure, metric="perplexity ratio"), own[figure] / plain)
            else:
                _keep(run, replace(figure, metric="shift"), own[figure] - plain)
        self.generate(run, steerings)
        return run

    def generate(self, run: Run, steerings: Sequence[Steering]) -> None:
        """Give a run its texts, their metrics and the differences from unsteered texts, where texts are asked for."""
        if self.metric_inputs is None:
            return
        config = self.config
        prompts = [prompt for prompt in self.prompts for _ in range(config.samples)]
        seeds = [config.sampling.seed + i for i in range(len(prompts))]
        texts = generate_in_turn(self.model, prompts, steerings, sampling=config.sampling, seeds=seeds)
        if config.topic is None:  # scores of 1 say nothing about purity
            texts = [replace(text, contamination=None) for text in texts]
        run.generations = [replace(text, method=run.setting.name) for text in texts]
        run.values = measure(self.metric_inputs, run.generations)
        compare([self.unsteered, run] if run is not self.unsteered else [run], self.prompts)


def prepare_choice_trial(
    model: LoadedModel,
    data: ChoiceSet,
    config: ChoiceConfig,
    *,
    context: int,
    saes: Sequence[SteeredSae],
    encoder: Encoder | None = None,
) -> ChoiceTrial:
    """Tokenize what is tried, and measure what the unsteered model says of it.

    Args:
        model: the language model, its texts beginning as the SAEs want it, in its chat template or not.
        data: what is tried; its pairs are all held out.
        config: how.
        context: the longest text, in tokens.
        saes: the SAEs whose code of the unsteered texts is counted.
        encoder: the sentence encoder; None where config.samples asks for no texts.

    Raises:
        AtlasError: texts are asked for, and no pair has a prompt that fits into the context.
    """
    measurements = _measurements(model, data, config, context)
    prompts, metric_inputs = [], None
    if encoder is not None:
        prompts = _openings(model, data, context - config.sampling.max_new_tokens)
        metric_inputs = make_metric_inputs(model, encoder, positive=data.pairs.positives, negative=data.pairs.negatives)
    unsteered = Run(MethodSetting("original", settle_options("original", Options())))
    unsteered.parameters = {"pairs": len(measurements[OWN].items)}
    plain = _measure(model, measurements, [nullcontext()])
    _keep_all(unsteered, plain)
    trial = ChoiceTrial(model, config, measurements, prompts, metric_inputs, plain, unsteered)
    trial.generate(unsteered, _steerings(model, unsteered.setting, [saes]))
    return trial


def _steerings(
    model: LoadedModel, setting: MethodSetting, sets: Sequence[Sequence[SteeredSae]], *, keep_error: bool = True
) -> list[Steering]:
    """A steering by each of some sets of SAEs."""
    return [
        Steering(
            model.transformer,
            saes,
            method=setting.method,
            options=setting.options,
            keep_error=keep_error,
            special_ids=special_ids(model.tokenizer),
        )
        for saes in sets
    ]


def _measurements(model: LoadedModel, data: ChoiceSet, config: ChoiceConfig, context: int) -> dict[Figure, Measurement]:
    """The held-out pairs, plain and after PREFIX, the unrelated pairs and the texts."""
    pairs = config.as_read(model.tokenizer, data.pairs)
    unrelated = None if data.unrelated is None else config.as_read(model.tokenizer, data.unrelated)
    apart = "" if config.chat else "\n\n"  # in a chat it is how the answer begins
    prefixed = replace(pairs, prompts=tuple(f"{prompt}{apart}{PREFIX}".lstrip() for prompt in pairs.prompts))
    found: dict[Figure, Measurement] = {}
    for figure, given in ((OWN, pairs), (replace(OWN, after=PREFIX), prefixed), (UNRELATED, unrelated)):
        if given is not None:
            sides = tokenize_pairs(model.tokenizer, given, prepend_bos=model.prepend_bos, context=context)
            found[figure] = Measurement(sides, choose)
    rows = [row[:context] for row in model.whole_rows(data.texts)]
    found[PRICE] = Measurement(rows, perplexities)
    return found


def _openings(model: LoadedModel, data: ChoiceSet, room: int) -> list[str]:
    """What to generate from: the prompts that are named, else those of the pairs that have at most `room` tokens."""
    if data.prompts is not None:
        return list(dict.fromkeys(data.prompts))
    prompts = [prompt for prompt in dict.fromkeys(data.pairs.prompts) if prompt.strip()]
    rows = model.prompt_rows(prompts)
    fitting = [prompt for prompt, row in zip(prompts, rows, strict=True) if model.prepend_bos < len(row) <= room]
    if not fitting:
        raise AtlasError("no pair has a prompt to generate from that fits into the context: name some with --prompts")
    return fitting


def _measure(
    model: LoadedModel,
    measurements: Mapping[Figure, Measurement],
    steerings: Sequence[AbstractContextManager[Any]],
) -> dict[Figure, np.ndarray]:
    """Every measurement, item i under the i-th of some steerings, the first coming after the last."""
    found = {figure: np.empty(len(one.items)) for figure, one in measurements.items()}
    for number, steering in enumerate(steerings):
        part = slice(number, None, len(steerings))
        own = {figure: one for figure, one in measurements.items() if one.items[part]}
        if not own:
            continue  # fewer items than steerings
        with steering:
            for figure, one in own.items():
                found[figure][part] = one.measure(model, one.items[part])
    return found


def _keep_all(run: Run, measured: Mapping[Figure, np.ndarray]) -> None:
    """Give a run what was measured, and the share of unrelated pairs that are answered rightly."""
    for figure, values in measured.items():
        _keep(run, figure, values)
    if UNRELATED in measured:
        _keep(run, replace(UNRELATED, metric="accuracy"), (measured[UNRELATED] > 0.5).astype(float))


def _keep(run: Run, figure: Figure, values: np.ndarray) -> None:
    """Give a run a figure; none where a value is not a finite number, such as the perplexity of an impossible token."""
    interval = mean_interval(list(values))
    if interval is not None:
        run.figures[figure] = interval


def choose(model: LoadedModel, sides: Sequence[Sides]) -> np.ndarray:
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
    means = np.array([values.mean() for values in log_probabilities(model, rows, spans)])
    return 1 / (1 + np.exp(means[1::2] - means[0::2]))


def _differing(pair: Sides) -> tuple[int, int]:
    """Tokens that both sides share at the beginning and at the end; at least one of each side is left."""
    shorter = min(len(pair.positive), len(pair.negative))
    begin = min(pair.first, shorter - 1)
    backwards = zip(reversed(pair.positive[begin + 1 :]), reversed(pair.negative[begin + 1 :]), strict=False)
    end = next((i for i, (a, b) in enumerate(backwards) if a != b), shorter - begin - 1)
    return begin, end
