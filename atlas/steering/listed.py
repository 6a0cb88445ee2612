"""Lists of neurons (atlas.meaning.notes) that steer in a topic's stead, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from atlas.errors import AtlasError, UnknownName
from atlas.steering.targets import Chosen
from atlas.store.file import Store
from atlas.store.session import Asks


class Listed(NamedTuple):
    """What steers: a topic, or else neurons, and the list that they stand in.

    Attributes:
        topic: the topic; None where neurons steer, or a vector alone.
        chosen: the neurons per key of their SAE; None where a topic or a vector alone steers.
        name: the list; None where it is no list.
    """

    topic: str | None
    chosen: Chosen | None
    name: str | None = None


def find_source(
    store: Store, topic: str | None, chosen: Chosen | str | None, sae_keys: Sequence[int] | None = None
) -> Listed:
    """What steers, where neurons may be named by their list, and a topic's name may be that of a list.

    A topic goes before a list of the same name, which `chosen` says then.

    Args:
        store: the atlas.
        topic: a topic, or a list; None for none.
        chosen: neurons, or the name of their list; None or empty for none.
        sae_keys: leaves the neurons of these SAEs of a list; None for all.

    Raises:
        UnknownName: there is no such list.
        AtlasError: the list has no neuron of these SAEs, or a topic is named beside it.
    """
    if chosen and not isinstance(chosen, str):
        return Listed(topic, chosen)
    if not chosen and topic is None:
        return Listed(None, None)
    if chosen and topic is not None:
        raise AtlasError(f"either topic {topic!r} or list {chosen!r} steers: give - as the topic, or no list")
    with store.read() as session:
        lists = session.ask("note_lists")["list"].to_list()
        name = str(chosen or topic)
        if not chosen and (name not in lists or _is_topic(session, name)):
            return Listed(topic, None)
        if name not in lists:
            raise UnknownName("list", name, lists)
        return Listed(None, _neurons_of(session, name, sae_keys), name)


def _is_topic(session: Asks, name: str) -> bool:
    return name in session.ask("all_topics")["name"].to_list()


def _neurons_of(session: Asks, name: str, sae_keys: Sequence[int] | None) -> dict[int, list[int]]:
    """The neurons of a list per SAE, those that were put into it first before the others."""
    rows = session.ask("notes_of_lists", list=name).sort("created_at", maintain_order=True)
    found: dict[int, list[int]] = {}
    for key, neuron in rows.select("sae_key", "neuron").iter_rows():
        if sae_keys is None or key in sae_keys:
            found.setdefault(key, []).append(neuron)
    if not found:
        raise AtlasError(f"list {name!r} has no neuron of the SAEs that are to steer: name another list, or no SAE")
    return dict(sorted(found.items()))
