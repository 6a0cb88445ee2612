"""Write the generated parts of the READMEs: the command reference, the tables, and what the registries hold.

python -m atlas.cli.readme          rewrites them in place, from the repository's root
python -m atlas.cli.readme --check  exits with 1 when they are out of date
"""

from __future__ import annotations

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
        fixed = "-" if method.strength is None else f"{method.strength:g}"
        strength = "fitted" if method.fitted else fixed
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


PARTS = {  # name -> the file it stands in, and the function that writes it
    "commands": ("cli/README.md", command_reference),
    "tables": ("sql/README.md", table_of_tables),
    "scorers": ("atlas/scoring/README.md", table_of_scorers),
    "methods": ("atlas/steering/README.md", table_of_methods),
    "rules": ("atlas/steering/README.md", table_of_rules),
    "metrics": ("atlas/evaluation/README.md", table_of_metrics),
}


def renew(root: Path) -> dict[Path, str]:
    """The files below `root` that have generated parts, each with its parts made anew."""
    texts: dict[Path, str] = {}
    for name, (file, make) in PARTS.items():
        path = root / file
        text = texts.get(path) or path.read_text()
        before, opening, rest = text.partition(f"<!-- generated: {name} -->\n")
        _, closing, after = rest.partition("\n<!-- end -->")
        if not closing:
            raise SystemExit(f"{path} has no part '<!-- generated: {name} -->': name the repository's root")
        texts[path] = before + opening + make() + closing + after
    return texts


def main() -> None:
    """Rewrite or check the READMEs below the folder named on the command line, else below this one."""
    folders = [argument for argument in sys.argv[1:] if argument != "--check"]
    code = 0
    for path, new in renew(Path(*folders)).items():
        if path.read_text() == new:
            continue
        if "--check" in sys.argv:
            click.echo(f"{path} is out of date: run python -m atlas.cli.readme", err=True)
            code = 1
        else:
            path.write_text(new)
    finish(code)


if __name__ == "__main__":
    main()
