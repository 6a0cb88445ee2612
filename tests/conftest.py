"""Fixtures: one tiny model, its SAEs, the real sentence encoder and a built atlas, each made once."""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import tempfile
from multiprocessing import forkserver

os.environ["HF_HUB_OFFLINE"] = "1"  # tests never leave the machine
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ATLAS_PATIENCE"] = "0"  # who finds a file taken is told at once
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the cache of the process that started them
    CACHE = tempfile.TemporaryDirectory(prefix="atlas-cache-", ignore_cleanup_errors=True)
    os.environ["ATLAS_CACHE"] = CACHE.name

import pytest
import tiny
import torch

import atlas.building.build
from atlas.models.encoders import load_encoder
from atlas.models.loading import load_language_model, load_transformer
from atlas.store.file import Store
from atlas.texts.prompts import collect_texts

torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config):
    """A process per core, up to four, for the whole suite; none but this one for chosen files: each imports the libraries."""
    whole = set(config.args) <= set(config.getini("testpaths"))
    return min(len(os.sched_getaffinity(0)), 4) if whole else 0


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    return tiny.save_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory):
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def sae_folder(tmp_path_factory):
    return tiny.save_saes(tmp_path_factory.mktemp("saes"))


@pytest.fixture(scope="session")
def language_model(gpt2_folder):
    return load_language_model(str(gpt2_folder))


@pytest.fixture(scope="session")
def transformer(gpt2_folder):
    return load_transformer(str(gpt2_folder))[0]


@pytest.fixture(scope="session")
def encoder():
    return load_encoder()


@pytest.fixture(scope="session")
def loaders(language_model, encoder):
    """The real loaders, each thing loaded once."""
    models, encoders = functools.cache(load_language_model), functools.cache(load_encoder)
    return {"load_language_model": models, "load_encoder": encoders}


@pytest.fixture
def loaded_once(monkeypatch, loaders):
    """`build` takes models and encoders that are loaded already."""
    for name, loader in loaders.items():
        monkeypatch.setattr(atlas.building.build, name, loader)


@pytest.fixture(scope="session")
def built_atlas(tmp_path_factory, gpt2_folder, sae_folder, loaders):
    """An atlas of 60 prompts and two SAEs; take a copy (`atlas_file`) to change it."""
    path = tmp_path_factory.mktemp("built") / "tiny.atlas"
    with pytest.MonkeyPatch.context() as patch:
        for name, loader in loaders.items():
            patch.setattr(atlas.building.build, name, loader)
        atlas.building.build.build_atlas(
            path,
            collect_texts(tiny.PROMPTS),
            model=str(gpt2_folder),
            saes=[(str(sae_folder), "residual"), (str(sae_folder), "heads")],
        )
    return path


@pytest.fixture
def atlas_file(built_atlas, tmp_path):
    """A copy of the built atlas."""
    return shutil.copy(built_atlas, tmp_path / "tiny.atlas")


@pytest.fixture
def atlas_store(atlas_file):
    return Store(atlas_file)


@pytest.fixture(scope="session")
def elsewhere():
    """Call a function in a process of its own, forked from one that has imported the libraries: its exit code."""

    def call(function, *args):
        process = PROCESSES.Process(target=function, args=args)
        process.start()
        process.join()
        return process.exitcode

    return call


PROCESSES = multiprocessing.get_context("forkserver")


def pytest_collection_finish(session):
    """Let the process that `elsewhere` forks from import in the background."""
    if any("elsewhere" in item.fixturenames for item in session.items):
        PROCESSES.set_forkserver_preload(
            ["transformer_lens.model_bridge", "sae_lens", "sentence_transformers", "atlas.building.build"]
        )
        forkserver.ensure_running()
