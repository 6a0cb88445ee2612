"""How a prompt's activations are summed up: each summary is a column of `activations` (method: equations 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """One summary.

    Attributes:
        help: what it is, in a line.
        column: raw value per (neuron, prompt) in table `activations`.
        total: its sum over neurons per prompt in table `prompt_totals`.
        mass: the sum over prompts of value / total per neuron in table `neurons`.
    """

    help: str
    column: str
    total: str
    mass: str


SUMMARIES = {
    "mean": Summary(
        "mean activation over the prompt's tokens (the paper's choice)", "act_sum", "sum_total", "mass_mean"
    ),
    "max": Summary("largest activation in the prompt", "act_max", "max_total", "mass_max"),
    "count": Summary("number of tokens on which the neuron fired", "act_count", "count_total", "mass_count"),
}
