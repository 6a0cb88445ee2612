"""Frames into cards of HTML: plain, with inline SVG and without scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from atlas.cards.html import NO_LINKS, Links, number, percent, render

if TYPE_CHECKING:
    from atlas.cards.frames import NeuronFrames
    from atlas.steering.generation import Generation

INTERVAL = 1.96  # standard errors on each side of a score
FULLEST = 0.75  # opacity of the tint of the largest value, so that the text on it can be read
FAINTEST = 0.06  # of the smallest above 0
AROUND = 22  # tokens on each side of the strongest that are shown of a long prompt
TOPICS = 8  # that a neuron's card lists
NEAREST = 5  # neighbours of a kind and SAE that it lists
PROMPTS = 20  # that a card of why lists
HEIGHT, WIDTH = 80, 300  # of a histogram
NEIGHBOURS = (
    ("meaning", "Near in meaning", "by the prompts they fire on, as points among sentence embeddings"),
    ("co-firing", "Fire together", "cosine of activations over the prompts"),
    ("decoder", "Write alike", "cosine of decoder rows"),
)
FIGURES = ("strength", "contamination")  # of a generated text


def render_neuron(neuron: NeuronFrames, *, links: Links = NO_LINKS) -> str:
    """A neuron's card."""
    row = neuron.row
    samples = [_sample(one, row["max_activation"]) for one in neuron.samples.iter_rows(named=True)]
    of_kind = {kind: [one for one in samples if one["kind"] == kind] for kind in ("strongest", "range", "random")}
    if not any(one["tokens"] for one in of_kind["strongest"]):  # no model was run: what the build kept of them
        of_kind["strongest"] = [_context(one, row["max_activation"]) for one in neuron.contexts.iter_rows(named=True)]
    topics = [_with_interval(one) for one in neuron.topics.iter_rows(named=True)]
    best = [one for one in topics if one["rank"] is not None][:TOPICS]
    return render(
        "neuron.html",
        row=row,
        labels=neuron.labels.to_dicts(),
        notes=neuron.notes.to_dicts(),
        dead=neuron.is_dead,
        previous=neuron.previous,
        next=neuron.next,
        notices=neuron.notices,
        histograms=_histograms(neuron),
        written={side: neuron.written.filter(pl.col("side") == side).to_dicts() for side in ("promoted", "suppressed")},
        topics=best,
        topics_left=len(topics) - len(best),
        kinds=NEIGHBOURS,
        neighbours={kind: _by_sae(neuron.neighbours.filter(pl.col("kind") == kind)) for kind, *_ in NEIGHBOURS},
        strongest=of_kind["strongest"],
        ranges=_ranges(of_kind["range"]),
        random=of_kind["random"],
        links=links,
    )


def render_topic(
    frame: pl.DataFrame,
    title: str = "",
    *,
    subtitle: str = "",
    sae_keys: Mapping[str, int] | None = None,
    notices: Sequence[str] = (),
    links: Links = NO_LINKS,
) -> str:
    """Ranked neurons: what `top` and `search` give.

    Args:
        frame: sae_id, neuron, and whichever there are of sae_key, rank, score, se, z, support, label, fires_on, top_tokens,
            text (a note).
        title: above them.
        subtitle: beside it.
        sae_keys: sae_id -> sae_key, for links, where the frame has no column of it.
        notices: lines to be read first.
        links: where neurons lead to.
    """
    known = dict(sae_keys or {})
    columns = ("score", "se", "z", "support", "fires_on", "top_tokens", "label", "text", "sae_key", "rank")
    groups: dict[tuple[str | None, str], list[dict[str, Any]]] = {}
    for row in frame.iter_rows(named=True):
        own = groups.setdefault((row.get("release"), row["sae_id"]), [])  # two releases may have SAEs of one name
        filled = {**dict.fromkeys(columns), "sae_key": known.get(row["sae_id"], -1), "rank": len(own) + 1, **row}
        own.append(_with_interval(filled))
    has = {name: name in frame.columns and frame[name].count() > 0 for name in columns}
    whiskers = any(row["low"] is not None for rows in groups.values() for row in rows)
    shared = {"title": title, "subtitle": subtitle, "notices": notices, "links": links}
    named = [(sae_id, rows) for (_, sae_id), rows in groups.items()]
    return render("topic.html", groups=named, has=has, whiskers=whiskers, **shared)


def render_why(frame: pl.DataFrame, title: str = "", *, prompts: int = PROMPTS, notices: Sequence[str] = ()) -> str:
    """The prompts behind a neuron's score, heaviest first: what `why` gives."""
    groups = []
    for part in frame.partition_by("scoring_id", maintain_order=True):
        heaviest = part["weight"].max() or 1.0
        shown = part.head(prompts)
        rows = [{**row, "share": row["weight"] / heaviest} for row in shown.iter_rows(named=True)]
        first = {**dict.fromkeys(("score", "se", "z", "label")), **part.row(0, named=True)}
        rest = part["contribution"].slice(prompts).sum()
        figures = {"height": part.height, "total": part["contribution"].sum(), "left": part.height - shown.height}
        groups.append({**first, **figures, "rest": rest, "rows": rows})
    return render("why.html", groups=groups, title=title, notices=notices)


def render_text(
    tokens: Sequence[str],
    values: Sequence[float | None],
    *,
    highest: float | None = None,
    title: str = "",
    said: str = "",
    warm: bool = True,
) -> str:
    """A text with every token tinted.

    Args:
        tokens: what each token stands for in it.
        values: one per token, 0 or more; None for a token that does not count.
        highest: the value of the fullest tint; None for the largest there is.
        title: above it.
        said: what the values are; shown beside their scale.
        warm: the colour: orange, or else blue.
    """
    top = highest if highest is not None else max((value for value in values if value is not None), default=0.0)
    pieces = _pieces(tokens, values, top)
    return render("text.html", pieces=pieces, highest=top, title=title, said=said, warm=warm)


def render_steer(
    texts: Sequence[Generation | Mapping[str, Any]], title: str = "", *, notices: Sequence[str] = ()
) -> str:
    """Texts side by side, prompt by prompt.

    Args:
        texts: what `steer_prompts` gives; or mappings with method, prompt, text, and whichever there are of title (shown in
            place of the method), strength, contamination, and tokens with values (contamination of each), which tint the text.
        title: above them.
        notices: lines to be read first.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in texts:
        row = dict(one) if isinstance(one, Mapping) else asdict(one) if is_dataclass(one) else dict(one)
        pieces = _pieces(row["tokens"], row["values"], 1.0) if row.get("tokens") else []
        figures = [(name, row[name]) for name in FIGURES if row.get(name) is not None]
        own = {"title": row.get("title") or row["method"], "text": row["text"], "pieces": pieces, "figures": figures}
        groups.setdefault(row["prompt"], []).append(own)
    return render("steer.html", groups=list(groups.items()), title=title, notices=notices)


def _pieces(tokens: Sequence[str], values: Sequence[float | None], highest: float) -> list[dict[str, Any]]:
    """Tokens with their tints."""
    pieces = []
    for text, value in zip(tokens, values, strict=True):
        share = 0.0 if not value or not highest else min(max(value / highest, 0.0), 1.0)
        tint = FAINTEST + (FULLEST - FAINTEST) * share if share else 0.0
        title = "" if not value else f"{number(value)}, {percent(share)} of {number(highest)}"
        lead = text[: len(text) - len(text.lstrip(" "))] if text.strip() else ""  # spaces before a word have no tint
        pieces.append({"text": text, "lead": lead, "value": value, "tint": tint, "title": title})
    return pieces


def _sample(row: dict[str, Any], highest: float) -> dict[str, Any]:
    """A prompt on which a neuron fires; of a long one what is around its strongest token."""
    if row["tokens"] is None:
        plain = [{"text": row["text"], "lead": "", "value": 0.0, "tint": 0.0, "title": ""}]
        return {**row, "value": row["act_max"], "pieces": plain, "short": None}
    pieces = _pieces(row["tokens"], row["activations"], highest)
    values = [value or 0.0 for value in row["activations"]]
    peak = values.index(max(values))
    first, last = max(0, peak - AROUND), peak + AROUND + 1
    whole = len(pieces) <= 2 * AROUND + 1
    cut = {"cut_left": first > 0, "cut_right": last < len(pieces)}
    return {**row, "value": row["act_max"], "pieces": pieces, "short": None if whole else pieces[first:last], **cut}


def _context(row: dict[str, Any], highest: float) -> dict[str, Any]:
    """One of a neuron's strongest tokens with the text around it, as the build kept it."""
    left, _, rest = row["context"].partition("«")
    token, _, right = rest.partition("»")
    pieces = _pieces([left, token, right], [0.0, row["activation"], 0.0], highest)
    return {**row, "value": row["activation"], "pieces": pieces, "short": None, "source": None}


def _ranges(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples by their range of activation, highest first."""
    groups: dict[float, dict[str, Any]] = {}
    for one in samples:
        head = {"low": one["low"], "high": one["high"], "share": one["share"], "rows": []}
        groups.setdefault(one["low"], head)["rows"].append(one)
    return list(groups.values())


def _histograms(neuron: NeuronFrames) -> list[dict[str, Any]]:
    """What is drawn as histograms: title, said (what is counted, over what), unit, bars, most; those that have a bar."""
    known = neuron.samples.drop_nulls("tokens")["prompt_id"].n_unique()
    words = int(neuron.logit_histogram["tokens"].sum()) if neuron.logit_histogram.height else 0
    found = (
        ("Activations per prompt", "the largest in each of all prompts that it fires on", "prompts", neuron.histogram),
        (
            "Activations per token",
            f"all above 0 over the {known} prompts shown below; these are picked, so that strong activations are overrepresented",
            "tokens",
            neuron.token_histogram,
        ),
        ("Logits", f"of all {words:,} tokens of the vocabulary, as its decoder row alone gives them", "tokens",
         neuron.logit_histogram),
    )  # fmt: skip
    return [
        {
            "title": title, "said": said, "unit": unit, "bars": _bars(frame.to_dicts(), unit), "most": frame[unit].max(),
            "low": frame.item(0, "low"), "high": frame.item(-1, "high"),
        }
        for title, said, unit, frame in found
        if frame.height
    ]  # fmt: skip


def _bars(histogram: list[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    """A histogram's bars, with where they stand."""
    most = max((one[unit] for one in histogram), default=0)
    step = WIDTH / len(histogram) if histogram else 0.0
    bars = []
    for place, one in enumerate(histogram):
        height = 0.0 if not one[unit] else max(1.0, (HEIGHT - 12) * one[unit] / most)
        sizes = {"x": round(place * step, 2), "width": round(step - 0.8, 2), "y": round(HEIGHT - height, 2)}
        bars.append({**one, **sizes, "height": round(height, 2), "count": one[unit], "cold": one["high"] <= 0})
    return bars


def _by_sae(frame: pl.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in frame.iter_rows(named=True):
        groups.setdefault(row["sae_key"], []).append(row)
    return [(rows[0]["sae_id"], rows[:NEAREST]) for rows in groups.values()]


def _with_interval(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the share of a bar that its score fills, and the ends of the score's 95 % interval."""
    score, error = row["score"], row.get("se")
    low, high = None, None
    if score is not None and error is not None and math.isfinite(error):
        low, high = max(0.0, score - INTERVAL * error), min(1.0, score + INTERVAL * error)
    return {**row, "share": min(max(score or 0.0, 0.0), 1.0), "low": low, "high": high}
