"""What a figure of a run is of, and the one spelling of its name, as it is stored and printed."""

from __future__ import annotations

from dataclasses import dataclass

SCORED, STRAWMAN, AT_RANDOM = "by score", "by strawman", "of random neurons"  # rankings of neurons, see Figure
ALIGNED, UNALIGNED = "aligned", "unaligned"  # texts, see Figure
CLASSIFIED = "classifier_accuracy"  # share of the topics' held-out texts that metric on_topic puts right, each left out
JUDGED = ("slor", "penlp")  # metrics of a text by a language model, see language_judge
CODE_METRICS = ("changed", "reconstruction", "contamination", "changed_deviation")  # fields of layer_level.LayerFigures


@dataclass(frozen=True)
class Figure:
    """What a figure of a run is of; `str` is its name in table `metrics` and in print.

    Attributes:
        metric: what is measured: a key of METRICS, or another such as "auroc_everyday", "changed" or "probability".
        minus: the method or control whose value is subtracted, prompt by prompt.
        over: the method or control that it is divided by, prompt by prompt.
        ranking: which neurons find texts, such as SCORED; "" for those that steer.
        texts: what the model was run on, ALIGNED or UNALIGNED; "" for what a figure is of anyway.
        sae_id: the SAE, where several steer at once.
        unrelated: whether it is of unrelated texts, or of other behaviours' pairs.
        after: what is put before the answers of pairs.
    """

    metric: str
    minus: str = ""
    over: str = ""
    ranking: str = ""
    texts: str = ""
    sae_id: str = ""
    unrelated: bool = False
    after: str = ""

    def __str__(self) -> str:
        parts = (
            (self.unrelated, "unrelated "),
            (self.metric, self.metric),
            (self.after, f" after '{self.after}'"),
            (self.minus, f" - {self.minus}"),
            (self.over, f" / {self.over}"),
            (self.ranking, f" {self.ranking}"),
            (self.texts, f" on {self.texts}"),
            (self.sae_id, f" ({self.sae_id})"),
        )
        return "".join(spelled for given, spelled in parts if given)
