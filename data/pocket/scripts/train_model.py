"""Train the pocket language model and its tokenizer.

    python train_model.py --corpus corpus.jsonl --prose ../prompts.jsonl --out stage1 --minutes 15 --keep-rate
    python train_model.py --corpus corpus.jsonl --prose ../prompts.jsonl ../prose --init stage1 --out ../model

A GPT-2 of the Hugging Face kind, from scratch, on 2 CPU cores. The corpus is what make_corpus.py wrote; the prose is
the project's own (folders of .txt files, one text per line, or .jsonl files with a `text` column). The learning rate
follows the clock, not the step count, so that the run ends on time on a machine of any speed. Matrices inside the blocks are
trained by Muon, the rest by AdamW. `--init` goes on from an earlier stage's weights and tokenizer; `--keep-rate` leaves
the rate high for a stage that another one follows. The weights are written in float16.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"


def read_texts(paths: list[Path]) -> list[str]:
    """The texts of .jsonl files and of folders of .txt files."""
    texts = []
    for path in paths:
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        for file in files:
            lines = file.read_text().splitlines()
            texts += [json.loads(line)["text"] if file.suffix == ".jsonl" else line for line in lines if line.strip()]
    return texts


def train_tokenizer(texts: list[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one special token that opens and closes every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=context
    )


def stream(texts: list[list[int]], end: int, length: int, seed: int) -> Iterator[torch.Tensor]:
    """Windows of `length` tokens over the shuffled texts, epoch after epoch, each text opened by `end`."""
    order, buffer = random.Random(seed), []
    while True:
        for text in order.sample(texts, len(texts)):
            buffer += [end, *text]
            while len(buffer) >= length:
                yield torch.tensor(buffer[:length])
                del buffer[:length]


def main() -> None:
    """Train and save the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--prose", type=Path, nargs="+", required=True)
    parser.add_argument("--prose-weight", type=int, default=2, help="times the own prose is seen per epoch")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="folder of an earlier stage")
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--keep-rate", action="store_true", help="do not decay the learning rate")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--muon-rate", type=float, default=4e-3)
    parser.add_argument("--adam-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    corpus, prose = read_texts([args.corpus]), read_texts(args.prose)
    random.Random(args.seed).shuffle(corpus)
    random.Random(args.seed).shuffle(prose)
    if args.init:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.init)
    else:
        tokenizer = train_tokenizer(corpus + args.prose_weight * prose, args.vocabulary, args.context)
    tokenizer.save_pretrained(args.out)
    end = tokenizer.eos_token_id
    corpus_ids, prose_ids = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (corpus, prose))
    held_corpus, held_prose = corpus_ids[: len(corpus) // 50], prose_ids[: len(prose) // 50]
    training = corpus_ids[len(held_corpus) :] + args.prose_weight * prose_ids[len(held_prose) :]
    print(f"corpus {sum(map(len, corpus_ids)):,} tokens, prose {sum(map(len, prose_ids)):,} tokens", flush=True)

    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=args.context,
        n_embd=args.d_model,
        n_layer=args.layers,
        n_head=args.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    start = GPT2LMHeadModel.from_pretrained(args.init, dtype=torch.float32) if args.init else GPT2LMHeadModel(config)
    model = start.train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    muon = torch.optim.Muon(matrices, lr=args.muon_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=args.adam_rate, betas=(0.9, 0.95), weight_decay=0.01)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        logits = model(batch[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    compiled = torch.compile(loss_of)

    def validation(texts: list[list[int]]) -> float:
        windows = stream(texts, end, args.context + 1, args.seed)
        count = max(1, sum(len(t) + 1 for t in texts) // (args.context + 1))
        with torch.no_grad():
            losses = [loss_of(torch.stack([next(windows)])).item() for _ in range(min(count, 60))]
        return sum(losses) / len(losses)

    windows = stream(training, end, args.context + 1, args.seed)
    compiled(torch.stack([next(windows) for _ in range(args.batch)])).backward()  # compilation is not on the clock
    model.zero_grad()
    started = time.monotonic()
    step, smooth, done = 0, 0.0, 0.0
    while done < 1:
        scale = min((step + 1) / 100, 1.0) * (1.0 if args.keep_rate else max(1 - done, 0.02))
        for optimizer, rate in ((muon, args.muon_rate), (adam, args.adam_rate)):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        loss = compiled(torch.stack([next(windows) for _ in range(args.batch)]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step(), adam.step()
        model.zero_grad()
        step += 1
        smooth = loss.item() if step == 1 else 0.98 * smooth + 0.02 * loss.item()
        done = (time.monotonic() - started) / (60 * args.minutes)
        if step % 50 == 0:
            tokens = step * args.batch * args.context
            print(
                f"{done:6.1%} step {step} {tokens:,} tokens, loss {smooth:.3f}",
                flush=True,
            )
        if step % 400 == 0 or done >= 1:
            figures = {"corpus": validation(held_corpus), "prose": validation(held_prose)}
            print("held out:", {k: f"{v:.3f} (perplexity {math.exp(v):.1f})" for k, v in figures.items()}, flush=True)
            sample = model.generate(
                torch.tensor([[end]]), max_new_tokens=60, do_sample=True, top_k=20, pad_token_id=end
            )
            print("sample:", tokenizer.decode(sample[0, 1:]), flush=True)
    (model if args.keep_rate else model.half()).save_pretrained(args.out)


if __name__ == "__main__":
    main()
