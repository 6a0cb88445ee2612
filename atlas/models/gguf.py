"""Language models in GGUF files: dequantised once into a folder of the cache, and loaded from there like any other.

The folder is named by the file's SHA-256, so that a file that moved is known again and one that changed is not taken for
the old one. It is written under another name first: it is there whole or not at all, whoever else converts or is killed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from atlas.errors import ModelError
from atlas.models.cache import VARIABLE, cache_folder
from atlas.models.checkpoints import load_weights, model_class
from atlas.models.gguf_header import GgufHeader, read_header
from atlas.models.load_failures import loading
from atlas.models.quiet import quiet

CONVERSION = 1  # to be raised when the same file would be converted otherwise: folders of older conversions stay unused
DIGITS_APART = (
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
    "minerva-7b",
)  # names of such rules
SOURCE = "source.json"  # in the folder: which file it was
DAMAGED = "get the file again from where it came"
BYTES = 4  # of a value, as it is stored: float32 holds every quantised value exactly


def convert_gguf(path: Path) -> Path:
    """The folder with a GGUF file's model, tokenizer and chat template; converted unless it is there already.

    Raises:
        ModelError: the package gguf is missing, the file is damaged, its architecture or quantisation is not supported, or
            the cache cannot be written.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{path} is a GGUF file: pip install 'neuron-atlas[gguf]' brings what reads it")
    try:
        folder = cache_folder() / "gguf" / f"{_hash_file(path)}-{CONVERSION}"
        if folder.is_dir():
            return folder
        header = read_header(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # who converts the same file waits, and finds it done
            if not folder.is_dir():
                _require_readable(path, header)
                _write_whole(path, folder)
    except OSError as error:
        raise ModelError(
            f"cannot keep the model of {path} in {cache_folder()} ({error.strerror or error}): name another folder with "
            f"{VARIABLE}"
        ) from error
    return folder


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_readable(path: Path, header: GgufHeader) -> None:
    """Raise ModelError for a file whose tensors are not all there, of an unknown kind, or more than the disk holds."""
    import gguf

    readable = {int(kind): gguf.GGML_QUANT_SIZES[kind] for kind in gguf.GGMLQuantizationType if _is_readable(kind)}
    for name, tensor in header.tensors.items():
        if tensor.kind not in readable:
            known = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
            raise ModelError(
                f"cannot load language model {path}: tensor {name} is stored as {known.get(tensor.kind, tensor.kind)}, which "
                f"is not supported; supported are {', '.join(known[kind] for kind in readable)}"
            )
        block, size = readable[tensor.kind]
        end = tensor.offset + tensor.elements * size // block
        if end > header.size:
            raise ModelError(
                f"GGUF file {path} is cut off: tensor {name} ends at byte {end:,} of {header.size:,}; get it again from "
                "where it came"
            )
    blocks = header.values.get(f"{header.architecture}.block_count", 0)
    if not isinstance(blocks, int) or not 0 <= blocks <= len(header.tensors):
        raise ModelError(
            f"GGUF file {path} is damaged: it says that it has {blocks} layers in {len(header.tensors)} tensors"
        )
    if header.values.get("split.count", 0) not in (0, 1):
        raise ModelError(f"{path} is one of several files of a model: join them with llama-gguf-split --merge")
    needed = BYTES * sum(tensor.elements for tensor in header.tensors.values())
    free = shutil.disk_usage(cache_folder()).free
    if needed > free:
        raise ModelError(
            f"dequantised, the model of {path} takes {needed / 1e9:,.1f} GB, and {cache_folder()} has {free / 1e9:,.1f} GB "
            f"left: name another folder with {VARIABLE}"
        )


def _is_readable(kind: Any) -> bool:
    """Whether the package gguf can dequantise a kind of tensor: it says so of a block of zeros."""
    import gguf
    import numpy as np

    _, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros(size, dtype=np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def _write_whole(path: Path, folder: Path) -> None:
    """Convert under another name, and give the folder its own when all of it is on the disk."""
    for left in folder.parent.glob(f".{folder.name}.*"):  # by one that was killed: nobody else is at it, by the lock
        shutil.rmtree(left, ignore_errors=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        _convert(path, draft)
        for file in (*draft.iterdir(), draft):
            if file.is_file():
                file.chmod(draft.stat().st_mode & 0o666)  # Transformers lets nobody else read its weights
            _sync(file)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, where locks do not hold
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the disk hold a file or folder before the next step; folders cannot be opened on every platform."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _convert(path: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer into a folder as Transformers does, without any trace of a quantisation."""
    header = read_header(path)
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    with quiet():
        from transformers import AutoConfig, AutoTokenizer

        with loading(
            "language model", str(path), hint=f"supported architectures are {', '.join(_supported_architectures())}"
        ):
            config = AutoConfig.from_pretrained(str(path.parent), **where)
            auto = model_class(config)
        with loading("language model", str(path), hint=DAMAGED):
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **where)
            _split_digits(tokenizer, str(header.values.get("tokenizer.ggml.pre", "")))
            model = _dequantised(auto, config, path, where)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    (folder / SOURCE).write_text(json.dumps({"file": path.name, "conversion": CONVERSION}) + "\n", encoding="utf-8")


def _supported_architectures() -> list[str]:
    """The names that Transformers knows, of those families that generate text."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(
        set(modeling_gguf_pytorch_utils.GGUF_SUPPORTED_ARCHITECTURES) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    )


def _dequantised(auto: Any, config: Any, path: Path, where: Mapping[str, Any]) -> Any:
    """A GGUF file's model in a fresh one of the same kind: what was loaded from GGUF refuses to be saved."""
    import torch
    from transformers import GgufConfig

    plain = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    loaded = load_weights(auto, str(path.parent), **where, **plain)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):  # weights that are replaced at once need no memory
        model = auto.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model


def _split_digits(tokenizer: Any, rule: str) -> None:
    """Cut numbers into digits first where a file says that its vocabulary was learned so: Transformers overlooks it."""
    from tokenizers import pre_tokenizers

    if rule in DIGITS_APART:
        inside = tokenizer.backend_tokenizer
        inside.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), inside.pre_tokenizer]
        )
