"""A hard test of detection: narrow subjects, one against all others, by topic and test texts outside the reference set.

Each subject gives texts to score by and texts to find. What of them the atlas has among its reference prompts is left out of the
copy that is scored, and what fired on those is read from the atlas; on the others the model is run, once.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from atlas.api import Atlas
from atlas.errors import AtlasError
from atlas.evaluation.intervals import auroc, mean_interval
from atlas.meaning.neuron_vectors import make_neuron_vectors
from atlas.models.embeddings import embed_frame
from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs, NotAvailable
from atlas.scoring.config import ScoringConfig
from atlas.scoring.model_evidence import ModelProbe
from atlas.scoring.score import score_topics
from atlas.scoring.scorers import SCORERS
from atlas.steering.selection import DEFAULT_RULE, RULES, select_neurons
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts

if TYPE_CHECKING:
    from atlas.reproduction.plots import Picture


SIZES = (20, 6, 1)  # texts that a subject is scored by
TEST_TEXTS = 12  # of each subject, to be found among those of all subjects
BEST = (20, 5)  # neurons whose activation is summed
NO_SAE = (
    "embeddings alone"  # the ranking without neurons: texts by the closeness of their embeddings to the topic's mean
)
NO_NEURON = 0.5  # AUROC of a rule that leaves no neuron: it tells nothing
SHOWN = (NO_SAE, "score", DEFAULT_RULE)  # rankings that are said in a line, beside the best
SCHEMA = {
    "sae_id": pl.String, "ranking": pl.String, "texts": pl.Int64, "neurons": pl.Int64, "value": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "worst": pl.Float64, "worst_subject": pl.String, "subjects": pl.Int64,
}  # fmt: skip


@dataclass(frozen=True)
class Subjects:
    """Texts of each subject, drawn once and for all.

    Attributes:
        own: subject -> texts that it is scored by, the first of them for smaller sizes.
        tests: texts to be found and the subject of each.
    """

    own: Mapping[str, Sequence[str]]
    tests: pl.DataFrame

    @property
    def texts(self) -> list[str]:
        """All of them."""
        return [text for own in self.own.values() for text in own] + self.tests["text"].to_list()


class TextActivations:
    """What fired on texts, and their embeddings: of reference prompts as the atlas has it, of others by the models, once.

    It answers in the model's place when topics are scored (scoring's Probe).

    Args:
        inputs: the atlas and its models.
        texts: the texts.
        prompts: text -> its prompt_id and the tokens that count, of those that are reference prompts.
    """

    def __init__(self, inputs: ExhibitInputs, texts: Sequence[str], prompts: Mapping[str, tuple[int, int]]) -> None:
        keys = [row["sae_key"] for row in inputs.saes]
        known = [text for text in texts if text in prompts]
        others = [text for text in texts if text not in prompts]
        self._tokens = {text: prompts[text][1] for text in known}
        with inputs.session() as session:
            vectors = session.ask("embedding_vectors").select("prompt_id", "vector")
        ids = [prompts[text][0] for text in known]
        frames = [read_activations(inputs.atlas.store, ids, keys)]
        stored = dict(vectors.filter(pl.col("prompt_id").is_in(ids)).iter_rows())
        self._vectors = {text: stored[one] for text, one in zip(known, ids, strict=True)}
        if others:
            counts, run = ModelProbe(inputs.recorded, progress=inputs.progress).topic_activations(others, keys)
            self._tokens |= zip(others, counts, strict=True)
            shifted = run.with_columns(pl.col("text_id") + len(known)).select(frames[0].columns)
            frames.append(shifted.cast(frames[0].schema))
            embedded = embed_frame(inputs.encoder, others)["vector"].to_list()
            self._vectors |= zip(others, embedded, strict=True)
        self._numbers = {text: number for number, text in enumerate([*known, *others])}
        self._rows = pl.concat(frames)

    def topic_activations(self, texts: Sequence[str], sae_keys: Sequence[int]) -> tuple[list[int], pl.DataFrame]:
        """Tokens per text, and rows of `topic_activations` without their topic_id."""
        wanted = pl.DataFrame(
            {"text_id": [self._numbers[text] for text in texts], "place": range(len(texts))},
            schema={"text_id": pl.UInt32, "place": pl.UInt32},
        )
        rows = self._rows.filter(pl.col("sae_key").is_in(list(sae_keys))).join(wanted, on="text_id")
        return [self._tokens[text] for text in texts], rows.drop("text_id").rename({"place": "text_id"})

    def output_scores(self, sae_key: int, neurons: Sequence[int]) -> pl.DataFrame:
        """Never asked for: no ranking here needs it."""
        raise AssertionError("what neurons write is not known here")

    def embed(self, texts: Sequence[str]) -> pl.DataFrame:
        """A frame with one column `vector`, a row per text."""
        return pl.DataFrame({"vector": pl.Series([self._vectors[text] for text in texts], dtype=pl.List(pl.Float32))})

    def means(self, texts: Sequence[str], sae_key: int, width: int) -> np.ndarray:
        """Mean activation per token of every neuron [text, width]."""
        tokens, rows = self.topic_activations(texts, [sae_key])
        found = np.zeros((len(texts), width), dtype=np.float32)
        places = rows["text_id"].to_numpy()
        found[places, rows["neuron"].to_numpy()] = rows["act_sum"].to_numpy() / np.maximum(tokens, 1)[places]
        return found


def read_activations(store: Store, prompt_ids: Sequence[int], sae_keys: Sequence[int]) -> pl.DataFrame:
    """What fired on some prompts, whose numbers in the sequence are the text_id."""
    wanted = pl.DataFrame(
        {"text_id": np.arange(len(prompt_ids), dtype=np.uint32), "prompt_id": np.array(prompt_ids, dtype=np.uint32)}
    )
    with store.read_file() as session, session.frame("wanted_prompts", wanted):
        return session.ask("prompt_activations", sae_keys=list(sae_keys))


def narrow_subjects(inputs: ExhibitInputs) -> pl.DataFrame:
    """SCHEMA: AUROC of a subject's test texts against those of all others, mean and interval over subjects, and the worst."""
    with inputs.session() as session:
        prompts = session.ask("prompt_tokens")
    known = {text: (one, tokens) for one, text, tokens in prompts.select("prompt_id", "text", "n_tokens").iter_rows()}
    subjects = draw_subjects(inputs.texts.subjects, known)
    texts = TextActivations(inputs, subjects.texts, known)
    atlas = leave_out(inputs, [known[text][0] for text in subjects.texts if text in known])
    score_subjects(inputs, atlas, subjects, texts)
    owners = subjects.tests["subject"].to_numpy()
    alone = {size: _sum_up(areas_of_embeddings(texts, subjects, size)) for size in SIZES}
    rows = []
    for row in inputs.saes:
        means = texts.means(subjects.tests["text"].to_list(), row["sae_key"], row["d_sae"])
        for done, size in enumerate(SIZES):
            inputs.progress(f"finding narrow subjects, {row['sae_id']}", done, len(SIZES))
            best = {subject: rank_neurons(atlas, row["sae_key"], name_of(subject, size)) for subject in subjects.own}
            for count in BEST:
                for ranking in next(iter(best.values())):
                    found = {name: area(means, owners == name, one[ranking][:count]) for name, one in best.items()}
                    rows.append((row["sae_id"], ranking, size, count, *_sum_up(found)))
                rows.append((row["sae_id"], NO_SAE, size, count, *alone[size]))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _sum_up(found: Mapping[str, float]) -> tuple[float | str | None, ...]:
    """Of an area per subject the mean with its interval, the smallest and whose it is, and how many there are."""
    worst = min(found, key=lambda name: found[name])
    return (*(mean_interval(list(found.values())) or (None, None, None)), found[worst], worst, len(found))


def areas_of_embeddings(texts: TextActivations, subjects: Subjects, size: int) -> dict[str, float]:
    """Subject -> AUROC of its test texts by the product of their embeddings with the mean of its first texts', without neurons.

    It is what the encoder knows of a subject, by which neurons are scored.
    """
    tests = np.stack(texts.embed(subjects.tests["text"].to_list())["vector"].to_list())
    owners = subjects.tests["subject"].to_numpy()
    found = {}
    for name, own in subjects.own.items():
        closeness = tests @ np.mean(np.stack(texts.embed(own[:size])["vector"].to_list()), axis=0)
        found[name] = auroc(closeness[owners == name], closeness[owners != name])
    return found


def draw_subjects(texts: Mapping[str, Sequence[str]], prompts: Container[str]) -> Subjects:
    """Of each subject the texts that it is scored by and those that are to be found, at random from seed 0.

    Texts that are no reference prompts go first, so that as few prompts as can be are left out.

    Args:
        texts: subject -> texts.
        prompts: the reference prompts.

    Raises:
        NotAvailable: fewer than two subjects have as many texts as are drawn of each.
    """
    generator = np.random.default_rng(0)
    drawn = max(SIZES) + TEST_TEXTS
    own, tests = {}, []
    for subject, given in texts.items():
        order = [given[i] for i in generator.permutation(len(given))]
        order.sort(key=lambda text: text in prompts)
        if len(order) >= drawn:
            own[subject] = order[: max(SIZES)]
            tests += [(text, subject) for text in order[max(SIZES) : drawn]]
    if len(own) < 2:
        raise NotAvailable(
            f"{len(own)} subjects have {drawn} texts, and two are needed",
            "atlas reproduce {atlas} --out {out} --subjects FILE",
        )
    return Subjects(own, pl.DataFrame(tests, schema=["text", "subject"], orient="row"))


def leave_out(inputs: ExhibitInputs, prompt_ids: Sequence[int]) -> Atlas:
    """A copy of the atlas without some prompts and without topics."""
    atlas = inputs.copy_as("narrow.atlas")
    frame = pl.DataFrame({"prompt_id": pl.Series(list(prompt_ids), dtype=pl.UInt32)})
    inputs.progress("leaving out the subjects' texts", 0, 0)
    with atlas.store.write() as session, session.frame("left_out", frame):
        session.run("leave_out_prompts")
        session.run("drop_neuron_vectors")
        make_neuron_vectors(session)
    return atlas


def other_scorers() -> list[str]:
    """The scorers besides distance that need nothing but what is stored."""
    return [name for name, scorer in SCORERS.items() if scorer.needs != "output" and name != "distance"]


def score_subjects(inputs: ExhibitInputs, atlas: Atlas, subjects: Subjects, texts: TextActivations) -> None:
    """Score every subject by its first texts, for every size and scorer."""
    steps = [(size, scorer) for size in SIZES for scorer in ("distance", *other_scorers())]
    for done, (size, scorer) in enumerate(steps):
        inputs.progress("scoring narrow subjects", done, len(steps))
        sets = {name_of(name, size): collect_texts(own[:size]) for name, own in subjects.own.items()}
        config = ScoringConfig(scorer=scorer, min_support=inputs.min_support)
        score_topics(atlas.store, sets, embed=texts.embed, config=config, probe=texts)


def name_of(subject: str, size: int) -> str:
    """What a subject that is scored by so many texts is called as a topic."""
    return f"{subject}, {size} texts"


def rank_neurons(atlas: Atlas, sae_key: int, topic: str) -> dict[str, np.ndarray]:
    """Ranking -> neurons, best first: by each rule of selection, and by each other scorer that has scored the topic."""
    found = {}
    with atlas.store.read() as session:
        scorings = {
            scorer: session.ask("current_scorings", topic=topic, scorer=scorer).filter(pl.col("sae_key") == sae_key)
            for scorer in ("distance", *other_scorers())
        }
        frames = {
            scorer: session.ask("steering_columns", sae_key=sae_key, scoring_id=one.item(0, "scoring_id"))
            for scorer, one in scorings.items()
        }
    for rule, settings in RULES.items():
        if all(frames["distance"][need].null_count() < frames["distance"].height for need in settings.needs):
            found[rule] = _chosen(frames["distance"], rule)
    for scorer in other_scorers():
        found[f"scorer {scorer}"] = _chosen(frames[scorer], "score")
    return found


def _chosen(frame: pl.DataFrame, rule: str) -> np.ndarray:
    """The neurons that a rule chooses, best first; none where it leaves none."""
    try:
        return select_neurons(frame, rule)[1]
    except AtlasError:
        return np.empty(0, dtype=np.int64)


def area(means: np.ndarray, own: np.ndarray, neurons: np.ndarray) -> float:
    """AUROC of some texts against the others by the summed mean activation [text, d_sae] of some neurons."""
    if not len(neurons):
        return NO_NEURON
    sums = means[:, neurons].sum(axis=1)
    return auroc(sums[own], sums[~own])


def say_narrow_subjects(frame: pl.DataFrame) -> str:
    """Mean and worst AUROC of the paper's ranking, the default one and the best, with most texts and neurons."""
    most = frame.filter((pl.col("texts") == max(SIZES)) & (pl.col("neurons") == max(BEST)))
    parts = []
    for sae_id in most["sae_id"].unique(maintain_order=True):
        mine = {row["ranking"]: row for row in most.filter(pl.col("sae_id") == sae_id).to_dicts()}
        best = max(mine, key=lambda name: mine[name]["value"])
        said = [
            f"{name} {mine[name]['value']:.3f} ({mine[name]['worst']:.2f})" for name in dict.fromkeys([*SHOWN, best])
        ]
        parts.append(f"{sae_id}: {', '.join(said)}")
    return f"mean AUROC over {most['subjects'][0]} subjects (the worst): " + "; ".join(parts)


def _draw(frame: pl.DataFrame) -> Picture:
    named = frame.with_columns(row=pl.col("ranking"), panel=pl.format("{} texts, {} neurons", "texts", "neurons"))
    return plots.dots(named, row="row", series="sae_id", panel="panel", columns=2)


EXHIBITS = {
    "narrow_subjects": Exhibit(
        "Detection of narrow subjects",
        "Texts of each subject are kept out of the reference set: by 20, 6 or 1 of them it "
        "is scored, and 12 are to be found among those of all subjects by the summed activation of the 20 or 5 best neurons. "
        "AUROC, mean and 95 % interval over subjects; rankings are the rules of --select and the other scorers. A rule that leaves "
        f"no neuron counts as 0.5. {NO_SAE.capitalize()}: without neurons, by the texts' own embeddings, which is all that a score "
        "made of embeddings knows of a subject.",
        narrow_subjects,
        say_narrow_subjects,
        _draw,
        table=(("ranking",), ""),
    )
}
