"""How well a topic's best neurons find held-out texts about it: every bundled topic, SAE and selection rule.

    python -m tests.bench.detection ATLAS

AUROC of each topic's 24 held-out texts against 120 everyday texts, and against the other topics' held-out texts, by the summed
mean activation of the best neurons (method: section 6, point 1): its mean over the topics with a 95 % interval, and the worst.
Topics are scored by 20 and by 6 texts; those of 6 are stored under NAME-6. Nothing but these scores is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import atlas
from atlas.evaluation.intervals import auroc, mean_interval
from atlas.evaluation.layer_level import activity
from atlas.models.recorded import RecordedModels
from atlas.steering.selection import RULES
from atlas.steering.signals import ensure_signals
from atlas.steering.targets import load_steered_saes
from atlas.texts import bundled
from atlas.texts.prompts import read_texts

FORMATS = {"20": "", "6": "-6"}  # texts per topic -> what its name ends in
COUNTS = (20, 5)  # neurons whose activation is summed


@dataclass(frozen=True)
class HeldOut:
    """Mean activation per token of every neuron [text, d_sae], of everyday texts and of each topic's held-out ones."""

    everyday: np.ndarray
    topics: dict[str, np.ndarray]

    def areas(self, topic: str, best: np.ndarray) -> tuple[float, float]:
        """AUROC of a topic's texts against everyday texts, and against the other topics' texts."""
        own = self.topics[topic][:, best].sum(1)
        others = np.concatenate([codes[:, best].sum(1) for name, codes in self.topics.items() if name != topic])
        return auroc(own, self.everyday[:, best].sum(1)), auroc(own, others)


def rules(recorded: RecordedModels) -> list[str]:
    """The rules whose signals are there, or can be had at once."""
    keys = [row["sae_key"] for row in sae_rows(recorded)]
    found = []
    for rule in RULES:
        try:
            for name in names():
                ensure_signals(recorded, name, rule, keys)
            load_steered_saes(recorded, names()[0], keys[:1], select=rule)
        except atlas.AtlasError as reason:
            sys.stderr.write(f"{rule}: left out: {reason}\n")
        else:
            found.append(rule)
    return found


def names() -> list[str]:
    """The topics' names in the atlas, in every format."""
    return [topic + ending for ending in FORMATS.values() for topic in bundled.read_topics()]


def sae_rows(recorded: RecordedModels) -> list[dict]:
    """The SAEs' rows in the atlas."""
    with recorded.store.read() as session:
        return session.ask("all_saes").to_dicts()


def table(recorded: RecordedModels) -> Iterator[str]:
    """Its lines, as they are measured."""
    held_out = {topic: list(texts.texts) for topic, texts in bundled.read_topics("held_out").items()}
    everyday = list(read_texts(bundled.UNALIGNED).texts)
    tried = rules(recorded)
    yield f"{'SAE':40} {'texts':>5} {'neurons':>7} {'rule':17} {'everyday texts':24} {'other topics':24}"
    for row in sae_rows(recorded):
        steered = load_steered_saes(recorded, names()[0], [row["sae_key"]], select="score").saes[0]
        model = recorded.read_as(row)
        codes = HeldOut(
            activity(model, steered, everyday),
            {topic: activity(model, steered, texts) for topic, texts in held_out.items()},
        )
        for texts, ending in FORMATS.items():
            for rule in tried:
                best = {
                    topic: load_steered_saes(recorded, topic + ending, [row["sae_key"]], select=rule)
                    .saes[0]
                    .target.best
                    for topic in held_out
                }
                for count in COUNTS:
                    areas = [codes.areas(topic, np.asarray(chosen)[:count]) for topic, chosen in best.items()]
                    cells = [shown(list(values)) for values in zip(*areas, strict=True)]
                    yield f"{row['sae_id']:40} {texts:>5} {count:>7} {rule:17} {cells[0]:24} {cells[1]:24}"


def shown(areas: list[float]) -> str:
    """The mean with half its interval, and the worst."""
    found = mean_interval(areas)
    return f"{np.mean(areas):.3f} ± {0 if found is None else found.high - found.value:.3f}, {min(areas):.3f}"


def main() -> None:
    """Score the topics, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atlas")
    opened = atlas.open(parser.parse_args().atlas)
    for texts, ending in FORMATS.items():
        opened.score_many({topic + ending: found for topic, found in bundled.read_topics(texts).items()})
    for line in table(RecordedModels(opened.store)):
        sys.stdout.write(line.rstrip() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
