"""Make the papers' tables and figures from an atlas: a CSV and a picture each, and one page that shows them all.

The atlas is only read; variants of the scores go into a temporary copy. An exhibit whose CSV is there is not computed again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.progress import Progress, silent
from atlas.reproduction import plots
from atlas.reproduction.exhibit import Exhibit
from atlas.reproduction.exhibit_inputs import ExhibitInputs, ModelLocations, NotAvailable, TestTexts
from atlas.reproduction.exhibits import EXHIBITS
from atlas.reproduction.generated_text import FIGURES
from atlas.reproduction.page import Entry, write_page
from atlas.store.replacement import replacement
from atlas.store.waiting import patient
from atlas.texts.prompts import hash_texts

if TYPE_CHECKING:
    from atlas.api import Atlas

SETTINGS = "settings.json"  # in the folder: what its files were made from
MADE, KEPT, MISSING, NOT_YET = "made", "there already", "not available", "not made yet"


@patient()
def make_exhibits(
    atlas: Atlas,
    out: str | Path,
    texts: TestTexts,
    *,
    topic: str | None = None,
    only: Sequence[str] = (),
    redo: bool = False,
    locations: ModelLocations | None = None,
    finetuned: Path | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Make exhibits and the page.

    Args:
        atlas: a finished atlas with at least one topic scored for every SAE.
        out: the folder; made when it is not there.
        texts: texts that no topic was scored by.
        topic: the topic of the exhibits that show one; None for `medicine`, else the first with held-out texts.
        only: keys of EXHIBITS; none means all.
        redo: make what is there again.
        locations: where model, SAEs and encoder are now.
        finetuned: folder of fine-tuned models; None leaves them out.
        progress: called with (stage, done, total).

    Returns:
        A row per exhibit: name, title, state (made, there already, not available, not made yet), seconds, ours (what it
        shows, or why it is not there).

    Raises:
        UnknownName: no such exhibit or topic.
        StoreError: the folder holds exhibits of another atlas, topic or texts and `redo` is off.
        AtlasError: matplotlib is not installed.
    """
    plots.require_matplotlib()
    for name in only:
        if name not in EXHIBITS:
            raise UnknownName("exhibit", name, EXHIBITS)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file: name a folder for the tables and figures")
    with tempfile.TemporaryDirectory() as scratch:
        inputs = ExhibitInputs(
            atlas, texts, folder=Path(scratch), topic=topic, locations=locations, finetuned=finetuned, progress=progress
        )
        claim_folder(folder, inputs, redo=redo)
        where = {"atlas": str(atlas.store.path), "out": str(folder)}
        rows, entries = [], []
        for name, exhibit in EXHIBITS.items():
            started = time.perf_counter()
            wanted = not only or name in only
            state, missing = make_exhibit(name, exhibit, inputs, folder, where, wanted=wanted, redo=redo and wanted)
            entry = describe(name, exhibit, folder, missing, where)
            entries.append(entry)
            rows.append((name, exhibit.title, state, time.perf_counter() - started, entry.ours or entry.missing))
        write_page(
            folder / "index.html", "Tables and figures of the papers, from this atlas", facts_of(inputs), entries
        )
    return pl.DataFrame(rows, schema=["name", "title", "state", "seconds", "ours"], orient="row")


def make_exhibit(
    name: str, exhibit: Exhibit, inputs: ExhibitInputs, folder: Path, where: dict[str, str], *, wanted: bool, redo: bool
) -> tuple[str, str]:
    """Make an exhibit's CSV and picture where they are wanted and not there; its state, and why it is not there."""
    csv, picture = folder / f"{name}.csv", folder / f"{name}.png"
    if csv.exists() and not redo:
        if not picture.exists():
            plots.save(exhibit.draw, pl.read_csv(csv, glob=False), picture)
        return KEPT, ""
    if not wanted:
        return NOT_YET, f"not made yet: {command_of(name, where)}"
    try:
        inputs.progress(f"{name}: {exhibit.title}", 0, 0)
        frame = exhibit.compute(inputs)
    except AtlasError as error:
        for path in (csv, picture):
            path.unlink(missing_ok=True)
        command = error.command.format(**where) if isinstance(error, NotAvailable) else ""
        return MISSING, f"{error}" + (f": {command}" if command else "")
    with replacement(csv) as new:  # last: what has its CSV is not made again
        frame.write_csv(new)
        plots.save(exhibit.draw, pl.read_csv(new, glob=False), picture)
    return MADE, ""


def describe(name: str, exhibit: Exhibit, folder: Path, missing: str, where: dict[str, str]) -> Entry:
    """What the page says of an exhibit, from its files."""
    shared = (name, exhibit.title, exhibit.caption, exhibit.paper)
    if missing:
        return Entry(*shared, "", missing, command_of(name, where))
    frame = pl.read_csv(folder / f"{name}.csv", glob=False)
    table = None if exhibit.table is None else spread(frame, *exhibit.table)
    return Entry(*shared, exhibit.say(frame), "", command_of(name, where), picture=folder / f"{name}.png", table=table)


def command_of(name: str, where: dict[str, str]) -> str:
    """The command that makes an exhibit."""
    return f"atlas reproduce {where['atlas']} --out {where['out']} --only {name} --redo"


def spread(frame: pl.DataFrame, index: Sequence[str], column: str) -> pl.DataFrame:
    """A frame as it is set on the page: a column per metric that `column` names, each value with its 95 % interval."""
    if not column:
        return frame
    plain = frame.filter(pl.col(column).is_in(FIGURES) & pl.col("value").is_not_null())
    half = (pl.col("high") - pl.col("low")) / 2
    text = pl.struct("value", half.alias("half")).map_elements(
        lambda row: f"{row['value']:.3f}" + (f" ± {row['half']:.3f}" if row["half"] is not None else ""),
        return_dtype=pl.String,
    )
    return plain.with_columns(text=text).pivot(column, index=list(index), values="text")


def claim_folder(folder: Path, inputs: ExhibitInputs, *, redo: bool) -> None:
    """Write down what the folder's files are made from; StoreError when they were made from something else."""
    settings = settings_of(inputs)
    record = folder / SETTINGS
    found = json.loads(record.read_text()) if record.exists() else None
    if found is not None and {**settings, **found} != settings:  # an older version did not write down all of them
        if not redo:
            other = ", ".join(name for name in settings if found.get(name, settings[name]) != settings[name])
            raise StoreError(f"{folder} holds exhibits made from other {other}: name another folder, or --redo")
        for name in EXHIBITS:
            for ending in ("csv", "png"):
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error


def settings_of(inputs: ExhibitInputs) -> dict[str, Any]:
    """What two runs must share for their exhibits to stand on one page."""
    texts = inputs.texts
    with inputs.session() as session:
        own = {name: session.ask("topic_texts", topic=name)["text"].to_list() for name in inputs.topics}
    return {
        "prompts of the atlas": inputs.built["reference_hash"],
        "SAEs": [row["sae_hash"] for row in inputs.saes],
        "topics": {name: hash_texts(found) for name, found in own.items()},
        "topic": inputs.topic,
        "held-out texts": {name: hash_texts(list(found)) for name, found in texts.held_out.items() if name in own},
        "short sets": {name: hash_texts(list(found)) for name, found in texts.short.items() if name in own},
        "unaligned texts": hash_texts(list(texts.unaligned)),
        "generation prompts": hash_texts(list(texts.prompts)),
        "subjects": {name: hash_texts(list(found)) for name, found in texts.subjects.items()},
    }


def facts_of(inputs: ExhibitInputs) -> list[tuple[str, str]]:
    """What stands on top of the page."""
    with inputs.session() as session:
        size = session.ask("atlas_size").to_dicts()[0]
    saes = "; ".join(f"{row['sae_id']} ({row['architecture']}, {row['d_sae']:,} neurons)" for row in inputs.saes)
    return [
        (
            "topic paper",
            "arXiv 2506.12576 (numbers follow it; how tables 7 and 8 and figures 5, 6, 11 to 13 share their subject is ours)",
        ),
        ("SAS", "arXiv 2503.00177"),
        (
            "atlas",
            f"{inputs.atlas.store.path.name}, {size['prompts']:,} reference prompts, {size['rows']:,} activation rows",
        ),
        (
            "model",
            Path(inputs.saes[0]["model"]).name if inputs.saes[0]["model"].startswith("/") else inputs.saes[0]["model"],
        ),
        ("SAEs", saes),
        ("topics", f"{', '.join(inputs.topics)}; where one is shown: {inputs.topic}"),
        ("paper's figures", "orders of magnitude only: another model, other SAEs, other prompts"),
    ]
