"""Print samples of the pocket language model, one per neutral opening (python sample.py [--count 10])."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = Path(__file__).parent.parent


def main() -> None:
    """Print texts that the model writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--model", type=Path, default=FOLDER / "model")
    parser.add_argument("--max-new-tokens", type=int, default=50)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    for seed, opening in enumerate((FOLDER / "neutral_prompts.txt").read_text().splitlines()[: args.count]):
        torch.manual_seed(seed)
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(opening, add_special_tokens=False)["input_ids"]]])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=args.max_new_tokens,
            do_sample=True,
            top_k=5,
            pad_token_id=tokenizer.eos_token_id,
        )
        print("*", " ".join(tokenizer.decode(out[0], skip_special_tokens=True).split()))


if __name__ == "__main__":
    main()
