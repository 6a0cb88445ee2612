"""Load language models and their tokenizers: from weights in safetensors alone, and without code from a model's folder."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from atlas.errors import AtlasError, ModelError, UnknownName
from atlas.models.configs import context_size
from atlas.models.fingerprints import hash_model, hash_tokenizer
from atlas.models.quiet import quiet

SAFELY = {"use_safetensors": True, "trust_remote_code": False}  # neither pickles nor code from a model's folder
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CONVERT = "load it where you trust it, and save it with save_pretrained, which writes safetensors"
PANIC = "PanicException"  # of the Rust inside of tokenizers, for files it did not foresee; it is no Exception


@dataclass(frozen=True)
class LanguageModel:
    """A TransformerBridge with what an atlas records of it.

    Attributes:
        plain: the Hugging Face model with the same weights (they share their memory), to check the bridge by.
        reads_plain: whether activations are taken from `plain`, because the bridge computes something else.
    """

    name: str
    bridge: Any
    tokenizer: Any
    model_hash: str
    tokenizer_hash: str
    context_size: int
    plain: nn.Module
    reads_plain: bool = False


def resolve_name(name: str) -> str:
    """An existing folder as its absolute path, a hub name as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def load_language_model(name: str, *, device: str = "cpu", dtype: str = "float32") -> LanguageModel:
    """A hub name or local folder as a TransformerBridge; ModelError when it cannot be loaded.

    The tokenizer is the plain one: a bridge gives its own tokens that a tokenizer lacks.
    """
    require_model_folder(name)
    with quiet(), loading("language model", name):
        config = _load_config(resolve_name(name))
    tokenizer = load_tokenizer(name)
    with quiet(), loading("language model", name):
        plain, bridge = _wrap(resolve_name(name), config, copy.deepcopy(tokenizer), device, number_format(dtype))
    return LanguageModel(
        resolve_name(name),
        bridge,
        tokenizer,
        hash_model(plain),
        hash_tokenizer(tokenizer),
        context_size(plain),
        plain,
    )


def number_format(name: str) -> torch.dtype:
    """The number format of a name that a user or an atlas gives; UnknownName for one that weights are not loaded in."""
    if name not in DTYPES:
        raise UnknownName("number format", name, DTYPES)
    return DTYPES[name]


def load_transformer(name: str, *, device: str = "cpu", dtype: str = "float32") -> tuple[nn.Module, Any]:
    """A hub name or local folder as a plain Hugging Face causal model and its tokenizer."""
    require_model_folder(name)
    with quiet(), loading("language model", name):
        place = resolve_name(name)
        model = _load_weights(_model_class(_load_config(place)), place, dtype=number_format(dtype))
    return model.to(device).eval().requires_grad_(False), load_tokenizer(name)


def require_model_folder(name: str) -> None:
    """Raise ModelError for a path that is there and cannot be a language model's folder."""
    path = Path(name).expanduser()
    if path.is_file():
        raise ModelError(f"{name} is a file: name the folder that holds the model, such as {path.parent}")
    if not path.is_dir():
        if name.startswith(("/", ".", "~")):
            raise ModelError(f"cannot load language model {name}: there is no such folder; a hub name works too")
        return  # a hub name
    if (path / "cfg.json").exists():
        raise ModelError(
            f"{name} is the folder of an SAE: name a language model, and the SAE by --release and --sae-id"
        )
    if (path / "modules.json").exists() or (path / "config_sentence_transformers.json").exists():
        raise ModelError(
            f"{name} is the folder of a sentence encoder: name a language model, and this one by --encoder"
        )
    if not (path / "config.json").exists():
        raise ModelError(f"{name} holds no config.json: name the folder of a Hugging Face model")
    require_safetensors(path, "language model")


def require_safetensors(path: Path, kind: str) -> None:
    """Raise ModelError for a folder whose only weights are of formats that can run code when they are read."""
    if any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return
    others = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for file in path.glob(pattern)
    )
    if others:
        raise ModelError(
            f"cannot load {kind} {path}: its weights are in {others[0]}, a format that can run code when it is read, and "
            f"there is no *.safetensors: {CONVERT}"
        )


def _load_config(place: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(place, trust_remote_code=False)


def _model_class(config: Any) -> Any:
    """The class of Transformers that loads a generating model, with its second tower where it has one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    if config.is_encoder_decoder:
        raise ModelError(f"a {config.model_type} model reads and writes by two stacks: use a causal language model")
    if config.get_text_config() is not config and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"a {config.model_type} model is not a causal language model: use one")
    return AutoModelForCausalLM


def _load_weights(auto: Any, place: str, **options: Any) -> Any:
    """A model with every weight from its files; Transformers would fill those that are not there with random numbers."""
    model, told = auto.from_pretrained(place, **{**options, **SAFELY}, output_loading_info=True)
    lacking = sorted(map(str, (*told["missing_keys"], *told["mismatched_keys"])))
    if lacking:
        raise ModelError(
            f"cannot load language model {place}: its files lack {len(lacking)} of the weights of {type(model).__name__}, "
            f"such as {lacking[0]}: name a whole model"
        )
    return model


def _wrap(place: str, config: Any, tokenizer: Any, device: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """The plain model, and a TransformerBridge around its twin, which has the same tensors."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.model_bridge.sources.transformers import determine_architecture_from_hf_config

    auto, twins = _model_class(config), []

    class Loader:
        """What TransformerLens calls for the weights."""

        @staticmethod
        def from_pretrained(path: str, **options: Any) -> nn.Module:
            model = _load_weights(auto, path, **options).to(device).eval().requires_grad_(False)
            twins.append(_twin(model))
            return model

    if config.get_text_config() is config:
        bridge = TransformerBridge.boot_transformers(
            place, device=device, dtype=dtype, tokenizer=tokenizer, model_class=Loader, trust_remote_code=False
        )
    else:  # for a second tower `boot_transformers` would install packages
        model = Loader.from_pretrained(place, dtype=dtype, attn_implementation="eager")
        bridge = build_bridge_from_module(
            model,
            determine_architecture_from_hf_config(config),
            hf_config=config,
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            model_name=place,
        )
    bridge.eval().requires_grad_(False)
    return twins[0], bridge


def _twin(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its tensors: wrapping the one in a bridge leaves the other as it is."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a hub name or local folder."""
    require_model_folder(name)
    with quiet(), loading("tokenizer", name):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(resolve_name(name), trust_remote_code=False)
    if tokenizer is None or not len(tokenizer):
        raise ModelError(f"cannot load tokenizer {name}: it has no tokens; is tokenizer.json there and whole?")
    return tokenizer


@contextlib.contextmanager
def loading(kind: str, name: str, *, hint: str = "check the name; a local folder works too") -> Iterator[None]:
    """Turn a loader's failure into one line: whatever is raised inside other libraries is about the files they read.

    What this package itself raises is a bug, and keeps its traceback.
    """
    try:
        yield
    except AtlasError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise  # stopped by the user
        if _raised_here(error):
            raise
        if isinstance(error, ImportError):
            hint = "install or update the package that is asked for"
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ModelError(f"cannot load {kind} {name}: {reason}; {hint}") from error


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).parent == Path(__file__).parent
