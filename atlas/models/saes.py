"""Load SAEs of SAELens, and refuse those that cannot be used here or contradict themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlas.errors import ModelError, UnknownName
from atlas.models.codec import Codec
from atlas.models.fingerprints import hash_sae
from atlas.models.load_failures import loading
from atlas.models.loading import LanguageModel
from atlas.models.quiet import quiet

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
    largest = cfg.metadata.largest_input_norm
    if largest is not None and not (type(largest) in (int, float) and 0 < largest < math.inf):
        raise ModelError(
            f"SAE {sae_id}: largest_input_norm is {largest!r} in its cfg.json: it has to be a number above 0"
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
