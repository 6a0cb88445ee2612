"""Labels from Neuronpedia's exports: which SAE they are of, one per neuron, stored in the place of those of an earlier import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from atlas.errors import AtlasError, ModelError, shown
from atlas.meaning.label_quality import Embed, quality_of_labels
from atlas.store.contents import stack_vectors
from atlas.store.file import Store
from atlas.store.session import now
from atlas.store.state import require_complete
from atlas.store.waiting import patient
from atlas.texts.explanations import Explanation, read_explanations

SOURCE = "neuronpedia"  # of the labels that are imported here
Qualities = Mapping[int, float | None]  # neuron -> quality of its label


@dataclass(frozen=True)
class _Sae:
    key: int
    sae_id: str
    neuronpedia_id: str | None
    neurons: int


def import_labels(
    store: Store, path: str | Path, *, embed: Embed, sae_key: int | None = None, tell: Callable[[str], None]
) -> list[int]:
    """Store explanations as labels of source `neuronpedia`; of several of one neuron the newest, else the last.

    Args:
        store: a finished atlas.
        path: a file or folder of explanations.
        embed: texts -> a frame with their embeddings in `vector`; where it raises ModelError, the labels' quality is not measured.
        sae_key: the SAE that they are of; None for the one that has their id (`saes.neuronpedia_id`).
        tell: called with a line per SAE: how many there were, and what was left out.

    Returns:
        The keys of the SAEs that have new labels.

    Raises:
        PromptError: they cannot be read.
        AtlasError: they are of no SAE of the atlas, or of more neurons than it has.
    """
    with store.read() as session:
        require_complete(session, store)
        rows = session.ask("all_saes").iter_rows(named=True)
        saes = [_Sae(row["sae_key"], row["sae_id"], row["neuronpedia_id"], row["d_sae"]) for row in rows]
    chosen: dict[str, _Sae] = {}
    labels: dict[int, dict[int, Explanation]] = {}
    counts: dict[str, int] = {}
    for found in read_explanations(path):
        sae = chosen.get(found.source) or _find_sae(saes, found, sae_key, chosen, store)
        chosen[found.source] = sae
        counts[found.source] = counts.get(found.source, 0) + 1
        _add(labels.setdefault(sae.key, {}), found, sae)
    if not labels:
        raise AtlasError(f"{path} explains no neuron: name an export of explanations")
    for source, sae in chosen.items():
        _say(tell, source, sae, counts[source], len(labels[sae.key]))
    qualities = {key: _measure(store, key, own, embed, tell) for key, own in labels.items()}
    with patient(), store.write() as session:
        session.run("drop_labels", source=SOURCE, sae_keys=list(labels))
        for key, own in labels.items():
            session.append("labels", _as_frame(key, own.values(), qualities[key]))
    return list(labels)


def _measure(
    store: Store, sae_key: int, own: Mapping[int, Explanation], embed: Embed, tell: Callable[[str], None]
) -> Qualities:
    """The quality of an SAE's labels; none where the sentence encoder is not here, which is said."""
    try:
        vectors = stack_vectors(embed([found.text for found in own.values()])["vector"])
    except ModelError as reason:
        tell(f"the labels' quality is not measured: {reason}")
        return {}
    with store.read() as session:
        return quality_of_labels(session, sae_key, dict(zip(own, vectors, strict=True)))


def _find_sae(saes: list[_Sae], found: Explanation, sae_key: int | None, chosen: dict[str, _Sae], store: Store) -> _Sae:
    if sae_key is not None:
        if chosen:
            raise AtlasError(
                f"{found.place} explains {shown(found.source)}, and lines above it {shown(next(iter(chosen)))}: import those of "
                "one SAE at a time, or leave --sae-id out"
            )
        return next(sae for sae in saes if sae.key == sae_key)
    fitting = [sae for sae in saes if sae.neuronpedia_id == found.source]
    if len(fitting) != 1:
        listed = ", ".join(f"{sae.key} ({sae.sae_id}: {sae.neuronpedia_id or 'no id'})" for sae in saes)
        number = "no SAE has" if not fitting else f"{len(fitting)} SAEs have"
        raise AtlasError(
            f"{found.place} explains {shown(found.source)}, and {number} this id in {store.path}, which has {listed}: say with "
            "--sae-id which one they are of"
        )
    return fitting[0]


def _add(own: dict[int, Explanation], found: Explanation, sae: _Sae) -> None:
    if found.neuron >= sae.neurons:
        raise AtlasError(
            f"{found.place} explains neuron {found.neuron}, and {sae.sae_id} has {sae.neurons:,} neurons: the explanations are of "
            "another SAE"
        )
    before = own.get(found.neuron)
    if before is None or found.made >= before.made:
        own[found.neuron] = found


def _say(tell: Callable[[str], None], source: str, sae: _Sae, count: int, neurons: int) -> None:
    older = f"; {count - neurons:,} left out for newer ones of the same neuron" if count > neurons else ""
    tell(
        f"{count:,} explanations of {source}: {neurons:,} of the {sae.neurons:,} neurons of {sae.sae_id} labelled{older}"
    )
    if sae.neuronpedia_id != source:
        known = f"Neuronpedia's {sae.neuronpedia_id}" if sae.neuronpedia_id else "unknown to Neuronpedia"
        tell(f"{sae.sae_id} is {known} as far as this atlas knows: check that the explanations are of this SAE")


def _as_frame(sae_key: int, own: Iterable[Explanation], qualities: Qualities) -> pl.DataFrame:
    labels = sorted(own, key=lambda found: found.neuron)
    return pl.DataFrame(
        {
            "sae_key": pl.repeat(sae_key, len(labels), dtype=pl.UInt32, eager=True),
            "neuron": pl.Series([found.neuron for found in labels], dtype=pl.UInt32),
            "label": [found.text for found in labels],
            "quality": pl.Series([qualities.get(found.neuron) for found in labels], dtype=pl.Float32),
        }
    ).with_columns(source=pl.lit(SOURCE), created_at=pl.lit(now()))
