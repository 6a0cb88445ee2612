"""Is this the model, SAE and encoder the atlas was built with, and is its build finished?"""

from __future__ import annotations

from typing import Any

from atlas.errors import StoreError
from atlas.store.file import Store
from atlas.store.session import Session


def require_complete(session: Session, store: Store) -> dict[str, Any]:
    """The row of `atlas`; StoreError while the build is unfinished."""
    rows = session.ask("atlas_row").to_dicts()
    if not rows or rows[0]["state"] != "complete":
        pending = session.ask("atlas_size").item(0, "pending_shards")
        raise StoreError(
            f"{store.path} is unfinished ({pending} pieces to go): run the same `atlas build` command again to go on"
        )
    return rows[0]
