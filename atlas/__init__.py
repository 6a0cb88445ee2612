"""A database-backed atlas of SAE neurons: score every neuron against any topic, in SQL, and steer with the scores.

import atlas
a = atlas.open("pocket.atlas")
a.top("medicine")
with a.steer(model, "medicine", method="add"):
    model.generate(...)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError, ModelError, PromptError, StoreError, UnknownName

if TYPE_CHECKING:
    from atlas.api import Atlas, open
    from atlas.models.places import find_model

__version__ = "0.1.0"
__all__ = ["Atlas", "AtlasError", "ModelError", "PromptError", "StoreError", "UnknownName", "find_model", "open"]

_FOLDER = Path(__file__).parent
_IN_CHECKOUT = all((_FOLDER.parent / name).exists() for name in ("pyproject.toml", "sql/schema.sql"))
if _IN_CHECKOUT and not (_FOLDER / "sql").exists():
    __path__.append(str(_FOLDER.parent))  # atlas.cli, atlas.sql and atlas.data lie beside this folder, not in it


def __getattr__(name: str) -> Any:
    """`open`, `Atlas` and `find_model` are imported when they are first used, so that `import atlas` stays light."""
    if name in ("Atlas", "open"):
        from atlas import api

        return getattr(api, name)
    if name == "find_model":
        from atlas.models import places

        return places.find_model
    raise AttributeError(f"module 'atlas' has no attribute {name!r}")
