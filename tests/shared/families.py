"""Tiny random language models of many families, and what the hooks of each give: in a bridge, and in the plain model.

`python tests/shared/families.py` prints a table of them, or of those that are named.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers
from torch import Tensor, nn

from atlas.errors import ModelError
from atlas.models.activations import encode_entries, run_model, tokenize
from atlas.models.agreement import SENTENCE, check_hooks, difference
from atlas.models.fingerprints import hash_model
from atlas.models.hooks import catching
from atlas.models.loading import LanguageModel, load_language_model
from atlas.models.saes import describe_sae
from atlas.models.tokens import special_ids
from atlas.steering.intervention import Steering
from atlas.steering.methods import SteeredSae, Target
from atlas.steering.settings import Options

TEXTS = (SENTENCE, "The ship sailed before the storm.", "Add two eggs.")
LAYER = 1
PLACES = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z")

TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
OLD = {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **TOKENS}
FULL = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, **TOKENS,
}  # fmt: skip
GROUPED = {**FULL, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
OPT = {
    "vocab_size": 400, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "word_embed_proj_dim": 32, **TOKENS,
}  # fmt: skip
ROUTED = {
    "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 24,
    "num_experts_per_tok": 2,
}  # fmt: skip
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_group": 1,
    "topk_group": 1, "num_key_value_heads": 4,
}  # fmt: skip
SMALL_EYES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2LMHeadModel", OLD),
    "GPT-Neo": (
        "GPTNeoForCausalLM",
        {"vocab_size": 400, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
         "attention_types": [[["global", "local"], 1]], "intermediate_size": 48, **TOKENS},
    ),
    "GPT-NeoX": ("GPTNeoXForCausalLM", FULL),
    "GPT-NeoX serial": ("GPTNeoXForCausalLM", {**FULL, "use_parallel_residual": False}),
    "GPT-J": ("GPTJForCausalLM", {**OLD, "rotary_dim": 4}),
    "CodeGen": ("CodeGenForCausalLM", {**OLD, "rotary_dim": 4}),
    "GPT-BigCode": ("GPTBigCodeForCausalLM", OLD),
    "GPT": ("OpenAIGPTLMHeadModel", {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "Llama": ("LlamaForCausalLM", GROUPED),
    "Mistral": ("MistralForCausalLM", GROUPED),
    "Ministral 3": ("Ministral3ForCausalLM", HEADS),
    "Mixtral": ("MixtralForCausalLM", {**GROUPED, **LOCAL}),
    "Qwen2": ("Qwen2ForCausalLM", GROUPED),
    "Qwen2 MoE": (
        "Qwen2MoeForCausalLM",
        {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 24, "moe_intermediate_size": 24},
    ),
    "Qwen3": ("Qwen3ForCausalLM", HEADS),
    "Qwen3 MoE": ("Qwen3MoeForCausalLM", {**HEADS, **EXPERTS, "moe_intermediate_size": 24}),
    "Qwen3.5": ("Qwen3_5ForCausalLM", {**HEADS, **LINEAR}),
    "Gemma": ("GemmaForCausalLM", HEADS),
    "Gemma 2": ("Gemma2ForCausalLM", {**HEADS, "query_pre_attn_scalar": 8}),
    "Gemma 3": ("Gemma3ForCausalLM", {**HEADS, "query_pre_attn_scalar": 8, **SLIDING}),
    "VaultGemma": ("VaultGemmaForCausalLM", {**HEADS, "query_pre_attn_scalar": 8}),
    "Phi": ("PhiForCausalLM", FULL),
    "Phi-3": ("Phi3ForCausalLM", GROUPED),
    "OPT": ("OPTForCausalLM", OPT),
    "BLOOM": ("BloomForCausalLM", {"vocab_size": 400, "hidden_size": 32, "n_layer": 2, "n_head": 4, **TOKENS}),
    "MPT": (
        "MptForCausalLM",
        {"vocab_size": 400, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2},
    ),
    "Falcon": ("FalconForCausalLM", FULL),
    "Falcon serial": ("FalconForCausalLM", {**FULL, "parallel_attn": False, "multi_query": False, "alibi": True}),
    "StableLM": ("StableLmForCausalLM", GROUPED),
    "StableLM parallel": ("StableLmForCausalLM", {**GROUPED, "use_parallel_residual": True}),
    "Cohere": ("CohereForCausalLM", GROUPED),
    "Cohere 2": ("Cohere2ForCausalLM", {**GROUPED, **SLIDING}),
    "OLMo": ("OlmoForCausalLM", GROUPED),
    "OLMo 2": ("Olmo2ForCausalLM", GROUPED),
    "OLMo 3": ("Olmo3ForCausalLM", {**GROUPED, **SLIDING}),
    "OLMoE": ("OlmoeForCausalLM", {**GROUPED, **EXPERTS}),
    "FlexOlmo": ("FlexOlmoForCausalLM", {**GROUPED, **EXPERTS}),
    "GLM": ("GlmForCausalLM", HEADS),
    "GLM-4": ("Glm4ForCausalLM", HEADS),
    "GLM-4 MoE": ("Glm4MoeForCausalLM", {**HEADS, **ROUTED}),
    "StarCoder2": ("Starcoder2ForCausalLM", GROUPED),
    "Granite": ("GraniteForCausalLM", {**GROUPED, "residual_multiplier": 0.7}),
    "Granite MoE": ("GraniteMoeForCausalLM", {**GROUPED, **LOCAL, "residual_multiplier": 0.7}),
    "SmolLM3": ("SmolLM3ForCausalLM", {**GROUPED, "no_rope_layers": [1, 0]}),
    "GPT-OSS": ("GptOssForCausalLM", {**HEADS, **LOCAL, **SLIDING}),
    "Nemotron": ("NemotronForCausalLM", GROUPED),
    "Arcee": ("ArceeForCausalLM", GROUPED),
    "Apertus": ("ApertusForCausalLM", GROUPED),
    "ERNIE 4.5": ("Ernie4_5ForCausalLM", HEADS),
    "EXAONE 4": ("Exaone4ForCausalLM", {**GROUPED, **SLIDING, "sliding_window": 16}),
    "Seed-OSS": ("SeedOssForCausalLM", HEADS),
    "HunYuan": ("HunYuanDenseV1ForCausalLM", HEADS),
    "XGLM": (
        "XGLMForCausalLM",
        {"vocab_size": 400, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
         "max_position_embeddings": 64, **TOKENS},
    ),
    "DeepSeek V3": ("DeepseekV3ForCausalLM", {**GROUPED, **ROUTED, **LATENT}),
    "Llama 4": (
        "Llama4ForCausalLM",
        {**HEADS, "intermediate_size_mlp": 48, "num_local_experts": 2, "num_experts_per_tok": 1,
         "interleave_moe_layer_step": 2},
    ),
    "NanoChat": ("NanoChatForCausalLM", GROUPED),
    "Jais 2": ("Jais2ForCausalLM", GROUPED),
    "ModernBERT decoder": ("ModernBertDecoderForCausalLM", {**FULL, **SLIDING}),
    "Mamba": ("MambaForCausalLM", {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "Gemma 3 with vision": (
        "Gemma3ForConditionalGeneration",
        {"text_config": {**HEADS, "query_pre_attn_scalar": 8, **SLIDING}, "vision_config": SMALL_EYES,
         "mm_tokens_per_image": 4, "image_token_index": 399, "boi_token_index": 398, "eoi_token_index": 397},
    ),
    "Llava": (
        "LlavaForConditionalGeneration",
        {"text_config": {**GROUPED, "model_type": "llama"}, "image_token_index": 399,
         "vision_config": {**SMALL_EYES, "model_type": "clip_vision_model"}},
    ),
}  # fmt: skip


@dataclass
class Findings:
    """What was found of a family; differences are shares of the largest value.

    Attributes:
        codes: place -> largest difference of stored codes from SAELens's own of the plain model's states.
        steering: place -> largest difference of steered logits, plain against bridge.
        moved: place -> how far steering moves the plain logits.
        identity: how far pre + attn_out + mlp_out is from post in the plain model; None where it has no such places.
        notes: what a build says.
        refused: place -> why a build refuses it.
    """

    codes: dict[str, float] = field(default_factory=dict)
    steering: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    identity: float | None = None
    same_hash: bool = True
    notes: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


def save_family(name: str, folder: Path) -> Path:
    """A tiny random model of a family with a tokenizer, as a folder."""
    class_name, settings = FAMILIES[name]
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**settings))
    tiny.randomise(model, seed=0, scale=0.15)
    model.get_input_embeddings().weight.data *= 6
    model.save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder


def examine(name: str, folder: Path) -> Findings:
    """Everything the table shows of a family."""
    model, found = load_language_model(str(save_family(name, folder))), Findings()
    found.same_hash = hash_model(model.bridge) == hash_model(model.plain) == model.model_hash
    ids, _ = tokenize(model, list(TEXTS), prepend_bos=True)
    states = [_plain_states(model.plain, row) for row in ids]
    if "hook_attn_out" in states[0] and "hook_mlp_out" in states[0]:
        found.identity = max(
            difference(s["hook_resid_pre"] + s["hook_attn_out"] + s["hook_mlp_out"], s["hook_resid_post"])
            for s in states
        )
    saes = {place: make_sae(place) for place in PLACES}
    try:
        checked, notes = check_hooks(model, list(saes.values()))
        found.notes, reading = set(notes), dict.fromkeys(saes, checked)
    except ModelError:
        reading = {}
        for place, sae in saes.items():
            try:
                reading[place], notes = check_hooks(model, [sae])
                found.notes |= set(notes)
            except ModelError as error:
                found.refused[place] = str(error)
    for place, sae in saes.items():
        if place in found.refused:
            continue
        found.codes[place] = _codes_off(reading[place], sae, ids, [s.get(place) for s in states])
        if place in states[0]:
            found.steering[place], found.moved[place] = _steering_off(model, sae, ids[1])
    return found


def make_sae(place: str, kind: str = "standard") -> Any:
    """An SAE at a place of LAYER."""
    options = {"reshape_activations": "hook_z"} if place == "attn.hook_z" else {}
    return describe_sae(tiny.make_sae(kind, 32, 40, f"blocks.{LAYER}.{place}", **options), "release", place)


@torch.no_grad()
def _plain_states(model: nn.Module, ids: list[int]) -> dict[str, Tensor]:
    """Place -> the activation [1, token, width] in the plain model, by Transformers' own means where it has them."""
    hooks = [f"blocks.{LAYER}.{place}" for place in PLACES]
    able = []
    for hook in hooks:
        try:
            with catching(model, [hook]):
                able.append(hook)
        except ModelError:
            continue
    batch = torch.tensor([ids])
    with catching(model, able) as caught:
        hidden = model(batch, output_hidden_states=True, use_cache=False).hidden_states
    states = {hook.split(".", 2)[2]: x.flatten(2) for hook, x in caught.items()}
    states["hook_resid_pre"] = hidden[LAYER]
    return states


def _codes_off(model: LanguageModel, sae: Any, ids: list[list[int]], states: list[Tensor | None]) -> float:
    """Codes as a build stores them, all texts in one padded batch, against SAELens's own of one text after the other."""
    entries = encode_entries(
        sae, run_model(model, ids, [sae.hook_name])[sae.hook_name], ids, special_ids(model.tokenizer)
    )
    worst, largest = 0.0, 1e-30
    for row, state in enumerate(states):
        if state is None:
            return float("nan")
        true = sae.codec.sae.encode(state[0])
        stored = torch.zeros_like(true)
        mine = entries.prompt == row
        stored[entries.position[mine], entries.neuron[mine]] = torch.from_numpy(entries.value[mine])
        true[torch.tensor([i in special_ids(model.tokenizer) for i in ids[row]])] = 0
        worst = max(worst, float((stored - true).abs().max()))
        largest = max(largest, float(true.abs().max()))
    return worst / largest


@torch.no_grad()
def _steering_off(model: LanguageModel, sae: Any, ids: list[int]) -> tuple[float, float]:
    """(difference of the steered logits of plain model and bridge, how far steering moved them)."""
    scores = torch.linspace(0, 1, sae.codec.d_sae)
    layer = SteeredSae(
        sae.hook_name, sae.codec, Target(scores, torch.ones(len(scores)), scores.argsort(descending=True))
    )
    batch = torch.tensor([ids])
    with Steering(model.plain, [layer], method="add", options=Options(3.0), special_ids=[0]):
        plain = model.plain(batch).logits
    with Steering(model.bridge, [layer], method="add", options=Options(3.0), special_ids=[0]):
        bridged = model.bridge(batch)
    return difference(plain, bridged), difference(plain, model.plain(batch).logits)


def _main(names: list[str]) -> None:
    torch.set_num_threads(1)
    print("family                hooks that work on both                      codes    steering  refused, said")
    for name in names or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = examine(name, Path(folder))
            except ModelError as error:
                print(f"{name:21} {'-':44} {'-':8} {'-':9} {error}")
                continue
        works = " ".join(place.split("hook_")[1] for place in found.steering)
        codes = max((value for value in found.codes.values() if value == value), default=float("nan"))
        steering = max(found.steering.values(), default=float("nan"))
        words = [f"{place}: {why}"[:150] for place, why in found.refused.items()] + sorted(found.notes)
        print(f"{name:21} {works:44} {codes:<8.0e} {steering:<9.0e} {'; '.join(words)}", flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
