"""What the exhibits are computed from: an atlas, texts that no topic was scored by, and models that load when first asked."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from atlas.api import Atlas
from atlas.api import open as open_atlas
from atlas.errors import AtlasError
from atlas.models.encoders import Encoder, check_encoder, load_encoder
from atlas.models.hooks import hook_activations
from atlas.models.recorded import RecordedModels
from atlas.progress import Progress, silent
from atlas.scoring.model_evidence import ModelProbe
from atlas.steering.methods import SteeredSae
from atlas.steering.selection import DEFAULT_RULE, RULES, SCORERS_OF, select_neurons
from atlas.steering.targets import load_steered_saes
from atlas.store.session import Session
from atlas.store.state import require_complete
from atlas.texts.pairs import PairSet
from atlas.texts.prompts import collect_texts


class NotAvailable(AtlasError):
    """An exhibit cannot be made here.

    Args:
        reason: what is missing.
        command: what would make it.
    """

    def __init__(self, reason: str, command: str = "") -> None:
        super().__init__(reason)
        self.command = command


@dataclass(frozen=True)
class TestTexts:
    """Texts that no topic was scored by.

    Attributes:
        held_out: topic -> texts about it.
        unaligned: everyday texts about none of the topics.
        prompts: neutral openings to generate from.
        short: topic -> another, smaller set of alignment texts; the first 6 of its own where a topic has none here.
        pairs: behaviour -> contrast pairs.
        subjects: narrow subject -> texts about it; what of them is a reference prompt does not count as one where it is used.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    held_out: Mapping[str, Sequence[str]]
    unaligned: Sequence[str]
    prompts: Sequence[str]
    short: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pairs: Mapping[str, PairSet] = field(default_factory=dict)
    subjects: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelLocations:
    """Where things are now; None for where they were at build.

    Attributes:
        model: the language model.
        release: the SAELens release or folder of the SAEs.
        encoder: the sentence encoder.
        device: torch device.
    """

    model: str | None = None
    release: str | None = None
    encoder: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class TokenActivations:
    """Active neurons of texts, one entry per (token, neuron): arrays [entry], but for `tokens` [text].

    Attributes:
        token: number of the token over all texts.
        text: number of the text.
        neuron: the neuron.
        activation: its absolute activation.
        tokens: tokens of each text that count.
    """

    token: np.ndarray
    text: np.ndarray
    neuron: np.ndarray
    activation: np.ndarray
    tokens: np.ndarray

    def best_ranks(self, ranks: np.ndarray) -> np.ndarray:
        """Per token the best rank among its active neurons [token]; len(ranks) where none is active."""
        found = np.full(int(self.tokens.sum()), len(ranks))
        np.minimum.at(found, self.token, ranks[self.neuron])
        return found

    def sums(self, ranks: np.ndarray, most: int) -> np.ndarray:
        """Per text the mean activation per token, summed over the neurons of rank below `most` [text]."""
        chosen = ranks[self.neuron] < most
        sums = np.bincount(self.text[chosen], weights=self.activation[chosen], minlength=len(self.tokens))
        return sums / np.maximum(self.tokens, 1)


class ExhibitInputs:
    """An atlas and what goes with it; the atlas itself is only read.

    Args:
        atlas: a finished atlas with at least one scored topic.
        texts: texts that no topic was scored by.
        topic: the topic of the exhibits that show one; None for the first that has held-out texts.
        folder: where a copy of the atlas may be put, to score other variants in.
        locations: where model, release and encoder are now; None for where they were at build.
        finetuned: folder of fine-tuned models, one folder per topic; None leaves them out.
        progress: called with (stage, done, total).
    """

    def __init__(
        self,
        atlas: Atlas,
        texts: TestTexts,
        *,
        folder: Path,
        topic: str | None = None,
        locations: ModelLocations | None = None,
        finetuned: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        self.atlas, self.texts, self.folder, self.progress = atlas, texts, folder, progress
        self._locations = locations = locations or ModelLocations()
        self.recorded = RecordedModels(
            atlas.store, model=locations.model, release=locations.release, device=locations.device
        )
        self.finetuned = finetuned
        self._activations: dict[tuple[int, tuple[str, ...]], TokenActivations] = {}
        self._once: dict[Callable[[ExhibitInputs], pl.DataFrame], pl.DataFrame] = {}
        with atlas.store.read() as session:
            self.built = require_complete(session, atlas.store)
            self.encoder_name = locations.encoder or str(self.built["encoder"])
            self.saes = session.ask("all_saes").to_dicts()
            self.scorings = {
                name: dict(
                    session.ask("current_scorings", topic=name, scorer="distance")
                    .select("sae_key", "scoring_id")
                    .iter_rows()
                )
                for name in session.ask("all_topics")["name"]
            }
        self.topics = [name for name, found in self.scorings.items() if len(found) == len(self.saes)]
        if not self.topics:
            raise AtlasError(
                f"{atlas.store.path} has no topic that is scored for every SAE: run `atlas score` for one first"
            )
        self.tested = [name for name in self.topics if texts.held_out.get(name)]
        if topic is not None and topic not in self.topics:
            raise AtlasError(f"topic {topic!r} is not scored for every SAE: take one of {', '.join(self.topics)}")
        usual = "medicine" if "medicine" in self.tested else (self.tested or self.topics)[0]
        self.topic = topic or usual

    def once(self, compute: Callable[[ExhibitInputs], pl.DataFrame]) -> pl.DataFrame:
        """What `compute` gives, computed once for all exhibits that show a part of it."""
        if compute not in self._once:
            self._once[compute] = compute(self)
        return self._once[compute]

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A read-only session of the atlas."""
        with self.atlas.store.read_file() as session:
            yield session

    @cached_property
    def copy(self) -> Atlas:
        """A copy of the atlas, to put variants of scores and vectors in."""
        return self.copy_as("variants.atlas")

    @cached_property
    def steering(self) -> Atlas:
        """The atlas with every signal that the default selection of neurons needs: itself, or a copy where one lacks."""
        return self._scored_by({SCORERS_OF[need] for need in RULES[DEFAULT_RULE].needs} - {"distance"})

    @cached_property
    def _with_strawman(self) -> Atlas:
        """The atlas with the scores of the strawman, the baseline of detection: itself, or a copy where they lack."""
        return self._scored_by({"strawman"})

    def _scored_by(self, scorers: Collection[str]) -> Atlas:
        """The atlas with scores of the tested topics by some scorers: itself, or the one copy for this where any lack."""
        missing: dict[str, list[str]] = {}
        with self.session() as session:
            for scorer, name in itertools.product(sorted(scorers), self.tested):
                if session.ask("current_scorings", topic=name, scorer=scorer).height < len(self.saes):
                    missing.setdefault(scorer, []).append(name)
        if not missing:
            return self.atlas
        atlas = self._scored_copy
        probe = ModelProbe(self.recorded_of(atlas), progress=self.progress)
        for scorer, names in missing.items():
            texts = {name: collect_texts(self.topic_texts(name)) for name in names}
            atlas.score_many(texts, scorer=scorer, probe=probe, min_support=self.min_support)
        return atlas

    @cached_property
    def _scored_copy(self) -> Atlas:
        return self.copy_as("scored.atlas")

    @cached_property
    def min_support(self) -> int:
        """The least support that the atlas's own scorings ask for."""
        with self.session() as session:
            ids = self.scorings[self.topic].values()
            return int(min(session.ask("scoring", scoring_id=one).item(0, "min_support") for one in ids))

    @cached_property
    def steering_model(self) -> RecordedModels:
        """The language model and SAEs for the scores of `steering`."""
        return self.recorded_of(self.steering)

    def copy_as(self, name: str) -> Atlas:
        """A copy of the atlas under a file name, to be changed at will."""
        self.progress("copying the atlas", 0, 0)
        path = self.folder / name
        with self.session():  # nobody writes meanwhile
            for ending in (".wal", ""):  # the file last: when it is closed, the system drops this process's lock on it
                source = Path(f"{self.atlas.store.file}{ending}")
                if source.exists():
                    shutil.copy(source, f"{path}{ending}")
        return open_atlas(path)

    def recorded_of(self, atlas: Atlas) -> RecordedModels:
        """The language model, loaded once, and the SAEs, for the scores and vectors of a copy of the atlas."""
        return RecordedModels(
            atlas.store, release=self._locations.release, device=self._locations.device, loaded=self.model
        )

    @cached_property
    def encoder(self) -> Encoder:
        """The atlas's sentence encoder; StoreError when it is another one."""
        self.progress("loading the sentence encoder", 0, 0)
        encoder = load_encoder(self.encoder_name)
        check_encoder(encoder, self.built)
        return encoder

    @property
    def model(self) -> tuple[Any, Any]:
        """The language model and its tokenizer; ModelError when it is gone."""
        return self.recorded.model

    def steered_sae(self, sae_key: int, topic: str | None = None, select: str = "score") -> SteeredSae:
        """An SAE with the scores of a topic, the exhibits' own by default, under a rule of atlas.steering.selection."""
        return load_steered_saes(self.recorded, topic or self.topic, [sae_key], select=select).saes[0]

    def selected(self, sae_key: int, topic: str) -> np.ndarray:
        """The neurons that steering selects when not told otherwise, best first."""
        scoring = self.scorings[topic][sae_key]
        with self.steering.store.read() as session:
            frame = session.ask("steering_columns", sae_key=sae_key, scoring_id=scoring)
        return select_neurons(frame, DEFAULT_RULE)[1]

    def strawman(self, sae_key: int, topic: str) -> np.ndarray:
        """The neurons that scorer strawman ranks for a tested topic, best first."""
        with self._with_strawman.store.read() as session:
            scorings = session.ask("current_scorings", topic=topic, scorer="strawman")
            scoring = scorings.filter(pl.col("sae_key") == sae_key).item(0, "scoring_id")
            return session.ask("best_neurons", scoring_id=scoring, count=None)["neuron"].to_numpy()

    def columns(self, sae_key: int) -> pl.DataFrame:
        """Support and decoder norm of an SAE's neurons, in order."""
        with self.session() as session:
            return session.ask("matching_columns", sae_key=sae_key)

    def held_out(self, topic: str) -> list[str]:
        """Held-out texts of a topic."""
        if not self.texts.held_out.get(topic):
            raise NotAvailable(
                f"topic {topic!r} has no held-out texts", "atlas reproduce {atlas} --out {out} --held-out FOLDER"
            )
        return list(self.texts.held_out[topic])

    def topic_texts(self, topic: str) -> list[str]:
        """The texts a topic is scored by."""
        with self.session() as session:
            return session.ask("topic_texts", topic=topic)["text"].to_list()

    def activations(self, row: Mapping[str, Any], texts: Sequence[str]) -> TokenActivations:
        """What an SAE (its row in `saes`) makes of texts; the model runs over a set of texts once."""
        key = (row["sae_key"], tuple(texts))
        if key not in self._activations:
            sae = self.steered_sae(row["sae_key"])
            parts: list[tuple[np.ndarray, ...]] = []
            tokens: list[int] = []
            for caught, mask in hook_activations(self.recorded.read_as(row), texts, [sae.hook_name]):
                x = caught[sae.hook_name]
                acts = (sae.codec.encode(x).acts.abs().float() * mask.unsqueeze(-1)).cpu()
                row_of, place, fired = (part.numpy() for part in acts.nonzero(as_tuple=True))
                counts = mask.sum(1).cpu().numpy()
                number = mask.cpu().numpy().cumsum().reshape(mask.shape) - 1  # padding has no entry
                values = acts[row_of, place, fired].numpy()
                parts.append((number[row_of, place] + sum(tokens), row_of + len(tokens), fired, values))
                tokens += counts.tolist()
            token, text, neuron, activation = (np.concatenate(column) for column in zip(*parts, strict=True))
            self._activations[key] = TokenActivations(token, text, neuron, activation, np.array(tokens))
        return self._activations[key]
