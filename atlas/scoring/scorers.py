"""How neurons can be scored for a topic: each scorer is an entry here and a query in sql/."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scorer:
    """One scorer.

    Attributes:
        help: what it is, in a line.
        uses: the fields of ScoringConfig it takes.
        needs: what the language model has to give: "activations" on the topic's texts, "output" of neurons, or nothing.
    """

    help: str
    uses: tuple[str, ...]
    needs: str | None = None


SCORERS = {
    "distance": Scorer(
        "closeness to the topic of the prompts a neuron fires on (arXiv 2506.12576, equations 1 and 2)",
        ("summary", "distance", "power", "min_support", "null_topics"),
    ),
    "centroid": Scorer(
        "closeness to the topic of the mean embedding of those prompts, its vector (method: section 8)",
        ("summary", "distance", "power", "min_support"),
    ),
    "contrast": Scorer(
        "AUROC of the neuron's activation on the topic's texts against the reference prompts",
        ("summary", "min_support"),
        "activations",
    ),
    "strawman": Scorer(
        "mean activation on the topic's texts (the paper's naive baseline)", ("summary", "min_support"), "activations"
    ),
    "output": Scorer(
        "whether raising the neuron raises the tokens it writes (arXiv 2505.20063)", ("candidates",), "output"
    ),
}
