"""The Python interface: `atlas.open(path)`, then the words of the command line. Frames come back as Polars frames."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from atlas.cards.shown import show_steer, show_top, show_why
from atlas.errors import AtlasError, UnknownName
from atlas.progress import Progress, silent
from atlas.scoring.centroid_errors import with_errors
from atlas.scoring.scored import require_scored
from atlas.scoring.scorers import SCORERS
from atlas.steering.settings import Options, SteeringSettings
from atlas.store.file import MEMORY_LIMIT, Store
from atlas.store.session import Scan, scan_here
from atlas.store.state import find_sae_key, require_complete
from atlas.texts.pairs import PairSet, collect_pairs, read_pairs
from atlas.texts.prompts import TextSet, collect_texts, read_texts

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from atlas.background import Served
    from atlas.cards.neuron import Neuron
    from atlas.evaluation.evaluation_set import EvaluationSet
    from atlas.evaluation.runs import MethodSetting
    from atlas.models.encoders import Encoder
    from atlas.models.recorded import RecordedModels
    from atlas.models.saes import LoadedSae
    from atlas.scoring.model_evidence import ModelProbe
    from atlas.steering.intervention import Steering

ORDERS = ("score", "z")
Texts = str | Path | Sequence[str] | TextSet
Pairs = str | Path | Sequence[tuple[str, str, str]] | PairSet


def open(path: str | Path, *, memory_limit: str = MEMORY_LIMIT, patience: float | None = None) -> Atlas:
    """Open an atlas file; StoreError when there is none, or it is not one.

    Args:
        path: the file.
        memory_limit: what DuckDB may take, such as "2GB".
        patience: seconds to wait, in every call, while another process has the file; None for a minute (or the
            environment's ATLAS_PATIENCE), and as long as it takes to store what was dear to compute.
    """
    store = Store(path, memory_limit=memory_limit, patience=patience)
    store.check()
    return Atlas(store)


class Atlas:
    """An atlas file. `sae_id` is a SAELens id, a sae_key, or None for every SAE.

    The file is not held open between calls; SAEs that steered once, and the sentence encoder, stay loaded.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._saes: dict[tuple[str | None, str], dict[int, LoadedSae]] = {}
        self._encoders: dict[str, Encoder] = {}
        self._recorded: dict[tuple[str | None, str | None], RecordedModels] = {}

    def info(self) -> dict[str, Any]:
        """What is in it: the row of `atlas`, counts, the frames `saes`, `topics` and `outdated_labels`, and stale maps.

        `stale_maps` says, for each basis that has a map, how many of its SAEs have places made of other neurons than today's.
        """
        from atlas.meaning.neuron_map import stale_maps

        with self.store.read() as session:
            rows = session.ask("atlas_row").to_dicts()
            saes = session.ask("saes_with_coverage")
            return {
                **(rows[0] if rows else {"state": "building"}),
                **session.ask("atlas_size").drop("saes", "topics").row(0, named=True),  # the frames have a row of each
                "saes": saes,
                "topics": session.ask("all_topics"),
                "stale_maps": stale_maps(session),
                "outdated_labels": session.ask("outdated_labels"),
            }

    def score(
        self,
        topic: str,
        texts: Texts,
        *,
        sae_id: str | int | None = None,
        replace: bool = False,
        encoder: str | None = None,
        bootstraps: int = 0,
        **config: Any,
    ) -> pl.DataFrame:
        """Score every neuron for a topic, store the scores, and give the ten best per SAE.

        Args:
            topic: its name.
            texts: a few texts about it, or a file of them.
            sae_id: which SAE; None for all.
            replace: give a topic that exists these texts instead of its own.
            encoder: where the atlas's encoder is now, when it has moved.
            bootstraps: samples of the prompts to measure the ranking's stability by; 0 for none.
            config: fields of ScoringConfig: scorer, summary, distance, power, min_support, null_topics, candidates.
        """
        sets = {topic: texts}
        self.score_many(sets, sae_id=sae_id, replace=replace, encoder=encoder, bootstraps=bootstraps, **config)
        return self.top(topic, sae_id=sae_id, scorer=config.get("scorer", "distance"))

    def score_many(
        self,
        topics: Mapping[str, Texts],
        *,
        sae_id: str | int | None = None,
        replace: bool = False,
        encoder: str | None = None,
        bootstraps: int = 0,
        probe: ModelProbe | None = None,
        scan: Scan = scan_here,
        tell: Callable[[str], None] = warnings.warn,
        **config: Any,
    ) -> dict[str, list[int]]:
        """Score several topics in one call of the encoder and one scan per SAE; the scoring ids per topic.

        The arguments are those of `score`; `probe` runs the language model for the scorers that need it, and is made
        when it is not given; `scan` is the engine that reads the activations (atlas.spark.query), DuckDB unless given;
        `tell` is called with a line about texts that the encoder cuts.
        """
        embed = self._embedder(encoder, tell)
        sets = {name: _as_text_set(texts, name) for name, texts in topics.items()}
        keys = None if sae_id is None else [self.sae_key(sae_id)]
        from atlas.scoring.config import ScoringConfig
        from atlas.scoring.score import score_topics

        settled = ScoringConfig(**config)
        if SCORERS[settled.scorer].needs and probe is None:
            from atlas.models.recorded import RecordedModels
            from atlas.scoring.model_evidence import ModelProbe

            probe = ModelProbe(RecordedModels(self.store))
        return score_topics(
            self.store,
            sets,
            embed=embed,
            config=settled,
            sae_keys=keys,
            replace=replace,
            probe=probe,
            bootstraps=bootstraps,
            scan=scan,
        )

    def top(
        self,
        topic: str,
        n: int = 10,
        *,
        sae_id: str | int | None = None,
        scorer: str = "distance",
        by: str | None = None,
    ) -> pl.DataFrame:
        """The n best neurons of a topic per SAE: score, error, z, support, what they fire on and what they write.

        Args:
            topic: a scored topic.
            n: neurons per SAE.
            sae_id: which SAE; None for all.
            scorer: whose scores.
            by: "score", or "z" for the neurons that are closest to the topic compared with random topics; None for z where
                the topic was compared with such, which finds texts about it better (atlas/evaluation/README.md).
        """
        if by not in (None, *ORDERS):
            raise UnknownName("order", by, ORDERS)
        sae = self._checked(sae_id)
        with self.store.read() as session:
            require_complete(session, self.store)
            require_scored(session, topic, scorer)
            found = session.ask("top_neurons", topic=topic, n=n, sae=sae, scorer=scorer, by=by)
            found = with_errors(session, found) if scorer == "centroid" else found
        return show_top(found, topic, f"scorer {scorer}" + ("" if by is None else f", by {by}"))

    def top_many(
        self, topics: Sequence[str], n: int = 10, *, sae_id: str | int | None = None, scorer: str = "distance"
    ) -> pl.DataFrame:
        """The n best neurons of several topics per SAE, topic after topic, in one query; the columns of `top`."""
        sae = self._checked(sae_id)
        with self.store.read() as session:
            require_complete(session, self.store)
            scored = set(session.ask("scorings_of_topics", names=list(topics), scorer=scorer)["name"])
            for topic in topics:
                if topic not in scored:
                    require_scored(session, topic, scorer)
            found = session.ask("top_of_topics", topics=list(topics), n=n, sae=sae, scorer=scorer, by=None)
            found = with_errors(session, found) if scorer == "centroid" else found
        order = pl.DataFrame({"topic": list(dict.fromkeys(topics))}, schema={"topic": pl.String}).with_row_index(
            "place"
        )
        return found.join(order, on="topic", maintain_order="left").sort("place", maintain_order=True).drop("place")

    def search(
        self,
        texts: str | Sequence[str] | TextSet,
        n: int = 10,
        *,
        sae_id: str | int | None = None,
        by: str = "z",
        encoder: str | None = None,
        tell: Callable[[str], None] = warnings.warn,
    ) -> pl.DataFrame:
        """The n neurons per SAE that are closest to some texts, by their vectors: nothing is scanned, and nothing stored.

        What `score` with scorer centroid would give for a topic of these texts. An atlas from before there were vectors gets
        them first.

        Args:
            texts: a text, or several about one thing.
            n: neurons per SAE.
            sae_id: which SAE; None for all.
            by: "z" for the neurons that are closest compared with random texts, or "score".
            encoder: where the atlas's encoder is now, when it has moved.
            tell: called with a line about texts that the encoder cuts.
        """
        given = [texts] if isinstance(texts, str) else texts
        found = self.search_many({"": given}, n, sae_id=sae_id, by=by, encoder=encoder, tell=tell).drop("topic")
        texts = given.texts if isinstance(given, TextSet) else given
        title = next(iter(texts)) + (f" and {len(texts) - 1} texts more" if len(texts) > 1 else "")
        return show_top(found, title, f"closest in meaning, by {by}")

    def search_many(
        self,
        topics: Mapping[str, Texts],
        n: int = 10,
        *,
        sae_id: str | int | None = None,
        by: str = "z",
        encoder: str | None = None,
        tell: Callable[[str], None] = warnings.warn,
    ) -> pl.DataFrame:
        """The same for several topics, in one call of the encoder; a column `topic` says whose neuron a row is."""
        from atlas.meaning.neuron_vectors import add_neuron_vectors, lacks_neuron_vectors
        from atlas.meaning.search import search_topics

        if by not in ORDERS:
            raise UnknownName("order", by, ORDERS)
        sae = self._checked(sae_id)
        sets = {name: list(_as_text_set(texts, name).texts) for name, texts in topics.items()}
        embed = self._embedder(encoder, tell)  # which refuses an unfinished atlas
        every = list(dict.fromkeys(text for texts in sets.values() for text in texts))
        vectors = dict(zip(every, embed(every)["vector"].to_list(), strict=True)) if every else {}
        own = {name: [vectors[text] for text in texts] for name, texts in sets.items()}
        with self.store.read() as session:
            if not lacks_neuron_vectors(session):
                return search_topics(session, own, n, sae=sae, by=by)
        add_neuron_vectors(self.store)
        with self.store.read() as session:
            return search_topics(session, own, n, sae=sae, by=by)

    def embed(
        self, texts: Sequence[str], *, encoder: str | None = None, tell: Callable[[str], None] = warnings.warn
    ) -> pl.DataFrame:
        """The embeddings of texts by the atlas's own encoder, as the macro search_neurons takes them.

        Args:
            texts: the texts.
            encoder: where the atlas's encoder is now, when it has moved.
            tell: called with a line about texts that the encoder cuts.

        Returns:
            A row per text, in order: text, vector.
        """
        return self._embedder(encoder, tell)(texts).select(pl.Series("text", texts, dtype=pl.String), "vector")

    def label(
        self,
        *,
        sae_id: str | int | None = None,
        encoder: str | None = None,
        tell: Callable[[str], None] = warnings.warn,
        progress: Progress = silent,
    ) -> pl.DataFrame:
        """Label every neuron by a few words of the prompts it fires on, store the labels, and give them.

        Labels that an earlier call made are replaced; those of other sources stay.

        Args:
            sae_id: which SAE; None for all.
            encoder: where the atlas's encoder is now, when it has moved.
            tell: called with a line about texts that the encoder cuts.
            progress: called with (stage, done, total).

        Returns:
            A row per neuron: the label, its quality (AUROC on prompts kept out, null: not measured), and whether it is good
            enough to be shown.
        """
        from atlas.meaning.labels import SOURCE, label_neurons

        keys = None if sae_id is None else [self.sae_key(sae_id)]
        label_neurons(self.store, embed=self._embedder(encoder, tell), sae_keys=keys, progress=progress)
        return self._ask("labelled_neurons", source=SOURCE, sae=self._checked(sae_id))

    def import_labels(
        self,
        path: str | Path,
        *,
        sae_id: str | int | None = None,
        encoder: str | None = None,
        tell: Callable[[str], None] = warnings.warn,
    ) -> pl.DataFrame:
        """Store explanations of neurons from a file or folder of Neuronpedia's exports as their labels, and give them.

        They have the source `neuronpedia`, take the place of those of an earlier import, and are shown before labels of words,
        whatever their quality, which is measured where the atlas's sentence encoder is at hand.

        Args:
            path: a .jsonl or .jsonl.gz file, or a folder of them.
            sae_id: the SAE that they are of; None for the one that has their id at Neuronpedia.
            encoder: where the atlas's encoder is now, when it has moved.
            tell: called with a line per SAE: how many there were, and what was left out; and where no quality is measured.

        Returns:
            A row per neuron, as `label` gives them.
        """
        from atlas.meaning.label_import import SOURCE, import_labels

        key = None if sae_id is None else self.sae_key(sae_id)
        keys = import_labels(self.store, path, embed=self._embedder(encoder, tell), sae_key=key, tell=tell)
        return self._ask("labelled_neurons", source=SOURCE, sae=None).filter(pl.col("sae_key").is_in(keys))

    def match(
        self, other: Atlas | str | Path | None = None, *, sae_id: str | int | None = None, to: str | int | None = None
    ) -> pl.DataFrame:
        """For each neuron of an SAE the one that is nearest in meaning in another SAE, of this atlas or of another.

        Args:
            other: the other atlas, or its file; None for this one. It needs the same sentence encoder.
            sae_id: which SAE of this atlas; None for its only one.
            to: which SAE of the other; None for its only one (of this atlas: the only one beside `sae_id`).

        Returns:
            A row per neuron that fired on 20 prompts or more: neuron, label, other_neuron, other_label, cosine, mutual.
        """
        from atlas.meaning.matching import Side, match_neurons

        there = self if other is None else other if isinstance(other, Atlas) else open(other)
        own = self._one_sae(sae_id, "sae_id")
        left_out = own if there is self else None
        return match_neurons(Side(self.store, own), Side(there.store, there._one_sae(to, "to", left_out)))

    def map(
        self,
        basis: str = "vectors",
        *,
        seed: int | None = None,
        again: bool = False,
        release: str | None = None,
        progress: Progress = silent,
    ) -> pl.DataFrame:
        """A map of all neurons: two numbers each, so that those that are alike lie together (UMAP).

        It is made once and stored, and made again when prompts or SAEs were added. It takes the package umap-learn.

        Args:
            basis: "vectors" for what neurons mean, all SAEs on one map, dead neurons left out; "decoder" for what they write, each
                SAE on a map of its own.
            seed: of the random numbers; None for 0, or whatever the map that is there has.
            again: whether to make it anew all the same.
            release: where the SAEs are now, for basis decoder; None for where they were at build.
            progress: called with (stage, done, total).

        Returns:
            A row per neuron: sae_key, sae_id, neuron, x, y, support, density, label.
        """
        from atlas.meaning.neuron_map import ensure_map

        def decoder_rows(row: Mapping[str, Any]) -> np.ndarray:
            return self.recorded(release=release).sae(dict(row)).codec.decoder_rows.float().cpu().numpy()

        return ensure_map(self.store, basis, decoder_rows=decoder_rows, seed=seed, again=again, progress=progress)

    def notes(self, name: str | None = None) -> pl.DataFrame:
        """What was said of neurons in a list, or in all: list, sae_id, neuron, text, created_at, and what they are known by."""
        from atlas.meaning.notes import read_notes

        return show_top(read_notes(self.store, name), name or "All lists")

    def lists(self) -> pl.DataFrame:
        """The lists of notes there are: list, neurons, changed_at."""
        from atlas.meaning.notes import read_lists

        return read_lists(self.store)

    def add_notes(
        self,
        neurons: int | Sequence[int],
        text: str | None = None,
        *,
        name: str = "notes",
        sae_id: str | int | None = None,
    ) -> pl.DataFrame:
        """Put neurons into a list, with what is said of them, and give what the list holds.

        Args:
            neurons: one or several of one SAE; those that are in the list already stay there once.
            text: what is said of each; None leaves what was said before.
            name: the list; made when it is not there.
            sae_id: whose neurons; None for the only SAE.
        """
        from atlas.meaning.notes import add_notes, checked_name

        add_notes(self.store, self._places(neurons, sae_id), name=name, text=text)
        return self.notes(checked_name(name))

    def remove_notes(
        self, name: str, neurons: int | Sequence[int] | None = None, *, sae_id: str | int | None = None
    ) -> None:
        """Take neurons of one SAE out of a list, or, where none is given, drop the list."""
        from atlas.meaning.notes import remove_notes

        remove_notes(self.store, name, None if neurons is None else self._places(neurons, sae_id))

    def rename_list(self, old: str, new: str) -> None:
        """Give a list of notes another name; AtlasError where there is one of that name."""
        from atlas.meaning.notes import rename_list

        rename_list(self.store, old, new)

    def _places(self, neurons: int | Sequence[int], sae_id: str | int | None) -> dict[int, list[int]]:
        own = [neurons] if isinstance(neurons, int) else [int(neuron) for neuron in neurons]
        return {self._one_sae(sae_id, "sae_id"): own}

    def _one_sae(self, sae_id: str | int | None, name: str, left_out: int | None = None) -> int:
        """The key of an SAE; AtlasError when none is given and there is not just one, beside the one left out."""
        if sae_id is not None:
            return self.sae_key(sae_id)
        rows = [row for row in self._ask("all_saes").iter_rows(named=True) if row["sae_key"] != left_out]
        if len(rows) != 1:
            listed = ", ".join(f"{row['sae_key']} ({row['sae_id']})" for row in rows) or "none"
            raise AtlasError(f"{self.store.path} has {len(rows)} SAEs to choose from, {listed}: give one as {name}")
        return int(rows[0]["sae_key"])

    def chosen_neurons(self, neurons: Sequence[int], sae_ids: Sequence[str | int] = ()) -> dict[int, list[int]]:
        """Neurons that are to steer, per key of their SAE: those of one SAE; None is for the atlas's only one.

        Raises:
            AtlasError: there are several SAEs to choose from, or several are given.
            UnknownName: no such SAE.
        """
        if len(sae_ids) > 1:
            raise AtlasError(f"neurons are of one SAE, and {len(sae_ids)} are given: leave out all but one --sae-id")
        return {self._one_sae(sae_ids[0] if sae_ids else None, "--sae-id (in Python sae_id)"): list(neurons)}

    def _chosen(
        self, chosen: Sequence[int] | str, sae_ids: Sequence[str | int] | None
    ) -> dict[int, list[int]] | str | None:
        """Neurons that are to steer, per key of their SAE, or their list's name; None where none are named."""
        if isinstance(chosen, str):
            return chosen or None
        return self.chosen_neurons(chosen, sae_ids or ()) if chosen else None

    def compare_labels(
        self,
        *,
        sae_id: str | int | None = None,
        encoder: str | None = None,
        tell: Callable[[str], None] = warnings.warn,
    ) -> pl.DataFrame:
        """The quality of the labels that `label` made, beside that of the tokens of their neurons and of random words.

        The arguments are those of `label`; 200 neurons per SAE are drawn at random, and nothing is stored.
        """
        from atlas.meaning.label_comparison import compare_labels
        from atlas.meaning.labels import SOURCE

        keys = None if sae_id is None else [self.sae_key(sae_id)]
        return compare_labels(self.store, embed=self._embedder(encoder, tell), source=SOURCE, sae_keys=keys)

    def why(
        self, topic: str, neuron: int, *, sae_id: str | int | None = None, scorer: str = "distance"
    ) -> pl.DataFrame:
        """The reference prompts behind a neuron's score, heaviest first, beside its g, score, se and z.

        The contributions sum to g. Of the scorers, distance and centroid are made of prompts.
        """
        if scorer in SCORERS and scorer not in ("distance", "centroid"):
            raise UnknownName("scorer that is made of prompts", scorer, ("distance", "centroid"))
        self._require_scored(topic, scorer)
        widths = {row["sae_key"]: row["d_sae"] for row in self._ask("all_saes").to_dicts()}
        width = widths[self.sae_key(sae_id)] if sae_id is not None else max(widths.values())
        if not 0 <= neuron < width:
            raise UnknownName("neuron", neuron, [f"0 to {width - 1}"])
        sae = self._checked(sae_id)
        with self.store.read() as session:
            scores = session.ask("neuron_score", topic=topic, neuron=neuron, scorer=scorer)
            scores = (with_errors(session, scores) if scorer == "centroid" else scores).drop("neuron")
            found = session.ask("why", topic=topic, neuron=neuron, sae=sae, scorer=scorer)
        found = found.join(scores, on="scoring_id", how="left", maintain_order="left")
        return show_why(found, f"Why neuron {neuron} stands for {topic}")

    def examples(self, neuron: int, *, sae_id: str | int | None = None) -> pl.DataFrame:
        """A neuron's ten strongest reference tokens with the text around them."""
        return self._ask("neuron_examples", neuron=neuron, sae=self._checked(sae_id))

    def neuron(
        self,
        neuron: int,
        *,
        sae_id: str | int | None = None,
        live: bool = True,
        save: bool = True,
        model: str | None = None,
        release: str | None = None,
    ) -> Neuron:
        """All that the atlas says of a neuron, as frames; in a notebook it shows itself as a card.

        Its activation on every token of the prompts that are shown, and the logits of the tokens that it writes, are computed by
        the model and the SAE when it is first looked at, and kept in the file. What cannot be loaded, or cannot be kept, is said
        in `notices`; the rest is there.

        Args:
            neuron: its number.
            sae_id: which SAE; None for the only one.
            live: whether to load the model and the SAEs for what the file does not have. They stay loaded.
            save: whether to keep what they were run for.
            model: where the language model is now; None for where it was at build.
            release: the SAELens release or folder where the SAEs are now; None for where they were at build.

        Raises:
            UnknownName: no such SAE, or no such neuron in it.
            AtlasError: there are several SAEs, and none is named.
        """
        from atlas.cards.neuron import read_neuron

        self._row()
        key = self._one_sae(sae_id, "sae_id")
        recorded = self.recorded(model=model, release=release) if live else None
        return read_neuron(self.store, key, neuron, recorded=recorded, save=save)

    def export_page(
        self,
        path: str | Path,
        *,
        topic: str | None = None,
        name: str | None = None,
        n: int = 10,
        sae_id: str | int | None = None,
        scorer: str = "distance",
        live: bool = True,
        save: bool = True,
        model: str | None = None,
        release: str | None = None,
        progress: Progress = silent,
    ) -> list[Neuron]:
        """Write a page of HTML, which needs no other file, about a topic's best neurons or those of a list; and give the neurons.

        Args:
            path: the file; it must not be there yet.
            topic: a scored topic.
            name: a list of notes, in a topic's stead.
            n: neurons per SAE, of a topic.
            sae_id: which SAE; None for all.
            scorer: whose scores.
            live: as in `neuron`, like save, model and release.
            progress: called with (stage, done, total), in neurons.

        Raises:
            AtlasError: neither a topic nor a list is named, or both, or there is no neuron to show.
            UnknownName: no such topic, list or SAE.
            StoreError: the file is there already, or cannot be written.
        """
        from atlas.cards.static_page import write_static_page

        if (topic is None) == (name is None):
            raise AtlasError("a page is about a topic or about a list: name one of them")
        if topic is not None:
            listed, subtitle = self.top(topic, n, sae_id=sae_id, scorer=scorer), f"scorer {scorer}"
        else:
            listed, subtitle = self.notes(name), ""
            listed = listed if sae_id is None else listed.filter(pl.col("sae_key") == self.sae_key(sae_id))
        recorded = self.recorded(model=model, release=release) if live else None
        title = str(topic if topic is not None else name)
        return write_static_page(
            self.store, path, listed, title, subtitle=subtitle, recorded=recorded, save=save, progress=progress
        )

    def recorded(self, *, model: str | None = None, release: str | None = None) -> RecordedModels:
        """The language model and the SAEs that the atlas was built with, loaded when they are first used, and then kept.

        Args:
            model: where the language model is now; None for where it was at build.
            release: the SAELens release or folder where the SAEs are now; None for where they were at build.
        """
        from atlas.models.recorded import RecordedModels

        saes = self._saes.setdefault((release, "cpu"), {})
        return self._recorded.setdefault(
            (model, release), RecordedModels(self.store, model=model, release=release, saes=saes)
        )

    def sql(self, text: str) -> pl.DataFrame:
        """Rows of an SQL query; the session is read-only and can touch neither other files nor the network."""
        return self.store.query(text)

    def contrast(self, name: str, pairs: Pairs, **settings: Any) -> pl.DataFrame:
        """Make a behaviour's steering vectors from contrast pairs, store them, and give a row of counts per SAE.

        Args:
            name: the behaviour.
            pairs: (prompt, positive, negative) each, or a file of them.
            settings: those of atlas.contrast.make_vectors: tau, position, sae_ids, replace, steerer (the loaded
                models, an atlas.models.recorded.RecordedModels), progress.
        """
        from atlas.contrast.make_vectors import make_vectors

        settings = {"recorded" if key == "steerer" else key: value for key, value in settings.items()}
        return make_vectors(self.store, name, as_pair_set(pairs, name), **settings)

    def vector(self, name: str, n: int = 10, *, sae_id: str | int | None = None) -> pl.DataFrame:
        """The n strongest entries per SAE of a behaviour's current sparse vector, and what their neurons fire on."""
        from atlas.contrast.vectors import current_vectors

        with self.store.read() as session:
            current_vectors(session, [name])
        return self._ask("strongest_entries", behaviour=name, n=n, sae=self._checked(sae_id))

    def steer(
        self,
        model: nn.Module,
        topic: str | None,
        *,
        method: str | None = None,
        sae_id: str | int | Sequence[str | int] | None = None,
        strength: float | None = None,
        neurons: int | None = None,
        sigma: str = "own",
        vector: str | Sequence[str] = (),
        chosen: Sequence[int] | str = (),
        scorer: str = SteeringSettings.scorer,
        select: str = SteeringSettings.select,
        keep_error: bool = SteeringSettings.keep_error,
        positions: str = SteeringSettings.positions,
        chat: bool = False,
        system: str | None = None,
        tokenizer: Any = None,
        release: str | None = None,
    ) -> Steering:
        """A context manager that steers `model` by a topic's stored scores while it lasts, however it is called.

        What works (caches, beams, batches, drafting, loops of one's own, training) and what is refused stands with
        atlas.steering.intervention.Steering.

        Args:
            model: a TransformerBridge or a Hugging Face causal model, the one the atlas was built with; compiled or
                otherwise wrapped it does too.
            topic: a scored topic, or a list of notes where no topic has the name; None gives every neuron the score 1, or those
                that are `chosen`.
            method: key of atlas.steering.methods.METHODS; None for add, and for sas where a vector is named.
            sae_id: which SAEs, one or several; None for the first that the topic is scored for.
            strength: in the method's unit; None for the one that `atlas evaluate --calibrate` picked, else the
                method's default, which for `add` is fitted to the model.
            neurons: how many of the best neurons `clamp` and `add` use, per SAE.
            sigma: selection of `swap` and `weight`: "own" or "topk"; of `sas`: "own", "relu" or "none".
            vector: behaviours that `sas`, `dense` and `filtered` steer by; the vectors of several are added up.
            chosen: neurons of one SAE that steer in a topic's stead, best first, or the name of a list of notes; the topic is None
                then.
            scorer: whose scores.
            select: which neurons: key of atlas.steering.selection.RULES.
            keep_error: keep what the SAE cannot represent; the papers' arithmetic drops it.
            positions: "all", "prompt" or "generated".
            chat: whether the `encode` of what this gives puts prompts into the tokenizer's chat template, and the strength is
                the one picked for chats, where there is one.
            system: the system message of the chat; None for what the template has by itself.
            tokenizer: the model's; read for its special tokens, and by `encode`. None: taken from the bridge, or loaded by name.
            release: the SAELens release or folder where the SAEs are now; None for where they were at build.

        Raises:
            UnknownName: topic, SAE, method, sigma, positions or vector.
            AtlasError: the method steers by a vector and none is named, or the vector has no entry.
            StoreError: the topic's scores are stale, or the model is not the one the atlas was built with.
        """
        from atlas.models.fingerprints import check_model
        from atlas.models.loading import load_tokenizer
        from atlas.models.recorded import RecordedModels
        from atlas.steering.call_watching import bare_model, measuring
        from atlas.steering.methods import DEFAULT_METHOD
        from atlas.steering.prepare import prepare_steering

        named = [vector] if isinstance(vector, str) else list(vector)
        method = method or ("sas" if named else DEFAULT_METHOD)
        options = {method: Options(strength, neurons, sigma)}
        settings = SteeringSettings(scorer, select, keep_error, positions, chat, system)
        with self.store.read() as session:
            require_complete(session, self.store)
            row = session.ask("all_saes").to_dicts()[0]
        model = bare_model(model)
        tokenizer = tokenizer or getattr(model, "tokenizer", None) or load_tokenizer(row["model"])
        check_model(model, tokenizer, row)
        place = (release, str(next(model.parameters()).device))
        recorded = RecordedModels(
            self.store,
            release=release,
            device=place[1],
            loaded=(model, tokenizer),
            saes=self._saes.setdefault(place, {}),
        )
        sae_ids = _as_list(sae_id)
        own = self._chosen(chosen, sae_ids)
        with measuring(model):
            prepared = prepare_steering(
                recorded,
                topic,
                options,
                settings=settings,
                vectors=named,
                sae_ids=sae_ids,
                chosen=own,
                strict=bool(chosen),
            )
        return prepared.steering(method)

    def generate(
        self,
        topic: str | None,
        prompts: str | Sequence[str],
        methods: str | Sequence[str] | None = None,
        *,
        sae_id: str | int | Sequence[str | int] | None = None,
        strength: float | None = None,
        neurons: int | None = None,
        sigma: str = "own",
        vector: str | Sequence[str] = (),
        chosen: Sequence[int] | str = (),
        scorer: str = SteeringSettings.scorer,
        select: str = SteeringSettings.select,
        keep_error: bool = SteeringSettings.keep_error,
        positions: str = SteeringSettings.positions,
        chat: bool = False,
        system: str | None = None,
        save: bool = True,
        model: str | None = None,
        release: str | None = None,
        progress: Progress = silent,
        **sampling: Any,
    ) -> pl.DataFrame:
        """Go on with prompts under several steering methods, as `atlas steer` does; a notebook shows the texts side by side.

        Args:
            topic: a scored topic, or a list of notes where no topic has the name; None gives every neuron the score 1, or those
                that are `chosen`.
            prompts: what the model is given.
            methods: keys of atlas.steering.methods.METHODS; None for original and add, and for original and sas where a vector is
                named.
            sae_id: as in `steer`, like strength, neurons, sigma, vector, chosen, scorer, select, keep_error, positions, chat
                and system.
            save: whether to store the texts and their figures in the atlas.
            model: where the language model is now; None for where it was at build. It is loaded once, and then kept.
            release: the SAELens release or folder where the SAEs are now; None for where they were at build.
            progress: called with (stage, done, total).
            sampling: fields of atlas.steering.generation.Sampling: max_new_tokens, temperature, top_k, top_p, seed.

        Returns:
            A row per prompt and method: method, prompt, text, seed, contamination, kept, new, dropped, strength.

        Raises:
            UnknownName: topic, SAE, method, sigma, positions or vector.
            AtlasError: a method lacks what it steers by.
            StoreError: the topic's scores are stale, or the model is not the one the atlas was built with.
        """
        from atlas.steering.generation import Sampling
        from atlas.steering.methods import DEFAULT_METHOD, spread_options
        from atlas.steering.prepare import prepare_steering
        from atlas.steering.steer import steer_prompts

        named = [vector] if isinstance(vector, str) else list(vector)
        given = [methods] if isinstance(methods, str) else methods or ("original", "sas" if named else DEFAULT_METHOD)
        sae_ids = _as_list(sae_id)
        prepared = prepare_steering(
            self.recorded(model=model, release=release),
            topic,
            spread_options(Options(strength, neurons, sigma), given),
            settings=SteeringSettings(scorer, select, keep_error, positions, chat, system),
            vectors=named,
            sae_ids=sae_ids,
            chosen=self._chosen(chosen, sae_ids),
            progress=progress,
        )
        wanted = [prompts] if isinstance(prompts, str) else list(prompts)
        named_source = prepared.topic or prepared.list_name
        found = steer_prompts(prepared, wanted, sampling=Sampling(**sampling), save=save, progress=progress)
        return show_steer(pl.DataFrame(found), f"Steered towards {named_source}" if named_source else "Steered")

    def explore(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        browser: bool = True,
        read_only: bool = False,
        model: str | None = None,
        release: str | None = None,
        encoder: str | None = None,
    ) -> Served:
        """Open the page of `atlas explore` on this atlas, served by a process of its own; it shows itself as a link.

        It lasts as long as this process, or until its `close`; a script ends with its `wait`. Needs the extra explore.

        Args:
            port: 0 for any that is free.
            host: address to listen on; whoever reaches another than 127.0.0.1 sees the atlas.
            browser: whether to open it in the browser.
            read_only: whether visitors may store nothing.
            model: where the language model is now; None for where it was at build.
            release: the same of the SAEs.
            encoder: the same of the sentence encoder.

        Raises:
            AtlasError: it cannot be served: the extra is missing, or the port is taken.
        """
        from atlas.background import Served

        words = ["explore", str(self.store.file), "--port", str(port), "--host", host]
        words += ["--no-browser"] if not browser else []
        words += ["--read-only"] if read_only or self.store.read_only else []
        for name, value in (("model", model), ("release", release), ("encoder", encoder)):
            words += [f"--{name}", value] if value is not None else []
        return Served(words)

    def evaluate(
        self,
        topic: str,
        data: EvaluationSet | None = None,
        methods: Sequence[str | MethodSetting] = ("add", "swap", "prefix"),
        *,
        calibrate: bool = False,
        **settings: Any,
    ) -> pl.DataFrame:
        """Measure how well a topic's neurons find texts about it, and what steering by them does to generated text.

        Every method is compared with unsteered text, with the SAE's plain reconstruction, and with itself under shuffled
        scores. All texts and figures are stored.

        Args:
            topic: a scored topic.
            data: held-out and everyday texts, and prompts; None for the bundled ones, where the topic has them.
            methods: keys of atlas.steering.methods.METHODS, "prefix" or "finetuned"; or a MethodSetting, to give one's
                options.
            calibrate: whether to pick each method's strength first, on every other prompt, and to evaluate on the rest.
            settings: those of atlas.evaluation.evaluate.evaluate_topic: config, vectors, sae_ids, recorded, encoder,
                models, progress, show, show_curve.

        Returns:
            A row per method and figure: method, name, value, low, high (95 %, paired by prompt).

        Raises:
            UnknownName: topic, method, SAE or vector.
            PromptError: no texts are given, and the topic has no bundled ones.
            AtlasError: a held-out text is among the topic's own.
            StoreError: the topic's scores are stale.
        """
        from atlas.evaluation.evaluate import evaluate_topic
        from atlas.evaluation.evaluation_set import read_evaluation_set
        from atlas.evaluation.runs import MethodSetting

        chosen = [MethodSetting(method) if isinstance(method, str) else method for method in methods]
        data = data or read_evaluation_set(topic)
        return evaluate_topic(self.store, topic, data, chosen, calibrate=calibrate, **settings)

    def _ask(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        with self.store.read() as session:
            return session.ask(name, **parameters)

    def _row(self) -> dict[str, Any]:
        with self.store.read() as session:
            return require_complete(session, self.store)

    def sae_key(self, sae_id: str | int) -> int:
        """The key of an SAE given by its SAELens id or its key; UnknownName, or AtlasError when two have the id."""
        with self.store.read() as session:
            return find_sae_key(session, sae_id)

    def _embedder(self, encoder: str | None, tell: Callable[[str], None]) -> Callable[[Sequence[str]], pl.DataFrame]:
        """What embeds texts by the atlas's encoder, which is loaded when it is needed first and then kept.

        Args:
            encoder: where it is now; None for where it was at build.
            tell: called with a line about texts that it cuts.
        """
        built = self._row()
        name = encoder or str(built["encoder"])

        def embed(found: Sequence[str]) -> pl.DataFrame:
            from atlas.models.embeddings import count_cut, embed_frame
            from atlas.models.encoders import check_encoder
            from atlas.models.recorded_encoder import recorded_encoder

            if name not in self._encoders:
                self._encoders[name] = recorded_encoder(built, encoder, tell)
            check_encoder(self._encoders[name], built)
            cut = count_cut(self._encoders[name], found)
            if cut:
                tell(
                    f"{cut} of {len(found)} texts are longer than the sentence encoder reads: their embeddings are of their "
                    "beginnings only"
                )
            return embed_frame(self._encoders[name], found)

        return embed

    def _checked(self, sae_id: str | int | None) -> str | None:
        return None if sae_id is None else str(self.sae_key(sae_id))

    def _require_scored(self, topic: str, scorer: str = "distance") -> None:
        with self.store.read() as session:
            require_complete(session, self.store)
            require_scored(session, topic, scorer)


def _as_list(sae_id: str | int | Sequence[str | int] | None) -> list[str | int] | None:
    """SAEs that were named by one id or by several; None for none named."""
    return None if sae_id is None else [sae_id] if isinstance(sae_id, str | int) else list(sae_id)


def _as_text_set(texts: Texts, name: str) -> TextSet:
    if isinstance(texts, TextSet):
        return texts
    if isinstance(texts, str | Path):
        return read_texts(texts)
    return collect_texts(texts, origin=f"topic {name!r}" if name else "the search")


def as_pair_set(pairs: Pairs, name: str) -> PairSet:
    """Contrast pairs however they were given; PromptError for those that cannot be used."""
    if isinstance(pairs, PairSet):
        return pairs
    if isinstance(pairs, str | Path):
        return read_pairs(pairs)
    return collect_pairs(pairs, origin=f"vector {name!r}")
