"""The sentence encoder that an atlas was built with, without the libraries of training where that can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from atlas.models.encoder_copies import find_copy

if TYPE_CHECKING:
    from atlas.models.encoders import Encoder


def recorded_encoder(recorded: Mapping[str, object], named: str | None, tell: Callable[[str], None]) -> Encoder:
    """The sentence encoder of an atlas: its copy where there is one, else loaded, checked, and copied for the next time.

    Args:
        recorded: the atlas's row.
        named: where the encoder is now; it is loaded from there, whatever copy there is. None for where it was at build.
        tell: called with a line about a copy that is damaged.

    Raises:
        StoreError: the encoder that is named is another one.
    """
    from atlas.models.encoders import Encoder, check_encoder, load_encoder

    damaged = list[str]()
    name, known = str(recorded["encoder"]), str(recorded["encoder_hash"])
    copied = find_copy(known, damaged.append) if named in (None, name) else None
    if copied is not None:
        return Encoder(name, "copy", known, copied)
    for line in damaged:
        tell(line)
    encoder = load_encoder(named or name)
    check_encoder(encoder, recorded)
    from atlas.models.encoder_export import keep_copy

    keep_copy(encoder, anew=bool(damaged))
    return encoder
