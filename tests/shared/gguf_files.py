"""A language model of Transformers' Llama family as a GGUF file, as llama.cpp's converter would write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
CONTROL, NORMAL = 3, 1  # types of tokens


def write_gguf(
    folder: Path,
    path: Path,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    rule: str = "gpt-2",
    template: str | None = None,
    **values: Any,
) -> Path:
    """Write the model of a folder as a GGUF file.

    Args:
        kind: how matrices are stored.
        rule: what the file calls the way in which its tokenizer cuts text.
        template: the chat template.
        values: what the header says instead, such as architecture="other"; `split_count` makes it a part of several.
    """
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config, architecture = model.config, values.pop("architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(values.pop("block_count", config.num_hidden_layers))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if "split_count" in values:
        writer.add_uint16("split.count", values.pop("split_count"))
    _add_tokenizer(writer, tokenizer, rule, template)
    for name, tensor in _renamed(model, config):
        fits = tensor.ndim == 2 and tensor.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        stored = kind if fits else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(tensor, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, rule: str, template: str | None) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_types([CONTROL if i in tokenizer.all_special_ids else NORMAL for i in range(len(tokenizer))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)


def _renamed(model: Any, config: Any) -> Any:
    """(name, values) of every tensor by llama.cpp's names, the rows of queries and keys in its order."""
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module in ENDS:
            yield f"{ENDS[module]}.{kind}", _plain(tensor)
            continue
        _, _, layer, part = module.split(".", 3)
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(LAYER[part])
        if heads is not None:
            rows, columns = tensor.shape
            tensor = tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        yield f"blk.{layer}.{LAYER[part]}.{kind}", _plain(tensor)


def _plain(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().contiguous().numpy()
