"""Benchmark of matching where the truth is known: two SAEs of one hook that differ in their seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata

import atlas
import atlas.building.build
from atlas.api import Atlas
from atlas.models.activations import run_model, tokenize
from atlas.models.quiet import quiet
from atlas.models.saes import load_sae
from atlas.store.weights import weight_runs
from atlas.texts import bundled

from .building import language_model, some_prompts
from .measure import Figure, Setting, figure

HOOK = "blocks.2.hook_resid_post"
SEEDS = (0, 1)
TRAINED = {"small": (96, 64, 60), "paper": (1600, 512, 1500), "large": (1600, 512, 1500)}  # prompts, neurons, steps
BATCH, ACTIVE = 512, 16  # tokens per step, neurons per token
TWIN = 0.7  # cosine of decoder rows from which two neurons are one that both SAEs found
DRAWN = 10


def matching(setting: Setting) -> Iterator[Figure]:
    """Whether nearest in meaning is nearest by decoder row and by co-firing, for two SAEs of one hook."""
    prompts, neurons, steps = TRAINED[setting.scale]
    saes = setting.folder / "saes"
    tokens = _record(some_prompts(prompts).texts)
    for seed in SEEDS:
        _train(tokens, neurons, steps, seed, saes / str(seed))
    path = setting.folder / "twins.atlas"
    with quiet():
        atlas.building.build.build_atlas(
            path, some_prompts(prompts), model=str(bundled.MODEL), saes=[(str(saes), str(seed)) for seed in SEEDS]
        )
    opened = atlas.open(path)
    found = opened.match(sae_id=0, to=1)
    decoder, cofiring = _decoder_cosines(saes), _cofiring_cosines(opened)
    kept, partners = found["neuron"].to_numpy(), np.unique(opened.match(sae_id=1, to=0)["neuron"].to_numpy())
    by_decoder = partners[decoder[np.ix_(kept, partners)].argmax(axis=1)]
    by_firing = partners[cofiring[np.ix_(kept, partners)].argmax(axis=1)]
    by_meaning, mutual = found["other_neuron"].to_numpy(), found["mutual"].to_numpy()
    twins = decoder[kept, by_decoder] >= TWIN
    yield figure("neurons that can be matched", len(kept), "neurons")
    yield figure("of these mutual nearest in meaning", mutual.mean(), "share")
    for name, rows in (
        ("all", np.ones(len(kept), bool)),
        ("mutual", mutual),
        (f"with a twin (decoder cosine >= {TWIN})", twins),
    ):
        if rows.any():
            yield figure(f"{name}: neurons", rows.sum(), "neurons")
            yield figure(f"{name}: nearest by decoder row, too", (by_meaning == by_decoder)[rows].mean(), "share")
            yield figure(f"{name}: nearest by co-firing, too", (by_meaning == by_firing)[rows].mean(), "share")
            cosine = np.median(decoder[kept, by_meaning][rows])
            yield figure(f"{name}: median decoder cosine of the match", cosine, "cosine")
    yield figure(
        "nearest by co-firing is that by decoder row, with a twin", (by_firing == by_decoder)[twins].mean(), "share"
    )
    rng = np.random.default_rng(0)
    for place in sorted(rng.choice(len(kept), min(DRAWN, len(kept)), replace=False)):
        row = found.row(int(place), named=True)
        name = f"{row['neuron']} to {row['other_neuron']}{' (mutual)' if row['mutual'] else ''}, cosine of meaning"
        yield figure(name, row["cosine"], "cosine")
        largest = decoder[row["neuron"], partners].max()
        yield figure(f"  decoder cosine (largest {largest:.2f})", decoder[row["neuron"], row["other_neuron"]], "cosine")


@torch.no_grad()
def _record(texts: tuple[str, ...]) -> torch.Tensor:
    """The activations at the hook on all tokens of some texts [token, d_model]."""
    model = language_model()
    ids, _ = tokenize(model, texts, prepend_bos=True)
    parts = []
    for start in range(0, len(ids), 32):
        rows = ids[start : start + 32]
        x = run_model(model, rows, [HOOK])[HOOK]
        parts += [x[number, 1 : len(row)] for number, row in enumerate(rows)]
    return torch.cat(parts).float()


def _train(tokens: torch.Tensor, neurons: int, steps: int, seed: int, folder: Path) -> None:
    """A TopK SAE of the tokens; the seed says how it begins, and in which order it sees them."""
    torch.manual_seed(seed)
    metadata = SAEMetadata(model_name="pocket", hook_name=HOOK, prepend_bos=True, context_size=256)
    config = TopKTrainingSAEConfig(
        d_in=tokens.shape[1],
        d_sae=neurons,
        k=ACTIVE,
        metadata=metadata,
        normalize_activations="expected_average_only_in",
    )
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield tokens[torch.randint(len(tokens), (BATCH,), generator=generator)]

    settings = SAETrainerConfig(
        total_training_samples=steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=1e-3,
        lr_end=1e-3,
        lr_warm_up_steps=steps // 10,
        lr_decay_steps=steps // 2,
        dead_feature_window=200,
        feature_sampling_window=steps + BATCH,
        autocast=False,
        logger=LoggingConfig(log_to_wandb=False),
    )
    with quiet():
        trained = SAETrainer(settings, TopKTrainingSAE(config), batches()).fit()
        trained.save_inference_model(folder)


def _decoder_cosines(saes: Path) -> np.ndarray:
    """Cosines of the decoder rows of the first SAE with those of the second [neuron, neuron]."""
    rows = [load_sae(str(saes), str(seed)).codec.decoder_rows.detach().double().numpy() for seed in SEEDS]
    one, other = (row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows)
    return np.asarray(one @ other.T)


def _cofiring_cosines(opened: Atlas) -> np.ndarray:
    """Cosines of the weights of the prompts for the neurons of the first SAE with those of the second [neuron, neuron]."""
    sides = []
    with opened.store.read() as session:
        for sae_key in (0, 1):
            runs = [weights.toarray() for _, weights in weight_runs(session, sae_key, "mean")]
            rows = np.concatenate(runs)
            sides.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
    return np.asarray(sides[0] @ sides[1].T)
