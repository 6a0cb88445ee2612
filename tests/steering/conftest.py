"""What tests of steering share."""

from __future__ import annotations

import shutil

import pytest
import tiny

import atlas
from atlas.models.recorded import RecordedModels


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, built_atlas):
    """The models of a copy of the built atlas, a module's own, with the topic medicine scored."""
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("steered") / "tiny.atlas")
    opened = atlas.open(path)
    opened.score("medicine", tiny.MEDICINE)
    return RecordedModels(opened.store)
