"""Score a topic by what a selection rule needs and takes little: neuron vectors, or the loaded model on the topic's texts."""

from __future__ import annotations

from collections.abc import Sequence

from atlas.errors import UnknownName
from atlas.models.recorded import RecordedModels
from atlas.progress import Progress, silent
from atlas.scoring.config import ScoringConfig
from atlas.scoring.model_evidence import ModelProbe
from atlas.scoring.score import score_stored_topics
from atlas.scoring.scorers import SCORERS
from atlas.steering.selection import RULES, SCORERS_OF


def ensure_signals(
    recorded: RecordedModels,
    topic: str | None,
    rule: str,
    sae_keys: Sequence[int] | None = None,
    *,
    progress: Progress = silent,
) -> None:
    """Score a topic by what a selection rule needs and takes little (scorers centroid and contrast), once.

    A signal that takes longer, such as output, is left to `atlas score`, and selection says so.

    Args:
        topic: None needs no signal.
        rule: key of RULES.
        sae_keys: which SAEs; None for all that the topic is scored for.
    """
    if rule not in RULES:
        raise UnknownName("selection rule", rule, RULES)
    scorers = {SCORERS_OF[column] for column in RULES[rule].needs}
    wanted = [name for name in sorted(scorers) if name == "centroid" or SCORERS[name].needs == "activations"]
    if topic is None or not wanted:
        return
    with recorded.store.read() as session:
        texts = session.ask("topic_texts", topic=topic)["text"].to_list()
        scored = {name: session.ask("current_scorings", topic=topic, scorer=name) for name in ("distance", *wanted)}
    keys = scored["distance"]["sae_key"].to_list() if sae_keys is None else list(sae_keys)
    for name in wanted:
        missing = [key for key in keys if key not in scored[name]["sae_key"].to_list()]
        if missing and texts:
            probe = ModelProbe(recorded, progress=progress)
            config = ScoringConfig(scorer=name)
            score_stored_topics(recorded.store, [topic], config=config, sae_keys=missing, probe=probe)
