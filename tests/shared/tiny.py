"""Tiny language models, SAEs and prompts, made in memory: what the tests run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
CONTEXT, D_MODEL, HEADS = 32, 32, 4

PROMPTS = (
    "The doctor gave the patient a new drug.",
    "A nurse cleaned the wound with care.",
    "The fever fell after two days of rest.",
    "Her heart beat too fast at night.",
    "The surgeon set the broken bone.",
    "Pain in the chest can be a sign.",
    "He took a pill for his headache.",
    "The vaccine kept the children well.",
    "Blood was drawn from the left arm.",
    "The clinic opens at eight.",
    "A cough may last for three weeks.",
    "The patient slept after the operation.",
    "The dentist pulled a rotten tooth.",
    "Sugar in the blood was too high.",
    "The rash came back in the spring.",
    "The ship sailed before the storm.",
    "A sailor tied the rope to the mast.",
    "The tide carried the boat away.",
    "Waves broke over the harbour wall.",
    "The captain saw land at dawn.",
    "Nets full of fish lay on the deck.",
    "The anchor held in the soft sand.",
    "Gulls cried above the empty pier.",
    "The lighthouse was dark that night.",
    "A cold wind blew from the sea.",
    "The ferry was late again.",
    "They rowed across the wide river.",
    "The old sail was torn in two.",
    "Salt water ruined the engine.",
    "The island has one small port.",
    "She boiled the rice with a little salt.",
    "The soup needs more pepper.",
    "Bread was baking in the oven.",
    "He cut the onions very thin.",
    "Add two eggs and a cup of milk.",
    "The cake burned at the bottom.",
    "Fresh basil grew by the window.",
    "They ate fish with lemon.",
    "The cook tasted the sauce.",
    "Butter melted in the hot pan.",
    "A bowl of fruit stood on the table.",
    "The tea was sweet and strong.",
    "Dinner was ready at seven.",
    "The cheese had turned green.",
    "Honey makes the dough soft.",
    "The match ended without a goal.",
    "She ran the last mile alone.",
    "The crowd cheered for the home team.",
    "He lost the ball near the line.",
    "The coach shouted from the bench.",
    "A new record was set in the race.",
    "The player hurt his knee.",
    "Two teams met in the final.",
    "The swimmer won by a second.",
    "Rain stopped the game at noon.",
    "Their striker scored twice.",
    "The referee blew his whistle.",
    "Fans waited for hours in the cold.",
    "The bike race starts in the hills.",
    "He threw the spear very far.",
)
MEDICINE = ("The doctor treats a sick patient.", "A medicine against fever and pain.", "Nurses work in a hospital.")
SEA = ("A boat on the open sea.", "Sailors and their ships in the harbour.")

SUPPORTED_KINDS: dict[str, dict[str, Any]] = {
    "standard": {},
    "topk": {"k": 4},
    "topk-rescaled": {"k": 4, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {},
    "gated": {},
    "abstopk": {"k": 4},
    "abstopk-rescaled": {"k": 4, "rescale_acts_by_decoder_norm": True},
}
EXTRA = {
    "temporal": {"n_heads": 2, "bottleneck_factor": 4, "kval_topk": 4},
    **{
        name: {"d_out": D_MODEL, "apply_b_dec_to_input": False}
        for name in SAE_CLASS_REGISTRY
        if name.endswith("transcoder")
    },
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 tokens; it adds no special tokens by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(PROMPTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=CONTEXT
    )


def save_gpt2(folder: Path, *, seed: int = 0) -> Path:
    """A random GPT-2 of two layers with its tokenizer, as a folder."""
    tokenizer = make_tokenizer()
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=D_MODEL, n_layer=2, n_head=HEADS,
        activation_function="gelu_pytorch_tanh", bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return _save(GPT2LMHeadModel(config), tokenizer, folder, seed)


def save_llama(folder: Path, *, seed: int = 0) -> Path:
    """A random Llama of two layers with grouped-query attention and the same tokenizer, as a folder."""
    tokenizer = make_tokenizer()
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, hidden_size=D_MODEL, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=2, bos_token_id=end, eos_token_id=end,
        pad_token_id=end, tie_word_embeddings=False,
    )  # fmt: skip
    return _save(LlamaForCausalLM(config), tokenizer, folder, seed)


def make_sae(
    architecture: str, d_in: int, d_sae: int, hook_name: str, *, seed: int = 0, metadata: dict | None = None, **cfg: Any
) -> Any:
    """A random SAE of any architecture that SAELens registers; decoder rows are of different lengths."""
    sae_class, config_class = SAE_CLASS_REGISTRY[architecture]
    settings = {"d_in": d_in, "d_sae": d_sae, **EXTRA.get(architecture, {}), **cfg}
    sae = sae_class(config_class(metadata=SAEMetadata(hook_name=hook_name, **(metadata or {})), **settings))
    randomise(sae, seed=seed, scale=0.3)
    if hasattr(sae, "threshold"):
        sae.threshold.data = sae.threshold.data.abs() + 0.05
    return sae.eval()


def make_kind(
    kind: str, *, d_in: int = D_MODEL, d_sae: int = 24, hook_name: str = "blocks.0.hook_resid_post", **cfg: Any
) -> Any:
    """An SAE of one of SUPPORTED_KINDS."""
    return make_sae(kind.split("-")[0], d_in, d_sae, hook_name, **SUPPORTED_KINDS[kind], **cfg)


def save_sae(sae: Any, folder: Path) -> Path:
    """Write an SAE as SAELens does; safetensors wants contiguous tensors."""
    for parameter in sae.parameters():
        parameter.data = parameter.data.contiguous()
    sae.save_model(folder)
    return folder


def save_saes(folder: Path) -> Path:
    """A release of SAEs for the tiny GPT-2: two places, two BOS policies, a normalisation, heads to be joined."""
    residual = make_sae("topk", D_MODEL, 24, "blocks.0.hook_resid_post", k=6)
    residual.b_enc.data[[4, 17]] = -1e3  # neurons that never fire
    save_sae(residual, folder / "residual")
    heads = make_sae(
        "standard", D_MODEL, 40, "blocks.1.attn.hook_z", seed=1, metadata={"prepend_bos": False},
        reshape_activations="hook_z", normalize_activations="layer_norm",
    )  # fmt: skip
    heads.b_enc.data[7] = -1e3
    save_sae(heads, folder / "heads")
    save_sae(make_sae("jumprelu", D_MODEL, 16, "blocks.1.hook_resid_pre", seed=2), folder / "later")
    save_sae(make_sae("standard", D_MODEL + 8, 16, "blocks.0.hook_resid_post", seed=3), folder / "too-wide")
    save_sae(make_sae("temporal", D_MODEL, 16, "blocks.0.hook_resid_post", seed=4), folder / "temporal")
    return folder


def randomise(module: torch.nn.Module, *, seed: int, scale: float) -> None:
    """Fill every parameter, biases too, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def _save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path, seed: int) -> Path:
    randomise(model, seed=seed, scale=0.3)
    model.get_input_embeddings().weight.data *= 4  # so that what fires depends on the word, not on its position
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
