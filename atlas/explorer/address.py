"""Links that restore a page: everything that a visitor set stands in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode


def link(path: str, **values: Any) -> str:
    """A path with the values that are set: None, False and empty ones are left out, lists give a value each."""
    kept = {name: value for name, value in values.items() if value is not False and value not in (None, "", [], ())}
    query = urlencode({name: _plain(value) for name, value in kept.items()}, doseq=True, quote_via=quote)
    return f"{path}?{query}" if query else path


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is True:
        return 1
    return f"{value:g}" if isinstance(value, float) else value


def neuron_link(sae_key: int, neuron: int) -> str:
    """The page of a neuron."""
    return f"/neuron/{int(sae_key)}/{int(neuron)}"


def selection(neurons: Mapping[int, list[int]]) -> str:
    """Neurons per SAE as a word of a link: 0:12,48;1:7."""
    return ";".join(f"{key}:{','.join(map(str, chosen))}" for key, chosen in neurons.items() if chosen)


def read_selection(text: str) -> dict[int, list[int]]:
    """What `selection` wrote; empty for a text that it did not write."""
    found: dict[int, list[int]] = {}
    for part in text.split(";"):
        key, _, numbers = part.partition(":")
        chosen = [int(number) for number in numbers.split(",") if number.isdecimal()]
        if key.isdecimal() and chosen:
            found.setdefault(int(key), []).extend(chosen)
    return found
