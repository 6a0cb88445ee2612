"""What a person says of neurons: notes, in lists of theirs. A neuron is in a list once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from atlas.errors import AtlasError, UnknownName
from atlas.meaning.described import describe
from atlas.store.file import Store
from atlas.store.session import Asks, now
from atlas.store.state import require_complete

DEFAULT_LIST = "notes"
LONGEST_NAME, LONGEST_TEXT = 200, 20_000  # characters
Places = Mapping[int, Sequence[int]]  # sae_key -> neurons


def read_notes(store: Store, name: str | None = None) -> pl.DataFrame:
    """The notes of a list, or of all: list, sae_key, sae_id, neuron, text, created_at, support, fires_on, top_tokens, label.

    Raises:
        UnknownName: there is no such list.
    """
    with store.read() as session:
        require_complete(session, store)
        if name is not None:
            _require_list(session, name)
        found = describe(session, session.ask("notes_of_lists", list=name))
    return found.select(
        "list", "sae_key", "sae_id", "neuron", "text", "created_at", "support", "fires_on", "top_tokens", "label"
    )


def read_lists(store: Store) -> pl.DataFrame:
    """The lists there are: list, neurons, changed_at."""
    with store.read() as session:
        return session.ask("note_lists")


def add_notes(store: Store, places: Places, *, name: str = DEFAULT_LIST, text: str | None = None) -> None:
    """Put neurons into a list, made when it is not there.

    Args:
        store: a finished atlas.
        places: the neurons.
        name: the list.
        text: what is said of each; None leaves what was said of those that are in the list already, and nothing of others.

    Raises:
        AtlasError: no neuron is given, or the name or the text cannot be one.
        UnknownName: an SAE has no such neuron.
        StoreError: the atlas is unfinished, or cannot be written.
    """
    name = checked_name(name)
    if text is not None and len(text) > LONGEST_TEXT:
        raise AtlasError(f"a note of {len(text):,} characters is too long: give {LONGEST_TEXT:,} at most")
    if not any(places.values()):
        raise AtlasError("no neuron is given: name one or more")
    with store.write() as session:
        require_complete(session, store)
        _require_neurons(session, places)
        before = session.ask("notes_of_lists", list=name).drop("list")
        given = _as_frame(places).unique(maintain_order=True)
        rows = given.join(before, on=["sae_key", "neuron"], how="left", maintain_order="left")
        if text is None:
            rows = rows.with_columns(pl.col("text").fill_null(""), pl.col("created_at").fill_null(now()))
        else:
            rows = rows.with_columns(text=pl.lit(text), created_at=pl.lit(now()))
        for key, neurons in places.items():
            session.run("drop_notes", list=name, sae_key=key, neurons=list(neurons))
        session.append("notes", rows.with_columns(list=pl.lit(name)))


def remove_notes(store: Store, name: str, places: Places | None = None) -> None:
    """Take neurons out of a list, or drop the list; a list is gone with its last neuron.

    Raises:
        UnknownName: there is no such list.
        AtlasError: a neuron is not in it.
        StoreError: the atlas cannot be written.
    """
    with store.write() as session:
        _require_list(session, name)
        if places is None:
            session.run("drop_notes", list=name, sae_key=None, neurons=None)
            return
        there = set(session.ask("notes_of_lists", list=name).select("sae_key", "neuron").iter_rows())
        for key, neurons in places.items():
            for neuron in neurons:
                if (key, neuron) not in there:
                    raise AtlasError(
                        f"neuron {neuron} of SAE {key} is not in the list {name!r}: see what is in it first"
                    )
            session.run("drop_notes", list=name, sae_key=key, neurons=list(neurons))


def rename_list(store: Store, old: str, new: str) -> None:
    """Give a list another name.

    Raises:
        UnknownName: there is no such list.
        AtlasError: there is one of the new name, or it cannot be one.
        StoreError: the atlas cannot be written.
    """
    new = checked_name(new)
    with store.write() as session:
        _require_list(session, old)
        if new in _lists(session) and new != old:
            raise AtlasError(f"there is a list {new!r} already: choose another name, or drop that list first")
        session.run("rename_list", old=old, new=new)


def checked_name(name: str) -> str:
    """A list's name without spaces around it; AtlasError for one that is empty, too long or of several lines."""
    found = name.strip()
    if not found or len(found) > LONGEST_NAME or len(found.splitlines()) > 1:
        raise AtlasError(f"{name!r} is no name for a list: give a line of 1 to {LONGEST_NAME} characters")
    return found


def _lists(session: Asks) -> list[str]:
    return session.ask("note_lists")["list"].to_list()


def _require_list(session: Asks, name: str) -> None:
    if name not in (known := _lists(session)):
        raise UnknownName("list", name, known)


def _require_neurons(session: Asks, places: Places) -> None:
    widths = dict(session.ask("all_saes").select("sae_key", "d_sae").iter_rows())
    for key, neurons in places.items():
        if key not in widths:
            raise UnknownName("SAE", key, widths)
        for neuron in neurons:
            if not 0 <= neuron < widths[key]:
                raise UnknownName("neuron", neuron, [f"0 to {widths[key] - 1}"])


def _as_frame(places: Places) -> pl.DataFrame:
    pairs: Iterable[tuple[int, int]] = ((key, neuron) for key, neurons in places.items() for neuron in neurons)
    return pl.DataFrame(list(pairs), schema={"sae_key": pl.UInt32, "neuron": pl.UInt32}, orient="row")
