"""What an atlas file says of itself: is its build finished, and which SAE does a name mean?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.store.file import Store
from atlas.store.session import Asks


def require_complete(session: Asks, store: Store) -> dict[str, Any]:
    """The row of `atlas`; StoreError while the build is unfinished."""
    rows = session.rows("atlas_row")
    if not rows or rows[0]["state"] != "complete":
        pending = session.ask("atlas_size").item(0, "pending_shards")
        raise StoreError(
            f"{store.path} is unfinished ({pending} pieces to go): run the same `atlas build` command again to go on"
        )
    return rows[0]


def find_sae_key(session: Asks, sae_id: str | int) -> int:
    """The key of an SAE given by its SAELens id or its key; UnknownName, or AtlasError when two have the id."""
    rows = session.rows("all_saes")
    found = [row["sae_key"] for row in rows if str(sae_id) in (row["sae_id"], str(row["sae_key"]))]
    if not found:
        raise UnknownName("SAE", sae_id, [row["sae_id"] for row in rows])
    if len(found) > 1:
        raise AtlasError(f"SAE {sae_id!r} is there {len(found)} times: give its key instead, one of {found}")
    return int(found[0])


def find_sae_keys(store: Store, sae_ids: Sequence[str | int] | None) -> list[int] | None:
    """The keys of SAEs given by ids or keys; None for None."""
    if sae_ids is None:
        return None
    with store.read() as session:
        return [find_sae_key(session, one) for one in sae_ids]
