"""What hashes of weights and vocabularies are made of, without a model library: see atlas.models.fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

SAMPLED = 1 << 20  # values per tensor that go into a hash
LINE = 'The quick brown fox, 1984: it\'s "Übermut"!'  # how a tokenizer splits it is part of its hash


def sampling_step(values: int) -> int:
    """Every how many values of a tensor one is read, so that at most about SAMPLED are."""
    return max(1, values // SAMPLED)


def digest_sample(shape: Sequence[int], sample: bytes) -> bytes:
    """The digest of a tensor, given some of its values in bfloat16."""
    return hashlib.sha256(repr(tuple(shape)).encode() + sample).digest()


def digest_array(values: np.ndarray) -> bytes:
    """The digest of a 32-bit array: the same as of a tensor with its values."""
    flat = values.reshape(-1)
    bits = np.ascontiguousarray(flat[:: sampling_step(flat.size)]).view(np.uint32)
    rounded = (bits + ((bits >> 16 & 1) + np.uint32(0x7FFF))) >> 16  # to the nearest bfloat16, to the even one of two
    return digest_sample(values.shape, rounded.astype(np.uint16).tobytes())


def join_digests(digests: Iterable[bytes]) -> str:
    """The hash of tensors, whatever their order."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def hash_words(vocabulary: Mapping[str, int], ids: Iterable[int]) -> str:
    """The hash of a tokenizer: its vocabulary, and its token ids of LINE without special tokens."""
    return hashlib.sha256(repr((sorted(vocabulary.items()), list(ids))).encode()).hexdigest()


def join_hashes(weights: str, words: str) -> str:
    """The hash of a sentence encoder, of those of its weights and of its vocabulary."""
    return hashlib.sha256((weights + words).encode()).hexdigest()
