"""Copies of sentence encoders in the cache, run by ONNX Runtime: texts become vectors without the libraries of training.

A copy is a folder named by the encoder's hash. Its graph has no weights of its own: they lie beside it, and each time they are
read the encoder's hash is computed from the very arrays that the graph is given, and from the tokenizer that cuts the texts. It is
the same hash that a loaded encoder has (atlas.models.fingerprints), so that a copy is known as surely as the encoder itself.
atlas.models.encoder_export makes copies, and keeps only those that give the encoder's own vectors.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atlas.models.cache import cache_folder
from atlas.models.digests import LINE, digest_array, hash_words, join_digests, join_hashes

VERSION = 1  # to be raised when copies are made otherwise: those of before stay unused
SETTINGS, GRAPH, WEIGHTS, TOKENIZER, VECTORS = (
    "copy.json",
    "graph.onnx",
    "weights.safetensors",
    "tokenizer.json",
    "vectors.npy",
)
RUNTIME = "onnxruntime"
BATCH = 32  # texts at once
TOLERANCE = 1e-5  # between a value of a copy's vector and the encoder's
PROBES = (
    "",
    "  spaces\tand\nlines around \n",
    "A ship came into the harbour, and the wind was cold.",
    "Müller's café: ½ of 1,234.5 €, naïve — “quoted”; e\u0301 e\u0301",
    "医生说病人需要休息。 יום טוב 🙂🚢",
    "[CLS] not </s> a special [SEP] token <pad>",
    "supercalifragilisticexpialidocious" * 20,
    "word and other words " * 400,
)  # texts on which a copy has to agree with its encoder


class DamagedCopy(Exception):
    """The files of a copy are not what they were when it was made; never leaves this room."""


@dataclass(frozen=True)
class EncoderCopy:
    """What a copy computes; it stands where a loaded encoder has its SentenceTransformer.

    Attributes:
        session: of ONNX Runtime.
        cutting: the tokenizer, which cuts a text at `max_seq_length` and pads those of a batch.
        max_seq_length: tokens of the longest text that is read whole; None for no limit.
    """

    session: Any
    cutting: Any
    max_seq_length: int | None

    def encode(self, texts: Sequence[str], **_: object) -> np.ndarray:
        """Embeddings of length 1 [text, dimension]; whatever else a SentenceTransformer takes stays as it is always used here."""
        order = sorted(
            range(len(texts)), key=lambda number: -len(texts[number])
        )  # those of one batch are about as long
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH]
            found.update(zip(numbers, self._run([texts[number] for number in numbers]), strict=True))
        return np.stack([found[number] for number in range(len(texts))]) if texts else np.zeros((0, 0), np.float32)

    def tokenizer(self, texts: Sequence[str], **_: object) -> dict[str, list[list[int]]]:
        """The token ids of whole texts, as `input_ids`."""
        return {"input_ids": [one.ids for one in self._whole.encode_batch(list(texts))]}

    def _run(self, texts: list[str]) -> np.ndarray:
        tokens = self.cutting.encode_batch(texts)
        columns = {
            "input_ids": [one.ids for one in tokens],
            "attention_mask": [one.attention_mask for one in tokens],
            "token_type_ids": [one.type_ids for one in tokens],
        }
        given = {one.name: np.array(columns[one.name], dtype=np.int64) for one in self.session.get_inputs()}
        vectors = self.session.run(None, given)[0]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer that cuts nothing."""
        from tokenizers import Tokenizer

        whole = Tokenizer.from_str(self.cutting.to_str())
        whole.no_truncation()
        whole.no_padding()
        return whole


def copy_folder(encoder_hash: str) -> Path | None:
    """Where the copy of an encoder is kept; None for a hash that is none."""
    if not re.fullmatch("[0-9a-f]{64}", encoder_hash):
        return None
    return cache_folder() / "encoders" / f"{encoder_hash}-{VERSION}"


def find_copy(encoder_hash: str, tell: Callable[[str], None]) -> EncoderCopy | None:
    """The copy of an encoder; None where there is none that can be used.

    Args:
        encoder_hash: of the encoder.
        tell: called with a line when there is one that is damaged.
    """
    folder = copy_folder(encoder_hash)
    if folder is None or not _installed() or not folder.is_dir() or refusal(folder):
        return None
    try:
        return read_copy(folder, encoder_hash)
    except DamagedCopy as error:
        tell(f"the copy of the sentence encoder in {folder} is not used ({error}); it is made anew")
        return None


def read_copy(folder: Path, encoder_hash: str) -> EncoderCopy:
    """A copy from its folder; DamagedCopy where it is not the encoder of this hash, or gives other vectors than it."""
    import onnxruntime

    settings = read_settings(folder)
    try:
        graph = (folder / GRAPH).read_bytes()
        if hashlib.sha256(graph).hexdigest() != settings["graph"]:
            raise DamagedCopy("its graph was changed")
        weights = _read_weights(folder / WEIGHTS)
        tokenizer = _read_tokenizer(folder / TOKENIZER)
        if _fingerprint(weights, tokenizer, settings["unused"]) != encoder_hash:
            raise DamagedCopy("its weights or its vocabulary are not the encoder's")
        _let_cut(tokenizer, settings)
        copy = EncoderCopy(_start(graph, weights), tokenizer, settings["max_seq_length"])
        if settings["runtime"] != onnxruntime.__version__:
            require_agreement(copy, np.load(folder / VECTORS, allow_pickle=False))
    except DamagedCopy:
        raise
    except Exception as error:  # of whatever library: the files are not what they were
        raise DamagedCopy(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error
    return copy


def require_agreement(copy: EncoderCopy, vectors: np.ndarray) -> None:
    """Raise DamagedCopy where a copy gives PROBES, together and each alone, other vectors than the encoder's own."""
    alone = np.concatenate([copy.encode([text]) for text in PROBES])
    apart = max(_largest_difference(found, vectors) for found in (copy.encode(PROBES), alone))
    if apart > TOLERANCE:
        raise DamagedCopy(f"its vectors are {apart:.1e} from the encoder's")


def _largest_difference(found: np.ndarray, vectors: np.ndarray) -> float:
    """Between values of two arrays; NaN where both have it, as encoders give for a text without a token, is no difference."""
    if found.shape != vectors.shape or not np.array_equal(np.isnan(found), np.isnan(vectors)):
        return float("inf")
    return float(np.nan_to_num(np.abs(found - vectors)).max())


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a copy; DamagedCopy where they cannot be read."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCopy(f"its {SETTINGS} cannot be read") from error
    if not isinstance(settings, dict):
        raise DamagedCopy(f"its {SETTINGS} holds no settings")
    return settings


def refusal(folder: Path) -> str | None:
    """Why an encoder has no copy, where that was found out; else None."""
    try:
        found = read_settings(folder).get("refused")
    except DamagedCopy:
        return None
    return None if found is None else str(found)


def describe_embedding(encoder_hash: str) -> str:
    """What embeds texts by an encoder, in words."""
    folder = copy_folder(encoder_hash)
    if not _installed():
        return "sentence_transformers; pip install 'neuron-atlas[onnx]' lets commands start faster"
    if folder is None or not folder.is_dir():
        return (
            f"sentence_transformers, until a command that embeds has put a copy for ONNX Runtime into {cache_folder()}"
        )
    reason = refusal(folder)
    if reason:
        return f"sentence_transformers, for no copy for ONNX Runtime could be made ({reason})"
    return f"ONNX Runtime, from the encoder's copy in {folder}"


def _installed() -> bool:
    return importlib.util.find_spec(RUNTIME) is not None


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    weights = load_file(path)
    if any(values.dtype != np.float32 for values in weights.values()):
        raise DamagedCopy("its weights are not of 32 bits")
    return weights


def _read_tokenizer(path: Path) -> Any:
    """A tokenizer that neither cuts nor pads."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _let_cut(tokenizer: Any, settings: Mapping[str, Any]) -> None:
    tokenizer.enable_padding(**settings["padding"])
    if settings["max_seq_length"] is not None:
        tokenizer.enable_truncation(settings["max_seq_length"], direction=settings["truncation_side"])


def _fingerprint(weights: Mapping[str, np.ndarray], tokenizer: Any, unused: Sequence[str]) -> str:
    """The encoder's hash, of its weights and tokenizer, and of the digests of the weights that its vectors do not need."""
    digests = [*map(digest_array, weights.values()), *map(bytes.fromhex, unused)]
    ids = tokenizer.encode(LINE, add_special_tokens=False).ids
    return join_hashes(join_digests(digests), hash_words(tokenizer.get_vocab(), ids))


def _start(graph: bytes, weights: Mapping[str, np.ndarray]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # waiting threads leave the processor to others
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(one) for one in weights.values()]
    options.add_external_initializers(list(weights), values)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
