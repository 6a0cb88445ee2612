"""Do a topic's best neurons find texts about it that they were not scored by?

    python tests/detection.py atlas-demo/pocket.atlas

For each bundled topic and SAE: AUROC of the held-out texts of the topic, against the unaligned everyday texts and against
the other topics' held-out texts, by the summed activation per token of the 20 best neurons; beside it the mean over 20
draws of 20 random neurons of matched support (method, section 6, point 1).
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

import atlas
from atlas import pocket
from atlas.activations import encode_entries, run_model, summarise, tokenize
from atlas.models import LanguageModel, LoadedSae, load_language_model, load_sae
from atlas.prompts import read_texts

BEST, DRAWS = 20, 20


def activity(model: LanguageModel, sae: LoadedSae, texts: list[str]) -> np.ndarray:
    """Mean activation per token [text, d_sae]."""
    special = frozenset(model.tokenizer.all_special_ids)
    found = np.zeros((len(texts), sae.codec.d_sae))
    for start in range(0, len(texts), 32):
        ids, _ = tokenize(model, texts[start : start + 32], prepend_bos=sae.prepend_bos)
        entries = encode_entries(sae, run_model(model, ids, [sae.hook_name])[sae.hook_name], ids, special)
        rows, _ = summarise(entries, np.arange(start, start + len(ids)), sae.codec.d_sae)
        found[rows["prompt_id"], rows["neuron"]] = rows["act_sum"]
        found[start : start + len(ids)] /= [[sum(token not in special for token in row)] for row in ids]
    return found


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive lies above a negative, ties counted half."""
    return float(np.mean((positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])))


def matched_neurons(support: np.ndarray, best: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """For each of the best neurons, another one at random among the 50 nearest to it in support."""
    others = np.setdiff1d(np.flatnonzero(support >= 20), best)
    nearest = [others[np.argsort(np.abs(support[others] - support[b]), kind="stable")[:50]] for b in best]
    return np.array([generator.choice(choices) for choices in nearest])


def main() -> None:
    opened = atlas.open(sys.argv[1])
    model = load_language_model(str(pocket.MODEL))
    held_out = {name: list(texts.texts) for name, texts in pocket.read_topics("held_out").items()}
    everyday = list(read_texts(pocket.UNALIGNED).texts)
    lines = []
    for row in opened.info()["saes"].to_dicts():
        sae = load_sae(row["release"], row["sae_id"])
        per_topic = {name: activity(model, sae, texts) for name, texts in held_out.items()}
        neutral = activity(model, sae, everyday)
        support = opened.sql(f"select support from neurons where sae_key = {row['sae_key']} order by neuron")["support"]
        for name, own in per_topic.items():
            others = np.concatenate([found for other, found in per_topic.items() if other != name])
            best = opened.top(name, BEST, sae_id=row["sae_key"])["neuron"].to_numpy()
            generator = np.random.default_rng(0)
            draws = [matched_neurons(support.to_numpy().astype(float), best, generator) for _ in range(DRAWS)]
            lines.append(
                {
                    "sae": row["sae_id"],
                    "topic": name,
                    "everyday": auroc(own[:, best].sum(1), neutral[:, best].sum(1)),
                    "everyday_random": np.mean([auroc(own[:, d].sum(1), neutral[:, d].sum(1)) for d in draws]),
                    "other_topics": auroc(own[:, best].sum(1), others[:, best].sum(1)),
                    "other_topics_random": np.mean([auroc(own[:, d].sum(1), others[:, d].sum(1)) for d in draws]),
                }
            )
    frame = pl.DataFrame(lines)
    means = frame.group_by("sae", maintain_order=True).agg(pl.lit("mean").alias("topic"), pl.col(pl.Float64).mean())
    with pl.Config(
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        float_precision=3,
        tbl_width_chars=140,
    ):
        print(pl.concat([frame, means]))


if __name__ == "__main__":
    main()
