"""Read explanations of neurons as Neuronpedia exports them: lines of JSON in .jsonl or .jsonl.gz files, one or a folder of them.

Each line has `modelId`, `layer` (the source, such as `8-res-jb`), `index` (the neuron, as a text) and `description`; what else it
has is left alone. A file may come from anybody: it is read a line at a time, and a line or a text beyond all measure is refused.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from atlas.errors import PromptError, shown
from atlas.texts.prompts import is_blank

ENDINGS = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
FIELDS = ("modelId", "layer", "index", "description")
LONGEST_LINE = 1 << 20  # bytes; a line with its embedding has some thousand
LONGEST_TEXT = 10_000  # characters of an explanation
NUMBER = re.compile("[0-9]{1,9}")
UNWRITABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Explanation:
    """An explanation of a neuron.

    Attributes:
        source: Neuronpedia's id of the SAE: model and layer, such as `gpt2-small/8-res-jb`.
        neuron: its number.
        text: what it says.
        made: when, as the file writes it; empty where it does not say.
        place: file and line, for messages.
    """

    source: str
    neuron: int
    text: str
    made: str
    place: str


def explanation_files(path: Path) -> list[Path]:
    """The files of explanations at a path, those of a folder in the order of their numbers; PromptError where there is none."""
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*"), key=_by_number) if _is_one(file)]
        if not found:
            raise PromptError(f"{path} holds no {', '.join(ENDINGS)} file: name the folder of an export's batches")
        return found
    if not path.is_file():
        raise PromptError(f"no such file {str(path)[:300]}: name a file or a folder of explanations")
    if not _is_one(path):
        raise PromptError(f"{path}: unknown ending {path.suffix!r}, use one of {', '.join(ENDINGS)}")
    return [path]


def read_explanations(path: str | Path) -> Iterator[Explanation]:
    """The explanations of a file or folder, one by one; those that say nothing are passed over.

    Raises:
        PromptError: a file is missing, damaged, not UTF-8, or a line is no explanation.
    """
    for file in explanation_files(Path(path)):
        try:
            with _open(file) as stream:
                yield from _read_lines(file, stream)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise PromptError(f"{file} is damaged ({error}): get it again from where it came") from error
        except OSError as error:
            raise PromptError(f"{file} cannot be read ({error.strerror or error}): check the file") from error


def _is_one(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def _by_number(path: Path) -> tuple[str, int, str]:
    """Batch 2 comes before batch 10."""
    numbers = re.findall(r"\d+", path.name)
    return str(path.parent), int(numbers[-1][:18]) if numbers else -1, path.name


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _read_lines(path: Path, stream: IO[bytes]) -> Iterator[Explanation]:
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        place = f"{path}: line {number}"
        if len(line) > LONGEST_LINE:
            raise PromptError(f"{place} is longer than {LONGEST_LINE:,} bytes, so it is no explanation: check the file")
        if line.strip():
            found = _as_explanation(_parse(line, place), place)
            if not is_blank(found.text):
                yield found


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PromptError(f"{place} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{place} is no JSON ({str(error)[:100]}): give a JSON object per line") from error
    if not isinstance(row, dict):
        raise PromptError(f"{place} is {shown(row)}: give a JSON object per line")
    lacking = [name for name in FIELDS if name not in row]
    if lacking:
        raise PromptError(
            f"{place} has no {lacking[0]}: name an export of explanations, which have {', '.join(FIELDS)}"
        )
    return row


def _as_explanation(row: dict[str, Any], place: str) -> Explanation:
    index = row["index"]
    if not (isinstance(index, str) and NUMBER.fullmatch(index)) and not (type(index) is int and 0 <= index < 10**9):
        raise PromptError(f"{place}: index is {shown(index)}, which is no neuron: give its number")
    for name in ("modelId", "layer"):
        if not isinstance(row[name], str):
            raise PromptError(f"{place}: {name} is {shown(row[name])}, which is no text: give strings")
    text = row["description"]
    if text is not None and not isinstance(text, str):
        raise PromptError(f"{place}: description is {shown(text)}, which is no text: give strings")
    if text is not None and len(text) > LONGEST_TEXT:
        raise PromptError(
            f"{place}: description has {len(text):,} characters, and {LONGEST_TEXT:,} are the most: shorten it"
        )
    made = row.get("createdAt")
    words = " ".join(UNWRITABLE.sub(" ", text or "").split())
    return Explanation(
        f"{row['modelId']}/{row['layer']}", int(index), words, made if isinstance(made, str) else "", place
    )
