"""The tables and figures of the papers that can be made from an atlas: each is one entry in EXHIBITS.

An exhibit computes a frame from the Material, says in a line what the frame shows, and draws it. Drawing sees nothing but
the frame, as it stands in the CSV file. Numbers follow the topic paper (arXiv 2506.12576); SAS is arXiv 2503.00177.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from atlas.reproduction import contrastive, cost, design_choices, generated_text, plots, reference_set
from atlas.reproduction import detection_curves as detection
from atlas.reproduction import layer_figures as layer_level
from atlas.reproduction.material import Material

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Exhibit:
    """A table or figure.

    Attributes:
        title: what it is, in a line.
        caption: what one sees, with units, and how to read it.
        compute: its rows; NotAvailable where something is missing.
        say: what the rows show, in a line.
        draw: its picture.
        paper: the paper's figure, where one is known; else empty.
        table: (index columns, column whose values become columns) of the table on the page; None for no table.
    """

    title: str
    caption: str
    compute: Callable[[Material], pl.DataFrame]
    say: Callable[[pl.DataFrame], str]
    draw: Callable[[pl.DataFrame], Figure]
    paper: str = ""
    table: tuple[tuple[str, ...], str] | None = None


def _draw_coverage(frame: pl.DataFrame) -> Figure:
    named = frame.with_columns(pl.col("least").replace_strict({1: "on 1 prompt or more", 20: "on 20 or more"}))
    return plots.lines(
        named, x="prompts", series="least", panel="sae_id", ticks=True, y=(0, 1.02),
        labels=("prompts in the reference set", "share of neurons that fired"),
    )  # fmt: skip


def _draw_support(frame: pl.DataFrame) -> Figure:
    span = (
        pl.when(pl.col("to_prompts") <= pl.col("from_prompts"))
        .then(pl.col("from_prompts").cast(pl.String))
        .otherwise(pl.format("{}-{}", "from_prompts", "to_prompts"))
    )
    return plots.bars(
        frame.with_columns(span=span), x="span", y="share", panel="sae_id",
        labels=("prompts on which a neuron fired", "share of neurons"),
    )  # fmt: skip


def _draw_stability(frame: pl.DataFrame) -> Figure:
    return plots.lines(
        frame, x="prompts", series="figure", panel="sae_id", ticks=True, y=(-0.1, 1.02),
        labels=("prompts in the reference set", "agreement with the whole set"),
    )  # fmt: skip


def _draw_curves(frame: pl.DataFrame) -> Figure:
    named = frame.with_columns(panel=pl.format("{}\n{}", "sae_id", "measure"))
    return plots.lines(
        named, x="neurons", series="ranking", panel="panel", columns=frame["measure"].n_unique(), share_y=False,
        labels=("k best neurons", ""),
    )  # fmt: skip


def _draw_curves_by_topic(frame: pl.DataFrame) -> Figure:
    return plots.lines(
        frame, x="neurons", series="sae_id", panel="topic", columns=4, zero=True,
        labels=("k best neurons", "difference of shares"),
    )  # fmt: skip


def _draw_auroc(frame: pl.DataFrame) -> Figure:
    named = frame.with_columns(panel=pl.format("{}\nagainst {}", "sae_id", "negatives"))
    return plots.dots(named, row="topic", series="ranking", panel="panel", label="AUROC", mark=0.5, share_x=True)


def _draw_layer(label: str, scale: str = "linear") -> Callable[[pl.DataFrame], Figure]:
    def draw(frame: pl.DataFrame) -> Figure:
        named = frame
        if frame["figure"].n_unique() > 1:
            named = frame.with_columns(sae_id=pl.format("{}\n{}", "sae_id", "figure"))
        return plots.dots(named, row="method", series="texts", panel="sae_id", label=label, scale=scale)

    return draw


FIGURE_TITLES = {
    "perplexity": "perplexity under the unsteered model",
    "distance_topic": "distance to the topic's own texts",
    "distance_held_out": "distance to held-out texts",
    "contamination": "contamination",
    "distinct_2": "distinct pairs of tokens",
    "acceptability": "acceptability",
    "distance_topic - original": "distance to own texts, minus original",
    "distance_held_out - original": "distance to held-out texts, minus original",
    "distance_topic - sae": "distance to own texts, minus sae",
    "distance_held_out - sae": "distance to held-out texts, minus sae",
}


def _name_figures(frame: pl.DataFrame) -> pl.DataFrame:
    """Figures of generated text that have a title, with their titles, and methods with their arithmetic."""
    known = frame.filter(pl.col("figure").is_in(list(FIGURE_TITLES)) & pl.col("value").is_not_null())
    plain = pl.col("method").is_in(["original", "sae", "prefix", "finetuned"])
    both = pl.format("{} ({})", "method", "arithmetic")
    return known.with_columns(
        pl.col("figure").replace_strict(FIGURE_TITLES), method=pl.when(plain).then("method").otherwise(both)
    )


def _draw_one_topic(frame: pl.DataFrame) -> Figure:
    named = _name_figures(frame.filter(pl.col("figure").is_in(generated_text.FIGURES)))
    return _log_perplexity(plots.dots(named, row="method", series=None, panel="figure", columns=3), named)


def _draw_by_topic(figures: tuple[str, ...], *, mark: float | None) -> Callable[[pl.DataFrame], Figure]:
    def draw(frame: pl.DataFrame) -> Figure:
        named = _name_figures(frame.filter(pl.col("figure").is_in(figures)))
        return _log_perplexity(plots.dots(named, row="topic", series="method", panel="figure", mark=mark), named)

    return draw


def _log_perplexity(figure: Figure, frame: pl.DataFrame) -> Figure:
    """A logarithmic axis where a broken method would hide the differences between the others."""
    for axes, name in zip(figure.axes, plots.values_of(frame, "figure"), strict=True):
        values = frame.filter(pl.col("figure") == name)["value"].to_numpy()
        if name == FIGURE_TITLES["perplexity"] and values.max() > 10 * values.min():
            axes.set_xscale("log")
    return figure


def _draw_agreement(frame: pl.DataFrame) -> Figure:
    means = frame.group_by("sae_id", "variant", "other", maintain_order=True).agg(pl.col("tau").mean().alias("value"))
    return plots.matrix(means, row="variant", column="other", panel="sae_id", label="Kendall's tau, mean over topics")


def _draw_distances(frame: pl.DataFrame) -> Figure:
    return plots.matrix(
        frame.rename({"distance": "value"}), row="topic", column="other", panel=None, label="mean distance of two texts"
    )


def _draw_weights(frame: pl.DataFrame) -> Figure:
    return plots.scatter(
        frame, x="distance", y="weight", panel="neuron",
        labels=("distance of the prompt to the topic", "weight of the prompt"),
    )  # fmt: skip


def _draw_distributions(frame: pl.DataFrame) -> Figure:
    return plots.boxes(frame, row="topic", series="texts", panel="sae_id", label="score")


def _draw_per_topic(frame: pl.DataFrame) -> Figure:
    return plots.horizontal_bars(frame, row="step", value="seconds", panel="phase", label="seconds")


def _draw_per_token(frame: pl.DataFrame) -> Figure:
    named = frame.with_columns(panel=pl.lit("64 tokens, one prompt, KV cache on"))
    return plots.dots(named, row="method", series=None, panel="panel", label="milliseconds per token")


def _draw_shift(frame: pl.DataFrame) -> Figure:
    named = frame.with_columns(panel=pl.format("{}\n{}", "behaviour", "answer"))
    return plots.lines(
        named, x="strength", series="method", panel="panel", log_x=False, zero=True,
        labels=("strength", "probability, steered minus unsteered"),
    )  # fmt: skip


def _draw_price(frame: pl.DataFrame) -> Figure:
    return plots.lines(
        frame, x="strength", series="method", panel="behaviour", log_x=False,
        labels=("strength", "perplexity, steered over unsteered"),
    )  # fmt: skip


def _draw_unrelated(frame: pl.DataFrame) -> Figure:
    return plots.lines(
        frame, x="strength", series="method", panel="behaviour", log_x=False, zero=True,
        labels=("strength", "probability, steered minus unsteered"),
    )  # fmt: skip


def _draw_overlap(frame: pl.DataFrame) -> Figure:
    named = frame.with_columns(value=pl.col("cosine"), panel=pl.format("{}\n{}", "sae_id", "kind"))
    names = list(dict.fromkeys([*frame["behaviour"], *frame["other"]]))
    own = named.select("panel").unique(maintain_order=True).join(pl.DataFrame({"behaviour": names}), how="cross")
    itself = own.with_columns(other=pl.col("behaviour"), value=pl.lit(1.0))
    columns = ["behaviour", "other", "panel", "value"]
    return plots.matrix(
        pl.concat([named.select(columns), itself.select(columns)]), row="behaviour", column="other", panel="panel",
        label="cosine of the vectors",
    )  # fmt: skip


def _draw_sparsity(frame: pl.DataFrame) -> Figure:
    named = frame.with_columns(value=pl.col("entries") / pl.col("d_sae"))
    return plots.lines(
        named, x="tau", series="behaviour", panel="sae_id", log_x=False,
        labels=("least share of pairs (tau)", "share of neurons in the vector"),
    )  # fmt: skip


METHOD_COLUMNS = ("method", "arithmetic")
EXHIBITS = {
    "table_2": Exhibit(
        "Generated text, one topic",
        "Text generated from neutral openings, 64 tokens each, under each method and its controls: perplexity under the "
        "unsteered model, distance to the topic's own and to held-out texts, contamination (share of the code off topic), "
        "distinct pairs of tokens, acceptability. Mean and 95 % interval over prompts. 'paper' is the papers' literal "
        "arithmetic, 'default' what `atlas steer` does when not told otherwise. /shuffled and /random are the same method "
        "with scores that cannot know the topic.",
        generated_text.one_topic,
        generated_text.say_one_topic,
        _draw_one_topic,
        paper="acceptability 0.25 for the fine-tuned model, 0.5 for swap (abstract; GPT-2, a medical topic)",
        table=(METHOD_COLUMNS, "figure"),
    ),
    "table_3": Exhibit(
        "Cost of the set-up and of a topic",
        f"Seconds, measured now on this machine in one run. The set-up is measured on {cost.SAMPLE} prompts and scaled up to "
        "the atlas.",
        cost.per_topic,
        cost.say_per_topic,
        _draw_per_topic,
        paper="62 s per topic, of which 56 s embed, 2.4 s distance, 3.7 s score (V100, GPT-2, 32,768 neurons, 8K prompts)",
        table=(("phase", "step"), ""),
    ),
    "table_4": Exhibit(
        "Cost of a token",
        f"Milliseconds per generated token, median and range of {cost.REPEATS} texts of {cost.TOKENS} tokens.",
        cost.per_token,
        cost.say_per_token,
        _draw_per_token,
        paper="64 tokens in 6.204 s unsteered and 6.263 s under swap (V100, GPT-2, no KV cache): 0.9 ms more per token",
        table=(("method",), ""),
    ),
    "table_5": Exhibit(
        "Agreement of summaries and distances",
        "Kendall's tau between the rankings of the neurons under two variants of the score: what sums up a prompt's "
        "activations (mean, max, count) and how texts are compared (euclidean, cosine). Mean over topics.",
        design_choices.rank_agreement,
        design_choices.say_agreement,
        _draw_agreement,
        paper="average tau 0.741",
    ),
    "table_7": Exhibit(
        "Generated text, every topic: distance",
        "Distance of generated text to the topic's own texts and to its held-out texts, minus that of unsteered text (original) or "
        "of the SAE's plain reconstruction (sae) from the same prompts and seeds. Mean and 95 % interval over prompts; "
        "below 0 is closer to the topic. Only held-out texts are evidence: the topic's own texts set the scores.",
        generated_text.distance_by_topic,
        generated_text.say_distances,
        _draw_by_topic(
            (
                "distance_topic - original",
                "distance_held_out - original",
                "distance_topic - sae",
                "distance_held_out - sae",
            ),
            mark=0,
        ),
    ),
    "table_8": Exhibit(
        "Generated text, every topic: price",
        "What the same texts cost: perplexity under the unsteered model, distinct pairs of tokens (1 is no repetition), "
        "contamination, acceptability. Mean and 95 % interval over prompts.",
        generated_text.price_by_topic,
        generated_text.say_price,
        _draw_by_topic(("perplexity", "distinct_2", "contamination", "acceptability"), mark=None),
    ),
    "figure_3": Exhibit(
        "Coverage by the size of the reference set",
        "Share of neurons that fired on at least 1 and at least 20 prompts of a random set, and of the whole one. Line: mean "
        f"of {reference_set.SAMPLES} random sets; band: least and greatest. A neuron below 20 has no score.",
        reference_set.coverage,
        reference_set.say_coverage,
        _draw_coverage,
    ),
    "figure_4": Exhibit(
        "Do the best neurons find the topic?",
        "For the k best neurons: the share of tokens of held-out texts on which one of them fires, minus the same share in "
        "everyday texts; and the AUROC of telling held-out texts from others by the summed activation of the k neurons (0.5 is "
        "chance). By score, by the strawman (mean activation on the topic's own texts), and by random neurons of like "
        "support and decoder norm (mean and range of 5 draws); 'rule' is the selection that steering uses by default, where it "
        "chooses any neuron.",
        detection.curves,
        detection.say_curves,
        _draw_curves,
    ),
    "figure_5": Exhibit(
        "Neurons changed per token",
        "How many neurons of a token's code a method changes, and how much that varies within a text (standard deviation "
        "over its tokens). Mean and 95 % interval over texts.",
        layer_level.changed,
        layer_level.say,
        _draw_layer("neurons"),
    ),
    "figure_6": Exhibit(
        "Difference in reconstruction error",
        "||x' - x||^2 - ||decode(a) - x||^2 per token, reconstruction error not kept. Mean and 95 % interval over texts; "
        "0 is as good as the SAE's own reconstruction. Logarithmic away from 0.",
        layer_level.reconstruction,
        layer_level.say,
        _draw_layer("squared activation", "symlog"),
    ),
    "figure_8": Exhibit(
        "Prompts per neuron",
        "On how many reference prompts a neuron fired, in ranges that double.",
        reference_set.support,
        reference_set.say_support,
        _draw_support,
    ),
    "rank_stability": Exhibit(
        "Stability of a topic's ranking",
        "The ranking of the neurons over a random part of the prompts against that over all: Spearman correlation, and the "
        f"share of the 20 best that are the same. Line: mean of {reference_set.SAMPLES} random sets; band: least and greatest.",
        reference_set.rank_stability,
        reference_set.say_stability,
        _draw_stability,
    ),
    "figure_9": Exhibit(
        "Activation against distance",
        "The reference prompts behind four neurons of the first SAE: how far each prompt is from the topic, and its share of "
        "the neuron's activation. A neuron scores high when its weight lies on near prompts.",
        design_choices.weights_by_distance,
        design_choices.say_weights,
        _draw_weights,
    ),
    "figure_10": Exhibit(
        "Distribution of scores",
        "Scores by topic, by SAE, and by the number of alignment texts (two different sets of texts). Box: quartiles and "
        "median; whiskers: 5 % and 95 %.",
        design_choices.score_distributions,
        design_choices.say_distributions,
        _draw_distributions,
    ),
    "topic_distances": Exhibit(
        "Distances within and between topics",
        "Mean Euclidean distance between the embeddings of two texts: of the same topic on the diagonal, of two topics "
        "elsewhere. A diagonal lower than its row is a topic that the encoder can tell apart.",
        design_choices.topic_distances,
        design_choices.say_distances,
        _draw_distances,
    ),
    "figure_11": Exhibit(
        "Share of tokens, every topic",
        "As in figure 4, by score: share of held-out texts' tokens on which one of the k best neurons fires, minus that of "
        "everyday texts.",
        detection.curves_by_topic,
        detection.say_curves_by_topic,
        _draw_curves_by_topic,
    ),
    "figure_12": Exhibit(
        "AUROC, every topic",
        f"Telling a topic's held-out texts from everyday texts, and from the other topics' held-out texts, by the summed "
        f"activation of the {detection.BEST} best neurons. AUROC and 95 % interval; for random neurons the mean of "
        f"{detection.DRAWS} draws and its 95 % interval. 0.5 is chance.",
        detection.auroc_by_topic,
        detection.say_auroc,
        _draw_auroc,
    ),
    "figure_13": Exhibit(
        "Contamination",
        "Share of the edited code that is off topic, on held-out and on everyday texts. Mean and 95 % interval over texts; "
        "lower is purer.",
        layer_level.contamination,
        layer_level.say,
        _draw_layer("contamination"),
    ),
    "sas_shift": Exhibit(
        "SAS: choices by strength",
        "Probability of the completion that shows a behaviour against the one that shows the opposite, steered minus "
        "unsteered, on contrast pairs that the vector was not made from; also with 'The answer is' before the completion. "
        "sas is the sparse vector, dense the dense one, /random the control: the same entries at other neurons, a random "
        "direction. Band: 95 % interval over pairs.",
        contrastive.shift,
        contrastive.say_shift,
        _draw_shift,
        paper="on par with the dense vector (its authors' claim)",
    ),
    "sas_ablations": Exhibit(
        "SAS: what each part does",
        "As above for the sparse vector whole, by its positive and by its negative part alone, and with the reconstruction "
        "error dropped.",
        contrastive.ablations,
        contrastive.say_shift,
        _draw_shift,
    ),
    "sas_price": Exhibit(
        "SAS: kept ability by strength",
        "Perplexity of everyday texts under the steered model over that under the unsteered one: 1 is no harm. Band: 95 % "
        "interval over texts.",
        contrastive.price,
        contrastive.say_price,
        _draw_price,
    ),
    "sas_unrelated": Exhibit(
        "SAS: unrelated questions by strength",
        "Probability of the matching completion in the contrast pairs of the other behaviours, steered minus unsteered: 0 is "
        "no harm. Band: 95 % interval over pairs.",
        contrastive.unrelated,
        contrastive.say_unrelated,
        _draw_unrelated,
    ),
    "sas_overlap": Exhibit(
        "SAS: overlap of behaviours",
        "Cosine between the vectors of two behaviours: sparse over the SAE's neurons, dense over the dimensions of its hook. "
        "The table counts the entries that both vectors have; jaccard is these over the entries that either has.",
        contrastive.overlap,
        contrastive.say_overlap,
        _draw_overlap,
        table=(("behaviour", "other"), ""),
    ),
    "sas_sparsity": Exhibit(
        "SAS: sparsity by tau",
        "Share of an SAE's neurons that a sparse vector keeps, when a neuron must fire on a side in at least the share tau of "
        "the pairs. SAEs of different width side by side.",
        contrastive.sparsity,
        contrastive.say_sparsity,
        _draw_sparsity,
    ),
}
