"""One page that shows every exhibit: plain HTML with its pictures inside, readable without JavaScript."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import polars as pl

from atlas.store.replacement import replacement

CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
img { max-width: 100%; height: auto; } code, pre { background: #f3f3f3; padding: 0.1rem 0.3rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; } dt { font-weight: 600; } dd { margin: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85rem; } th, td { padding: 0.15rem 0.6rem;
text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; } th:first-child, td:first-child { text-align: left; }
.missing { background: #fff5e0; padding: 0.5rem 1rem; } nav ul { columns: 2; padding-left: 1.2rem; }
"""


@dataclass(frozen=True)
class Entry:
    """What the page says of an exhibit.

    Attributes:
        name: key of EXHIBITS.
        title: what it is, in a line.
        caption: how to read it.
        paper: the paper's figure; empty where none is known.
        ours: what the rows show; empty when it is not there.
        missing: why it is not there; empty when it is.
        command: what makes it.
        picture: its PNG file; None when it is not there.
        table: what is set as a table; None for no table.
    """

    name: str
    title: str
    caption: str
    paper: str
    ours: str
    missing: str
    command: str
    picture: Path | None = None
    table: pl.DataFrame | None = None


def write_page(path: Path, heading: str, facts: Sequence[tuple[str, str]], entries: Sequence[Entry]) -> None:
    """Write the page at once or not at all.

    Args:
        heading: of the page.
        facts: (name, value) pairs that stand on top.
        entries: in the order they are shown.
    """
    contents = "".join(
        f'<li><a href="#{e.name}">{escape(headline(e.name, e.title))}</a>{" (not available)" * bool(e.missing)}</li>'
        for e in entries
    )
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    body = "\n".join(map(section, entries))
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(heading)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{CSS}</style></head>\n<body><h1>{escape(heading)}</h1>\n'
        f"<dl>{listed}</dl>\n<nav><ul>{contents}</ul></nav>\n{body}\n</body></html>\n"
    )
    with replacement(path) as new:
        new.write_text(text, encoding="utf-8")


def section(entry: Entry) -> str:
    """An exhibit's part of the page."""
    parts = [
        f'<h2 id="{entry.name}">{escape(headline(entry.name, entry.title))}</h2>',
        f"<p>{escape(entry.caption)}</p>",
    ]
    if entry.missing:
        parts.append(f'<p class="missing">Not available: {escape(entry.missing)}</p>')
    if entry.picture is not None:
        data = base64.b64encode(entry.picture.read_bytes()).decode()
        alt = escape(headline(entry.name, entry.title))
        parts.append(f'<p><img src="data:image/png;base64,{data}" alt="{alt}"></p>')
    if entry.table is not None:
        parts.append(f'<div class="wide">{html_table(entry.table)}</div>')
    facts = (
        [("paper", entry.paper or "no figure given"), ("ours", entry.ours)]
        if not entry.missing
        else [("paper", entry.paper)]
    )
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    made = f"<dt>made by</dt><dd><code>{escape(entry.command)}</code></dd>"
    rows = "" if entry.missing else f'<dt>rows</dt><dd><a href="{entry.name}.csv">{entry.name}.csv</a></dd>'
    return "\n".join([*parts, f"<dl>{listed}{made}{rows}</dl>"])


def headline(name: str, title: str) -> str:
    """How an exhibit is called on the page: one that the paper numbers by its number too."""
    kind, _, number = name.partition("_")
    return f"{kind.capitalize()} {number}: {title}" if kind in ("table", "figure") else title


def html_table(frame: pl.DataFrame) -> str:
    """A frame of texts and numbers as an HTML table."""
    head = "".join(f"<th>{escape(name)}</th>" for name in frame.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(value))}</td>" for value in row) + "</tr>" for row in frame.iter_rows()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def cell(value: object) -> str:
    """Four significant digits; a dash for what is not there."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
