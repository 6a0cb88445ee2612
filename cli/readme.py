"""Write the generated parts of the README: the command reference, and the table of tables.

python -m atlas.cli.readme README.md          rewrites them in place
python -m atlas.cli.readme README.md --check  exits with 1 when they are out of date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
from atlas.cli.main import COMMANDS, cli, finish


def command_reference() -> str:
    """The --help of every command."""
    parent = click.Context(cli, info_name="atlas", **cli.context_settings)
    parts = []
    for name in COMMANDS:
        command = cli.get_command(parent, name)
        if command is None:
            raise LookupError(f"there is no command {name}")
        context = click.Context(command, parent, info_name=name, terminal_width=100)
        parts.append(f"### atlas {name}\n\n```\n{command.get_help(context)}\n```")
    return "\n\n".join(parts)


def table_of_tables() -> str:
    """Every table and view, and every column, with the comments of sql/schema.sql."""
    import tempfile

    from atlas.store.file import Store

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "empty.atlas")
        store.create()
        with store.read() as session:
            rows = session.ask("documented_columns").to_dicts()
    lines = ["| table | one row is | columns |", "|---|---|---|"]
    for table in dict.fromkeys(row["table_name"] for row in rows):
        mine = [row for row in rows if row["table_name"] == table]
        columns = "<br>".join(f"`{row['column_name']}` {row['column_comment'] or ''}".strip() for row in mine)
        lines.append(f"| `{table}` | {mine[0]['table_comment']} | {columns} |")
    return "\n".join(lines)


def table_of_methods() -> str:
    """Every steering method with its defaults."""
    from atlas.steering.methods import METHODS

    lines = ["| method | what it does | `--strength` | `--neurons` |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        strength = "-" if method.strength is None else f"{method.strength:g}"
        lines.append(f"| `{name}` | {method.help} | {strength} | {method.neurons or '-'} |")
    return "\n".join(lines)


def table_of_scorers() -> str:
    """Every scorer."""
    from atlas.scoring.scorers import SCORERS

    lines = ["| `--scorer` | a neuron's score | needs |", "|---|---|---|"]
    needs = {
        None: "the atlas",
        "activations": "one model run over the topic's texts",
        "output": "one model run per neuron",
    }
    lines += [f"| `{name}` | {scorer.help} | {needs[scorer.needs]} |" for name, scorer in SCORERS.items()]
    return "\n".join(lines)


def table_of_rules() -> str:
    """Every selection rule."""
    from atlas.steering.selection import DEFAULT_RULE, RULES

    lines = ["| `--select` | which neurons, in which order |", "|---|---|"]
    lines += [f"| `{name}`{' (default)' * (name == DEFAULT_RULE)} | {rule.help} |" for name, rule in RULES.items()]
    return "\n".join(lines)


def table_of_metrics() -> str:
    """Every metric of a text, and every control."""
    from atlas.evaluation.controls import CONTROLS
    from atlas.evaluation.metrics import METRICS

    lines = ["| metric | of a generated text | better |", "|---|---|---|"]
    lines += [f"| `{name}` | {metric.help} | {metric.better} |" for name, metric in METRICS.items()]
    lines += ["", "| control | |", "|---|---|"]
    lines += [f"| `METHOD/{name}` | {control.help} |" for name, control in CONTROLS.items()]
    return "\n".join(lines)


PARTS = {
    "commands": command_reference,
    "tables": table_of_tables,
    "methods": table_of_methods,
    "scorers": table_of_scorers,
    "rules": table_of_rules,
    "metrics": table_of_metrics,
}


def renew(text: str) -> str:
    """The README with its generated parts made anew."""
    for name, make in PARTS.items():
        pattern = re.compile(f"(<!-- generated: {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README has no part '<!-- generated: {name} -->'")
        body = make()
        text = pattern.sub(lambda found, body=body: found[1] + body + found[2], text)  # type: ignore[misc]
    return text


def main() -> None:
    """Rewrite or check the README named on the command line."""
    path = Path(sys.argv[1])
    old = path.read_text()
    new = renew(old)
    if "--check" in sys.argv[2:]:
        if new != old:
            click.echo(f"{path} is out of date: run python -m atlas.cli.readme {path}", err=True)
            finish(1)
    else:
        path.write_text(new)
    finish(0)


if __name__ == "__main__":
    main()
