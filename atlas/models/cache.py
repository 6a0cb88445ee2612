"""Where what was made of models once, and is needed again, is kept outside of atlas files."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir

VARIABLE = "ATLAS_CACHE"  # environment: another folder than the platform's for caches


def cache_folder() -> Path:
    """Where converted models and copies of encoders are kept: ATLAS_CACHE, else the platform's folder for caches."""
    return Path(os.environ.get(VARIABLE) or user_cache_dir("neuron-atlas", appauthor=False)).expanduser().absolute()
