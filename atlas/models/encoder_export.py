"""Make the copies of sentence encoders that ONNX Runtime runs: see atlas.models.encoder_copies.

A copy is written under another name first: it is there whole or not at all, whoever else makes one or is killed. An encoder that
cannot be copied, or whose copy gives other vectors, is remembered as one, with the reason.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import logging
import math
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from atlas.models.encoder_copies import (
    GRAPH,
    PROBES,
    RUNTIME,
    SETTINGS,
    TOKENIZER,
    VECTORS,
    WEIGHTS,
    DamagedCopy,
    copy_folder,
    read_copy,
    refusal,
    require_agreement,
)
from atlas.models.encoders import Encoder
from atlas.models.fingerprints import digest_tensor
from atlas.models.quiet import quiet
from atlas.progress import Progress, silent

EXPORTER = "onnxscript"  # what torch.onnx needs
STAGE = "copying the sentence encoder, so that later commands start faster"


class NotCopied(Exception):
    """Why an encoder cannot be copied; never leaves this module."""


def keep_copy(encoder: Encoder, progress: Progress = silent, *, anew: bool = False) -> None:
    """Put a copy of a loaded encoder into the cache, unless it is there, or cannot be made or written.

    Args:
        encoder: as it was loaded.
        progress: called once when a copy is made.
        anew: whether a copy that is there is damaged, and replaced.
    """
    folder = copy_folder(encoder.encoder_hash)
    if folder is None or any(importlib.util.find_spec(name) is None for name in (RUNTIME, EXPORTER)):
        return
    try:
        if folder.is_dir() and not anew:
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # who copies the same encoder waits, and finds it done
            if anew and folder.is_dir() and not refusal(folder):
                shutil.rmtree(folder)
            if not folder.is_dir():
                progress(STAGE, 0, 0)
                _write_whole(encoder, folder)
    except OSError:
        return  # the cache cannot be written: `atlas info` says that there is no copy


def _write_whole(encoder: Encoder, folder: Path) -> None:
    """Write a copy under another name, and give the folder its own when the copy was found to be right."""
    for left in folder.parent.glob(f".{folder.name}.*"):  # by one that was killed: nobody else is at it, by the lock
        shutil.rmtree(left)
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    partial.mkdir()
    try:
        try:
            with _without_a_word():
                _write(encoder, partial)
        except OSError:
            raise
        except (NotCopied, DamagedCopy) as error:
            _refuse(partial, str(error))
        except Exception as error:  # of torch's exporter, whichever it does not know
            _refuse(partial, f"{type(error).__name__} in its export")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _refuse(folder: Path, reason: str) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / SETTINGS).write_text(json.dumps({"refused": reason}), encoding="utf-8")


def _write(encoder: Encoder, folder: Path) -> None:
    import onnxruntime
    import torch
    from safetensors.numpy import save_file

    model = encoder.model
    backend = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    if backend is None:
        raise NotCopied("its tokenizer is not one of the package tokenizers")
    if getattr(model, "default_prompt_name", None) is not None:
        raise NotCopied("it puts words of its own before a text")
    for weight in model.state_dict().values():
        if weight.dtype != torch.float32:
            raise NotCopied(f"its weights are of {weight.dtype}".replace("torch.", ""))
    model = copy.deepcopy(model).to("cpu").eval()
    graph, weights = _export(model)
    save_file(weights, folder / WEIGHTS)
    (folder / GRAPH).write_bytes(graph)
    backend.save(str(folder / TOKENIZER))
    vectors = encoder.embed(PROBES)
    np.save(folder / VECTORS, vectors)
    used = {name: tensor for name, tensor in model.state_dict().items() if name in weights}
    unused = [digest_tensor(tensor).hex() for name, tensor in model.state_dict().items() if name not in used]
    limit = getattr(model, "max_seq_length", None)
    settings = {
        "encoder": encoder.name,
        "graph": hashlib.sha256(graph).hexdigest(),
        "unused": unused,
        "max_seq_length": int(limit) if limit is not None and math.isfinite(limit) else None,
        "truncation_side": model.tokenizer.truncation_side,
        "padding": _padding(model.tokenizer),
        "runtime": onnxruntime.__version__,
    }
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    require_agreement(read_copy(folder, encoder.encoder_hash), vectors)


def _padding(tokenizer: Any) -> dict[str, Any]:
    if tokenizer.pad_token is None:
        raise NotCopied("its tokenizer has no token to pad with")
    return {
        "direction": tokenizer.padding_side,
        "pad_id": tokenizer.pad_token_id,
        "pad_type_id": tokenizer.pad_token_type_id,
        "pad_token": tokenizer.pad_token,
    }


def _export(model: Any) -> tuple[bytes, dict[str, np.ndarray]]:
    """A model's graph without its weights, and these, by the names that both have for them."""
    import torch

    tokens = model.tokenizer(["a ship on the sea", "harbour"], padding=True, return_tensors="pt")
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in tokens]

    class ByTokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            return self.encoder(dict(zip(names, values, strict=True)))["sentence_embedding"]

    free = torch.export.Dim.DYNAMIC
    program: Any = torch.onnx.export(
        ByTokens().eval(),
        tuple(tokens[name] for name in names),
        input_names=names,
        output_names=["sentence_embedding"],
        dynamic_shapes=(tuple({0: free, 1: free} for _ in names),),
        dynamo=True,
        optimize=False,  # by ONNX Runtime when it starts: here weights would be turned, and no more be known by their hash
        verbose=False,
    )
    proto, weights = program.model_proto, dict[str, np.ndarray]()
    own = model.state_dict()
    for tensor in proto.graph.initializer:
        name = tensor.name.removeprefix("encoder.")
        if name in own:
            weights[name] = _take_out(tensor, own[name])
            tensor.name = name
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        for place, name in enumerate(node.input):
            node.input[place] = name.removeprefix("encoder.") if name.removeprefix("encoder.") in weights else name
    del proto.graph.value_info[:]
    return proto.SerializeToString(), weights


def _take_out(tensor: Any, weight: Any) -> np.ndarray:
    """Take the values out of a tensor of a graph, which the copy gives it again; the weight itself."""
    tensor.ClearField("raw_data")
    tensor.data_location = type(tensor).EXTERNAL
    place = tensor.external_data.add()
    place.key, place.value = "location", WEIGHTS
    return np.ascontiguousarray(weight.detach().numpy())


@contextmanager
def _without_a_word() -> Iterator[None]:
    """The exporter's chatter goes nowhere; it logs to a stream that it took when it was imported."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)
