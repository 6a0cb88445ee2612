"""Train the two SAEs of the pocket language model with SAELens, then measure them.

    python train_saes.py --model ../model --corpus corpus.jsonl --prose ../prompts.jsonl ../prose --out ../saes

The texts are those train_model.py was trained on, and the 2 % held out are the same where the paths and the seed are.
Each text is opened by the BOS token and cut to the context. The residual stream after the chosen blocks is recorded
once, at all tokens but BOS, in float16 and in memory (2.5 million tokens of 2 blocks: 2.6 GB); each SAE is trained on
shuffled batches of it, over several passes. A TopK SAE stays one; a BatchTopK SAE is saved by SAELens as a JumpReLU SAE
with one threshold for all neurons. The weights are written in float16, with decoder rows of norm 1; cfg.json says
float32, which is what they are loaded as. figures.json, beside them, holds what `measure` finds; `--measure-only` finds
it anew for SAEs that are there.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    SAETrainer,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata, TrainStepOutput
from safetensors.torch import load_file, save_file
from train_model import read_texts
from transformers import GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

SAMPLE = 200_000  # tokens of the training texts on which a neuron must fire to count as alive
TRAINING = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "jumprelu": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
}


@dataclass(frozen=True)
class Plan:
    """One SAE to train: its architecture once saved, the block it reads, its number of neurons."""

    architecture: str
    layer: int
    d_sae: int

    @property
    def hook_name(self) -> str:
        """The hook whose activations it is trained on."""
        return f"blocks.{self.layer}.hook_resid_post"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.hook_name}-{self.architecture}-{self.d_sae}"


class ClockedTrainer(SAETrainer):
    """SAELens's trainer, with steps of the schedule left out where the clock is ahead of it."""

    def __init__(self, *args: Any, seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds, self.started = seconds, time.monotonic()

    def step(self, batch: torch.Tensor) -> TrainStepOutput:
        """Train on a batch, and count it for as much of the training as the clock says."""
        output = super().step(batch)
        due = (time.monotonic() - self.started) / self.seconds * self.cfg.total_training_samples
        while self.n_training_samples + self.cfg.train_batch_size_samples <= due:
            self.n_training_samples += self.cfg.train_batch_size_samples
            self.lr_scheduler.step()
        return output


def split(texts: list[str], seed: int) -> tuple[list[str], list[str]]:
    """The texts to train on and the 2 % held out, as train_model.py divides them; no text is in both."""
    shuffled_texts = list(texts)
    random.Random(seed).shuffle(shuffled_texts)
    held_out = shuffled_texts[: len(texts) // 50]
    seen = set(held_out)
    return [text for text in shuffled_texts[len(held_out) :] if text not in seen], held_out


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str], context: int) -> list[list[int]]:
    """The token ids of each text, opened by BOS and cut to the context."""
    ids = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=context - 1)["input_ids"]
    return [[tokenizer.bos_token_id, *text] for text in ids]


def first(texts: list[list[int]], tokens: int) -> list[list[int]]:
    """The first texts, as many as hold no more than `tokens` tokens."""
    totals = itertools.accumulate(map(len, texts))
    return [text for text, total in zip(texts, totals, strict=True) if total <= tokens]


def batches_by_length(texts: list[list[int]], padding: int, *, size: int = 32) -> Iterator[torch.Tensor]:
    """Batches of texts of like length, padded at the end."""
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), size):
        batch = [torch.tensor(text) for text in ordered[start : start + size]]
        yield torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=padding)


def blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The blocks of a model of the GPT-2 or the Llama family."""
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@contextmanager
def residual_changed(
    model: PreTrainedModel, layer: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Within the context, `change` is applied to the residual stream after the block."""

    def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = blocks(model)[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def record(model: GPT2LMHeadModel, texts: list[list[int]], *, layers: list[int], special: int) -> list[torch.Tensor]:
    """The residual stream after each block, in float16, at all tokens but the special one (token d_model)."""
    count = sum(token != special for text in texts for token in text)
    stores = [torch.empty(count, model.config.n_embd, dtype=torch.float16) for _ in layers]
    done = 0
    for batch in batches_by_length(texts, special):
        kept = batch != special
        rows = slice(done, done := done + int(kept.sum()))

        def keep(hidden: torch.Tensor, store: torch.Tensor, kept: torch.Tensor, rows: slice) -> torch.Tensor:
            store[rows] = hidden[kept].half()
            return hidden

        with ExitStack() as stack:
            for layer, store in zip(layers, stores, strict=True):
                change = functools.partial(keep, store=store, kept=kept, rows=rows)
                stack.enter_context(residual_changed(model, layer, change))
            model.transformer(batch, use_cache=False)
    return stores


def shuffled(activations: torch.Tensor, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Batches of the activations in float32, pass after pass, each in an order of its own (batch d_model)."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(activations), generator=generator).split(batch):
            yield activations[rows].float()


def train(
    activations: torch.Tensor,
    plan: Plan,
    args: argparse.Namespace,
    *,
    model_name: str = "pocket",
    sae_class: type[TrainingSAE] | None = None,
    autocast: bool = False,
) -> TrainingSAE:
    """An SAE trained on the activations, its input scale folded into the weights; SAELens's class unless one is given."""
    usual_class, config_class = TRAINING[plan.architecture]
    metadata = SAEMetadata(model_name=model_name, hook_name=plan.hook_name, prepend_bos=True, context_size=args.context)
    sae = (sae_class or usual_class)(
        config_class(
            d_in=activations.shape[1],
            d_sae=plan.d_sae,
            k=args.k,
            metadata=metadata,
            normalize_activations="expected_average_only_in",
            decoder_init_norm=args.decoder_init_norm,
        )
    )
    config = SAETrainerConfig(
        total_training_samples=args.steps * args.batch,
        train_batch_size_samples=args.batch,
        lr=args.rate,
        lr_end=args.rate,
        lr_warm_up_steps=min(200, args.steps // 5),
        lr_decay_steps=args.steps // 2,
        dead_feature_window=args.dead_window,
        feature_sampling_window=args.steps + args.batch,
        autocast=autocast,
        logger=LoggingConfig(log_to_wandb=False),
    )
    data = shuffled(activations, args.batch, args.seed)
    trainer = ClockedTrainer(config, sae, data, seconds=60 * args.minutes)
    # fit() would measure the scale itself; it is needed before, to start the decoder's bias at the mean.
    trainer.activation_scaler.estimate_scaling_factor(activations.shape[1], data, n_batches_for_norm_estimate=50)
    sae.b_dec.data = trainer.activation_scaler(activations.mean(0, dtype=torch.float32))
    return trainer.fit()


def save(sae: TrainingSAE, folder: Path) -> None:
    """The SAE as SAELens saves it for inference, with decoder rows of norm 1 and weights in float16."""
    weights_path, config_path = sae.save_inference_model(folder)
    save_file({name: weight.half() for name, weight in load_file(weights_path).items()}, weights_path)
    config = json.loads(config_path.read_text())
    if "rescale_acts_by_decoder_norm" in config:
        config["rescale_acts_by_decoder_norm"] = False  # saving folds the norms into the encoder
    config_path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


@torch.no_grad()
def measure(
    sae: SAE,
    model: PreTrainedModel,
    texts: list[list[int]],
    *,
    layer: int,
    special: int,
    sample: torch.Tensor,
    largest_norm: float = math.inf,
) -> dict[str, float]:
    """What the SAE keeps of the residual stream after a block, over held-out texts.

    Args:
        sae: reads and rebuilds the residual stream after the block.
        model: the language model.
        texts: token ids of held-out texts, each opened by the special token.
        layer: the block.
        special: token whose residual stream is neither read nor changed, and which is not predicted.
        sample: activations of training texts (token d_model), for the share of dead neurons.
        largest_norm: a token whose residual stream is longer is neither read nor changed.

    Returns:
        tokens: how many were read. l0: mean number of neurons that fire at a token. explained_variance: 1 less the
        squared error over the squared distance to the mean. dead: share of the neurons that never fire on the sample.
        ce_clean, ce_sae, ce_zero: cross-entropy of the next token in nats, with the residual stream as it is, as the
        SAE rebuilds it, and set to 0. ce_recovered: (ce_zero - ce_sae) / (ce_zero - ce_clean).
    """
    clean, rebuilt, fired = [], [], 0
    losses = {"ce_clean": 0.0, "ce_sae": 0.0, "ce_zero": 0.0}
    for batch in batches_by_length(texts, special):
        kept = batch != special

        def rebuild(hidden: torch.Tensor, kept: torch.Tensor = kept) -> torch.Tensor:
            nonlocal fired
            kept = kept & (hidden.norm(dim=-1) <= largest_norm)
            acts = sae.encode(hidden[kept])  # token d_sae
            clean.append(hidden[kept])
            rebuilt.append(sae.decode(acts))
            fired += int((acts > 0).sum())
            return hidden.masked_scatter(kept[..., None], rebuilt[-1])

        def zero(hidden: torch.Tensor, kept: torch.Tensor = kept) -> torch.Tensor:
            kept = kept & (hidden.norm(dim=-1) <= largest_norm)
            return hidden.masked_fill(kept[..., None], 0)

        for name, change in (("ce_clean", lambda hidden: hidden), ("ce_sae", rebuild), ("ce_zero", zero)):
            with residual_changed(model, layer, change):
                logits = model(batch, use_cache=False).logits
            losses[name] += torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), ignore_index=special, reduction="sum"
            ).item()

    x, x_hat = torch.cat(clean), torch.cat(rebuilt)
    alive = torch.stack([(sae.encode(part.float()) > 0).any(0) for part in sample.split(1024)]).any(0)
    ce = {name: total / len(x) for name, total in losses.items()}
    return {
        "tokens": len(x),
        "l0": fired / len(x),
        "explained_variance": 1 - ((x - x_hat).square().sum() / (x - x.mean(0)).square().sum()).item(),
        "dead": 1 - alive.float().mean().item(),
        **ce,
        "ce_recovered": (ce["ce_zero"] - ce["ce_sae"]) / (ce["ce_zero"] - ce["ce_clean"]),
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--prose", type=Path, nargs="+", required=True)
    parser.add_argument("--prose-weight", type=int, default=3, help="times the own prose is seen per pass")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=TRAINING, help="train and measure one of the two")
    parser.add_argument("--measure-only", action="store_true", help="measure the SAEs that are there")
    parser.add_argument("--tokens", type=int, default=2_500_000, help="tokens whose activations are recorded")
    parser.add_argument("--topk-layer", type=int, default=2)
    parser.add_argument("--topk-width", type=int, default=4096)
    parser.add_argument("--jumprelu-layer", type=int, default=1)
    parser.add_argument("--jumprelu-width", type=int, default=2048)
    parser.add_argument("--k", type=int, default=32, help="neurons that fire at a token, for JumpReLU on average")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=1024, help="tokens per step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decoder-init-norm", type=float, default=0.1)
    parser.add_argument("--dead-window", type=int, default=500, help="steps without firing that call a neuron dead")
    parser.add_argument("--minutes", type=float, default=math.inf, help="at most, for each SAE")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train and save the SAEs."""
    args = parse()
    torch.manual_seed(args.seed)
    model = GPT2LMHeadModel.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model)
    special, args.context = tokenizer.bos_token_id, model.config.n_positions

    corpus, held_corpus = split(read_texts([args.corpus]), args.seed)
    prose, held_prose = split(read_texts(args.prose), args.seed)
    training = corpus + args.prose_weight * prose
    random.Random(args.seed).shuffle(training)

    texts = tokenize(tokenizer, training, args.context)
    held_out = tokenize(tokenizer, held_corpus + held_prose, args.context)

    plans = [
        Plan("topk", args.topk_layer, args.topk_width),
        Plan("jumprelu", args.jumprelu_layer, args.jumprelu_width),
    ]
    plans = [plan for plan in plans if args.only in (None, plan.architecture)]
    layers = [plan.layer for plan in plans]
    if not args.measure_only:
        recorded = record(model, first(texts, args.tokens), layers=layers, special=special)
        for plan, activations in zip(plans, recorded, strict=True):
            print(f"{plan.name}: {len(activations):,} tokens", flush=True)
            save(train(activations, plan, args), args.out / plan.name)

    samples = record(model, first(texts, SAMPLE), layers=layers, special=special)
    for plan, sample in zip(plans, samples, strict=True):
        sae = SAE.load_from_disk(args.out / plan.name, dtype="float32")
        figures = measure(sae, model, held_out, layer=plan.layer, special=special, sample=sample)
        figures = {name: round(value, 4) for name, value in figures.items()}
        (args.out / plan.name / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(plan.name, figures, flush=True)


if __name__ == "__main__":
    main()
