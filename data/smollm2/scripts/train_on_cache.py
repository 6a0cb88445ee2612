"""Train the SAEs of SmolLM2 with SAELens on recorded activations, then measure them.

    python train_on_cache.py --model FOLDER --cache cache --texts corpus.jsonl ../../pocket/prompts.jsonl \
        ../../pocket/prose --out ../saes

Run with data/pocket/scripts on PYTHONPATH: the trainer, the way of saving and the figures are those of the pocket
model's SAEs (its train_saes.py). cache_activations.py makes the cache and says what is left out of it; the texts must
be the same ones, so that the 2 % held out, on which the figures are measured, were not recorded.

A TopK SAE stays one; a BatchTopK SAE is saved by SAELens as a JumpReLU SAE with one threshold for all neurons. The figures
are measured in float32, on texts opened by BOS and, in figures.json under `without_bos`, on the same texts without it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

import numpy as np
import torch
from cache_activations import OUTLIER
from sae_lens import SAE
from sparse_training import SparseBatchTopK, SparseTopK
from train_model import read_texts
from train_saes import SAMPLE, TRAINING, Plan, measure, save, split, train
from transformers import AutoModelForCausalLM, AutoTokenizer

SPARSE = {"topk": SparseTopK, "jumprelu": SparseBatchTopK}  # equal to SAELens's, and faster
HELD_OUT_TEXTS = 100  # read for the figures, of the corpus and of the own prose alike


def held_out(paths: list[Path], seed: int) -> list[str]:
    """A random part of the texts that were never recorded."""
    texts = [text for path in paths for text in split(read_texts([path]), seed)[1]]
    random.Random(seed).shuffle(texts)
    return texts[:HELD_OUT_TEXTS]


def typical_norm(activations: torch.Tensor) -> float:
    """The median length of recorded activations (token d_model)."""
    return activations[:: max(1, len(activations) // 30_000)].float().norm(dim=1).median().item()


def note_largest_norm(config_path: Path, norm: float) -> None:
    """Say in an SAE's cfg.json which activations it was not trained on, so that it is not asked about them."""
    config = json.loads(config_path.read_text())
    config["metadata"]["largest_input_norm"] = round(norm, 1)
    config_path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", choices=TRAINING, required=True)
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--measure-only", action="store_true", help="measure the SAE that is there")
    parser.add_argument("--train-only", action="store_true", help="measure it later")
    parser.add_argument("--k", type=int, default=32, help="neurons that fire at a token, for JumpReLU on average")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=1024, help="tokens per step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decoder-init-norm", type=float, default=0.1)
    parser.add_argument("--dead-window", type=int, default=500, help="steps without firing that call a neuron dead")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--autocast", action=argparse.BooleanOptionalAction, default=True, help="products in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train, save and measure one SAE."""
    args = parse()
    torch.manual_seed(args.seed)
    plan = Plan(args.architecture, args.layer, args.width)
    activations = torch.from_numpy(np.load(args.cache / f"{plan.hook_name}.npy", mmap_mode="r"))
    if not args.measure_only:
        print(f"{plan.name}: {len(activations):,} tokens", flush=True)
        sae = train(
            activations,
            plan,
            args,
            model_name="SmolLM2-135M-Instruct",
            sae_class=SPARSE[args.architecture],
            autocast=args.autocast,
        )
        save(sae, args.out / plan.name)
        note_largest_norm(args.out / plan.name / "cfg.json", OUTLIER * typical_norm(activations))

    if args.train_only:
        return
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    special = tokenizer.bos_token_id
    sae = SAE.load_from_disk(args.out / plan.name, dtype="float32")
    sample = activations[torch.randperm(len(activations))[:SAMPLE].sort().values]
    largest_norm = OUTLIER * typical_norm(activations)
    rows = tokenizer(
        held_out(args.texts, args.seed), add_special_tokens=False, truncation=True, max_length=args.context
    )
    figures: dict[str, float | dict[str, float]] = {}
    for name, opening in (("with_bos", [special]), ("without_bos", [])):
        found = measure(
            sae,
            model,
            [[*opening, *row] for row in rows["input_ids"]],
            layer=plan.layer,
            special=special,
            sample=sample,
            largest_norm=largest_norm,
        )
        rounded = {key: round(value, 4) for key, value in found.items()}
        figures |= rounded if name == "with_bos" else {name: rounded}
    (args.out / plan.name / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(plan.name, figures, flush=True)


if __name__ == "__main__":
    main()
