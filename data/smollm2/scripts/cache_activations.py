"""Record SmolLM2's residual stream over a corpus once, for train_saes.py to train on as often as it likes.

    python cache_activations.py --model FOLDER --texts corpus.jsonl ../../pocket/prompts.jsonl ../../pocket/prose \
        --out cache

Run with data/pocket/scripts on PYTHONPATH: texts are read and divided as the pocket model's scripts do.

A text is opened by BOS (`<|im_start|>`); one in four is put into the chat template instead, as what the user or the
assistant says, because that is where `atlas steer --chat` reads the SAE. Only tokens of the text itself are recorded:
the first token of a sequence is an outlier (after block 14 its norm is about 140 times that of others), and the template's
words are the same every time. Another token becomes such an outlier now and then; a token whose norm is more than
OUTLIER times the median's is left out too. Forward passes are in bfloat16, which is 3 times as fast as float32 on a
processor with bfloat16 products and moves the residual stream by 1 % of its norm (median).

OUT holds one file per block, `blocks.N.hook_resid_post.npy` (token d_model, float16), and `cache.json`: tokens and texts
recorded. An interrupted run leaves no cache.json.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from train_model import read_texts
from train_saes import split
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

OUTLIER = 4.0  # norms over this many times the median are left out
CHAT_SHARE = 4  # one text in so many is put into the chat template
QUESTIONS = ("Tell me something.", "What do you know?", "Please go on.", "Write a few sentences.")


@dataclass(frozen=True)
class Sequence:
    """The token ids of a text in its surroundings, and where the text itself starts."""

    ids: list[int]
    start: int


def chat_opening(tokenizer: PreTrainedTokenizerBase, generator: random.Random) -> str:
    """What the template puts before a text said by the user or by the assistant."""
    if generator.random() < 0.5:
        opened = tokenizer.apply_chat_template([{"role": "user", "content": "TEXT"}], tokenize=False)
        return opened[: opened.index("TEXT")]
    question = [{"role": "user", "content": generator.choice(QUESTIONS)}]
    return tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], context: int, seed: int) -> list[Sequence]:
    """Each text after BOS, or one in CHAT_SHARE after a chat template's opening, its own tokens cut to the context."""
    generator = random.Random(seed)
    rows = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=context)["input_ids"]
    sequences = []
    for row in rows:
        opening = [tokenizer.bos_token_id]
        if generator.randrange(CHAT_SHARE) == 0:
            opening = tokenizer(chat_opening(tokenizer, generator), add_special_tokens=False)["input_ids"]
        sequences.append(Sequence(ids=[*opening, *row], start=len(opening)))
    return sequences


def batches(sequences: list[Sequence], size: int, seed: int) -> list[list[Sequence]]:
    """Batches of sequences of like length, in random order, so that any part of them is a fair sample."""
    ordered = sorted(sequences, key=lambda sequence: len(sequence.ids))
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    random.Random(seed).shuffle(parts)
    return parts


def positions(batch: list[Sequence]) -> tuple[torch.Tensor, torch.Tensor]:
    """The padded token ids of a batch (sequence position) and which positions are tokens of the texts themselves."""
    width = max(len(sequence.ids) for sequence in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    own = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        own[row, sequence.start : len(sequence.ids)] = True
    return ids, own


@torch.inference_mode()
def record(
    model: LlamaForCausalLM, parts: list[list[Sequence]], layers: list[int], out: Path, tokens: int
) -> dict[str, int]:
    """Write the residual stream after each block, at the texts' own tokens, and say how many were kept."""
    d_model = model.config.hidden_size
    model.model.layers = model.model.layers[: max(layers) + 1]
    total = min(tokens, sum(len(sequence.ids) - sequence.start for part in parts for sequence in part))
    done = outliers = texts = 0
    caught: dict[int, torch.Tensor] = {}
    started = last = time.monotonic()
    with ExitStack() as stack:
        files = {layer: stack.enter_context((out / f"blocks.{layer}.bin").open("wb")) for layer in layers}
        for layer in layers:
            block = model.model.layers[layer]

            def keep(_module: torch.nn.Module, _inputs: tuple, output: torch.Tensor, layer: int = layer) -> None:
                caught[layer] = output[0] if isinstance(output, tuple) else output

            stack.callback(block.register_forward_hook(keep).remove)
        for part in parts:
            ids, own = positions(part)
            model.model(ids, use_cache=False)
            hidden = {layer: caught[layer][own].float() for layer in layers}
            norms = torch.stack([h.norm(dim=1) / h.norm(dim=1).median() for h in hidden.values()])
            usual = (norms < OUTLIER).all(0)
            for layer, h in hidden.items():
                files[layer].write(h[usual].half().numpy().tobytes())
            done, outliers, texts = done + int(usual.sum()), outliers + int((~usual).sum()), texts + len(part)
            if done >= tokens:
                break
            if time.monotonic() - last > 20:
                last = time.monotonic()
                print(f"{done:,} of {total:,} tokens, {done / (last - started):,.0f} a second", flush=True)
    for layer in layers:
        rows = np.memmap(out / f"blocks.{layer}.bin", dtype=np.float16, mode="r", shape=(done, d_model))
        np.save(out / f"blocks.{layer}.hook_resid_post.npy", rows)
        (out / f"blocks.{layer}.bin").unlink()
    return {"tokens": done, "outliers_left_out": outliers, "texts": texts}


def main() -> None:
    """Record the activations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model, as `atlas` loads it")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="JSON Lines of texts, folders of prose")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 14])
    parser.add_argument("--context", type=int, default=256, help="tokens of a text that are read")
    parser.add_argument("--tokens", type=int, default=1_500_000, help="tokens after which recording stops")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    # Divided part by part, as train_saes.py does it for its figures: the held-out 2 % are never recorded.
    training = [text for path in args.texts for text in split(read_texts([path]), args.seed)[0]]
    sequences = tokenize(tokenizer, training, args.context, args.seed)
    counts = record(model, batches(sequences, args.batch, args.seed), args.layers, args.out, args.tokens)
    (args.out / "cache.json").write_text(json.dumps(counts) + "\n")
    print(counts)


if __name__ == "__main__":
    main()
