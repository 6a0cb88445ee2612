"""Turn P3 and MedQuAD into the prose that the pocket language model learns from.

    python make_corpus.py --p3 p3_50k.jsonl.gz --medquad medquad.jsonl.gz --out corpus.jsonl

P3 (Apache-2.0) wraps passages into task templates ("Pick the best answer from the following options"). Lines and
sentences that recur within one template are its frame; they go, and so do answer options and field labels. The same
passage comes back under many templates; it is kept once. What is left is news, reviews, plots, encyclopedia and
conversation. MedQuAD (CC BY 4.0) adds medicine; its generated symptom
lists go. One JSON object per line comes out: {"text": ..., "source": ...}.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SKIPPED = ("glue", "paws", "wiqa", "trec", "quarel", "qasc", "commonsense_qa", "common_gen", "wiki_qa", "kilt")
CHARACTER_BUDGET = {"medquad": 2_500_000}  # or the rest would drown in it
FRAME_SHARE = 0.2  # a line or sentence in this share of one template's prompts is part of the template

TEMPLATE_WORDS = re.compile(
    r"the following|\banswer|question|\bsentence|paragraph|passage|\bpick\b|\bchoose|option|yes or no|true or false|"
    r"summar|tl;?dr|\bhint\b|article|the text above|\bcontext|exam\b|multiple.choice|given the|based on|read the|"
    r"this review|extract|headline|section of|generate|write a|paraphrase|correct",
    re.IGNORECASE,
)
LABEL = re.compile(r"^[A-Z][A-Za-z ]{1,30}:\s+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def tidy(text: str) -> str:
    """Plain quotes and dashes, no mark-up, no spaces before punctuation."""
    text = unicodedata.normalize("NFKC", text.replace("<|endoftext|>", " "))
    text = text.translate(str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"}))
    text = re.sub(r"<[^>]{1,20}>|``|''", " ", text.replace("\\n", " ").replace("\\", ""))
    text = re.sub(r"\s+([,.!?;:)])", r"\1", re.sub(r"\s+n't\b", "n't", text))
    return re.sub(r"[ \t]+", " ", re.sub(r"\s+'(s|re|ve|ll|d|m)\b", r"'\1", text)).strip()


def read_records(p3: Path, medquad: Path) -> Iterator[tuple[str, list[str]]]:
    """(source, lines) of every record."""
    with gzip.open(p3, "rt") as handle:
        for line in handle:
            record = json.loads(line)
            if not record["source"].startswith(SKIPPED):
                text = record["prompt"] + "\n" + record["completion"]
                yield record["source"], [tidy(part) for part in text.split("\n") if part.strip()]
    with gzip.open(medquad, "rt") as handle:
        for line in handle:
            record = json.loads(line)
            if "Human Phenotype Ontology" not in record["answer"]:
                yield "medquad", [tidy(re.sub(r"\s*\?\s*$", "?", record["question"])), tidy(record["answer"])]


def clean(records: list[tuple[str, list[str]]]) -> Iterator[tuple[str, str]]:
    """(source, prose) of every record that has any and is not mostly a repetition of earlier ones."""
    lines = Counter((source, line) for source, parts in records for line in set(parts))
    sentences = Counter((source, s) for source, parts in records for line in parts for s in split_sentences(line))
    limits = {name: max(3, FRAME_SHARE * n) for name, n in Counter(source for source, _ in records).items()}
    seen: set[str] = set()
    for source, parts in records:
        kept, limit = [], limits[source]
        for line in parts:
            if lines[source, line] >= limit:
                continue
            for sentence in split_sentences(LABEL.sub("", line)):
                prose = len(sentence.split()) >= 4 and sentence[-1] in ".!?\"')"
                framed = sentences[source, sentence] >= limit or TEMPLATE_WORDS.search(sentence)
                if prose and (source == "medquad" or not framed):
                    kept.append(sentence)
        new = [sentence for sentence in kept if sentence not in seen]
        seen.update(new)
        text = " ".join(kept)
        plain = sum(c.isascii() for c in text) >= 0.98 * len(text)
        if plain and len(text.split()) >= 12 and 2 * len(new) > len(kept):
            yield source, text[:1].upper() + text[1:]


def split_sentences(line: str) -> list[str]:
    """The sentences of a line, empty ones left out."""
    return [sentence.strip() for sentence in SENTENCE_END.split(line) if sentence.strip()]


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--p3", type=Path, required=True)
    parser.add_argument("--medquad", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    records = list(read_records(args.p3, args.medquad))
    random.Random(args.seed).shuffle(records)
    texts = 0
    spent: Counter[str] = Counter()
    with args.out.open("w") as out:
        for source, text in clean(records):
            family = next((name for name in CHARACTER_BUDGET if source.startswith(name)), "other")
            if spent[family] > CHARACTER_BUDGET.get(family, 10**9):
                continue
            texts += 1
            spent[family] += len(text)
            out.write(json.dumps({"text": text, "source": source}) + "\n")
    print(f"{texts:,} texts, {sum(spent.values()):,} characters: {dict(spent)}")


if __name__ == "__main__":
    main()
