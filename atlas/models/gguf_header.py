"""What the header of a GGUF file says, read within the bounds of the file: whoever made it may have meant harm.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from atlas.errors import ModelError, shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # of plain values
STRING, ARRAY = 8, 9
ALIGNMENT = 32  # of the tensors, where a file does not say
Value = str | int | float | bool


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file.

    Attributes:
        kind: number of its quantisation.
        elements: how many values it has.
        offset: where it begins, from the beginning of the file.
    """

    kind: int
    elements: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """A GGUF file without the values of its tensors.

    Attributes:
        architecture: what llama.cpp calls the model's family.
        values: key -> value; arrays are left out.
        tensors: name -> tensor.
        size: bytes of the file.
    """

    architecture: str
    values: Mapping[str, Value]
    tensors: Mapping[str, StoredTensor]
    size: int


class _Damage(Exception):
    """The header ends before it should, or says what cannot be."""


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    with _opened(path) as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file; ModelError for a file that is none, is cut off, or contradicts itself."""
    with _opened(path) as file:
        size = path.stat().st_size
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{path} is not a GGUF file: it does not begin with GGUF")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data, size).header()
        except _Damage as damage:
            raise ModelError(
                f"GGUF file {path} is cut off or damaged ({damage}): get it again from where it came"
            ) from damage


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}): name a file that can be read") from error


class _Reader:
    """Reads on from the beginning of a file, and never past its end."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data, self._size, self._place = data, size, len(MAGIC)

    def header(self) -> GgufHeader:
        (version,) = self._take("I")
        if version not in VERSIONS:
            kind = "big-endian, which" if version & 0xFFFF == 0 else f"GGUF of version {version}, which"
            raise _Damage(f"it is {kind} is not supported; supported are versions 2 and 3 in little-endian order")
        tensor_count, value_count = self._take("QQ")
        values: dict[str, Value] = {}
        for _ in range(value_count):
            key = self._string()
            value = self._value()
            if key in values:
                raise _Damage(f"it says {shown(key)} twice")
            if value is not None:
                values[key] = value
        found = [self._tensor() for _ in self._counted(tensor_count, 24)]
        start = self._aligned(values.get("general.alignment", ALIGNMENT))
        tensors = {name: StoredTensor(kind, elements, start + offset) for name, kind, elements, offset in found}
        if len(tensors) != len(found):
            raise _Damage("it has two tensors of one name")
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise _Damage("it names no architecture")
        return GgufHeader(architecture, values, tensors, self._size)

    def _take(self, layout: str) -> tuple[int, ...]:
        size = struct.calcsize(f"<{layout}")
        if self._place + size > self._size:
            raise _Damage("its header goes on behind its end")
        found = struct.unpack_from(f"<{layout}", self._data, self._place)
        self._place += size
        return found

    def _skip(self, size: int) -> None:
        if self._place + size > self._size:
            raise _Damage("its header goes on behind its end")
        self._place += size

    def _counted(self, count: int, least: int) -> range:
        """`count` times, where each takes at least so many bytes."""
        if count * least > self._size:
            raise _Damage(f"it counts {shown(count)} things, more than it has room for")
        return range(count)

    def _string(self) -> str:
        (length,) = self._take("Q")
        start = self._place
        self._skip(length)
        try:
            return bytes(self._data[start : self._place]).decode()
        except UnicodeDecodeError as error:
            raise _Damage("a text in its header is not UTF-8") from error

    def _value(self) -> Value | None:
        (kind,) = self._take("I")
        if kind == STRING:
            return self._string()
        if kind in FORMATS:
            return self._take(FORMATS[kind])[0]
        if kind != ARRAY:
            raise _Damage(f"a value in its header is of the unknown type {kind}")
        element, count = self._take("IQ")
        if element in FORMATS:
            self._skip(count * struct.calcsize(f"<{FORMATS[element]}"))
        elif element == STRING:
            for _ in self._counted(count, 8):
                (length,) = self._take("Q")
                self._skip(length)
        else:
            raise _Damage(f"its header has an array of type {element}, which is not supported")
        return None

    def _tensor(self) -> tuple[str, int, int, int]:
        name = self._string()
        (dimensions,) = self._take("I")
        if dimensions > 8:
            raise _Damage(f"tensor {shown(name)} has {dimensions} dimensions")
        elements = 1
        for size in self._take(f"{dimensions}Q"):
            elements *= size
        kind, offset = self._take("IQ")
        return name, kind, elements, offset

    def _aligned(self, alignment: Value) -> int:
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise _Damage(f"its alignment is {shown(alignment)}, no power of two")
        return -(-self._place // alignment) * alignment
