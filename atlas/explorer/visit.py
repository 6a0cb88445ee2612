"""The atlas that a page shows, and what all its visitors share: the loaded models, and whose turn it is to generate."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from atlas.api import Atlas
from atlas.errors import AtlasError
from atlas.explorer.files import Files
from atlas.explorer.points import Points
from atlas.meaning.neuron_vectors import lacks_neuron_vectors

if TYPE_CHECKING:
    from atlas.models.recorded import RecordedModels


PATIENCE = 5.0  # seconds that a visitor waits while another process has the file


@dataclass(frozen=True)
class Places:
    """Where things are now; None for where they were when the atlas was built.

    Attributes:
        model: the language model.
        release: SAELens release or folder of the SAEs.
        encoder: the sentence encoder.
        device: torch device of model and SAEs.
    """

    model: str | None = None
    release: str | None = None
    encoder: str | None = None
    device: str = "cpu"


class Visit:
    """An atlas as its visitors see it. Nothing of the file is held between two calls.

    Args:
        atlas: the atlas.
        places: where its models are.

    Attributes:
        is_loading: whether the sentence encoder is being loaded, which a search waits for.
    """

    def __init__(self, atlas: Atlas, *, places: Places = Places()) -> None:
        self.atlas, self.places = atlas, places
        self.turns, self.points, self.files = Turns(), Points(), Files()
        self._embedding = threading.Lock()
        self._begun = threading.Lock()  # held from the first call of begin_loading on
        self.is_loading = self._has_vectors = False

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.atlas.store.path.name

    @property
    def read_only(self) -> bool:
        """Whether visitors may change nothing: no topic, list or note is stored, and no generation."""
        return self.atlas.store.read_only

    def ask(self, name: str, /, **parameters: Any) -> pl.DataFrame:
        """Rows of a named query of sql/."""
        with self.atlas.store.read() as session:
            return session.ask(name, **parameters)

    def saes(self) -> list[dict[str, Any]]:
        """The rows of `saes`, in the order in which they were added."""
        return self.ask("all_saes").to_dicts()

    def topics(self) -> list[str]:
        """The names of the topics that are scored by distance, as steering wants them."""
        return sorted(set(self.ask("all_topics")["name"]))

    def caption(self, sae_key: int, neuron: int) -> str:
        """A neuron in a line: its number, and its label or what it fires on."""
        found = self.ask("neuron_caption", sae_key=sae_key, neuron=neuron)
        if found.is_empty():
            return ""
        row = found.row(0, named=True)
        about = row["label"] or "  ".join(str(token) for token in row["fires_on"] or ()) or "never fired"
        return f"neuron {neuron} of {row['sae_id']}: {about}"

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The embeddings of texts; the encoder is loaded once, by whoever asks first."""
        with self._embedding:
            found = self.atlas.embed(texts, encoder=self.places.encoder, tell=lambda _line: None)
        return found["vector"].to_list()

    def begin_loading(self) -> None:
        """Load the sentence encoder in a thread, once: by the time that a visitor has typed it may be there."""
        if self._begun.acquire(blocking=False):
            self.is_loading = True
            threading.Thread(target=self._load, daemon=True, name="atlas-encoder").start()

    def _load(self) -> None:
        try:
            self.embed(["."])
        except AtlasError:  # is said to whoever searches
            self._begun.release()
        finally:
            self.is_loading = False

    def has_vectors(self) -> bool:
        """Whether every neuron that fired has a vector, which a search goes by."""
        if not self._has_vectors:  # those that are there stay
            with self.atlas.store.read() as session:
                self._has_vectors = not lacks_neuron_vectors(session)
        return self._has_vectors

    @cached_property
    def models(self) -> RecordedModels:
        """The language model and the SAEs, loaded when they are asked for first."""
        from atlas.models.recorded import RecordedModels

        place = self.places
        return RecordedModels(self.atlas.store, model=place.model, release=place.release, device=place.device)


class Turns:
    """Who may run the language model: one at a time, the others wait in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[object] = []

    def before(self, ticket: object) -> int:
        """How many are before a ticket; 0 when it is its turn, or when it is not waiting."""
        with self._changed:
            return self._waiting.index(ticket) if ticket in self._waiting else 0

    @contextmanager
    def wait(self, ticket: object, stopped: threading.Event) -> Iterator[bool]:
        """Wait for one's turn: whether it came, or one stopped waiting."""
        with self._changed:
            self._waiting.append(ticket)
            while self._waiting[0] is not ticket and not stopped.is_set():
                self._changed.wait(0.1)  # not for ever: nobody notifies of a stop
        try:
            yield not stopped.is_set()
        finally:
            with self._changed:
                self._waiting.remove(ticket)
                self._changed.notify_all()
