"""The `atlas` command: a click group whose commands parse, call one stage, and print."""

from __future__ import annotations

import importlib
import io
import keyword
import os
import signal
import sys
import warnings
from typing import Any

import click
from atlas.cli.arguments import options_first
from atlas.cli.output import echo

from atlas.errors import AtlasError
from atlas.store.keeping import NotStored

COMMANDS = {
    "demo": ("demo", "The bundled model, end to end: build, score, ask, steer."),
    "build": ("build", "Build an atlas from prompts, a model and SAEs, or add to one."),
    "info": ("ask", "What is in an atlas, and how it was made."),
    "score": ("score", "Score every neuron for a topic, or for a folder of topics."),
    "search": ("search", "The neurons that are closest to any text, at once."),
    "label": ("label", "A few words for every neuron, by which other commands show it."),
    "match": ("match", "The neurons of the same meaning in another SAE, layer or model."),
    "top": ("ask", "The best neurons of a topic, and what they write."),
    "why": ("ask", "The reference prompts behind a neuron's score."),
    "neuron": ("neuron", "All there is to know of one neuron."),
    "map": ("map", "A place for every neuron, those that are alike near each other."),
    "notes": ("notes", "Your own notes on neurons, in lists."),
    "steer": ("steer", "Generate text steered by a topic's stored scores."),
    "evaluate": ("evaluate", "How well a topic is found and steered to, with intervals and controls."),
    "contrast": ("contrast", "Make steering vectors of a behaviour from contrast pairs."),
    "choices": ("choices", "Whether a behaviour's vectors move the model's choices, and at what price."),
    "reproduce": ("reproduce", "The papers' tables and figures from an atlas, on one page."),
    "explore": ("explore", "A page on an atlas in the browser: search, see why, steer."),
    "query": ("ask", "Ask an atlas in SQL, read-only."),
    "export": ("exchange", "Write an atlas as a folder of Parquet files, or neurons as a page."),
    "import": ("exchange", "Make an atlas from such a folder."),
}


class LazyGroup(click.Group):
    """Loads a command's module when it is run, and lists all without loading any."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """A command, or None for an unknown one; only its module is loaded."""
        if name not in COMMANDS:
            return None
        function = f"{name}_" if keyword.iskeyword(name) else name
        return getattr(importlib.import_module(f"atlas.cli.{COMMANDS[name][0]}"), function)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command, its options put before its arguments."""
        name, command, rest = super().resolve_command(context, arguments)
        return name, command, rest if command is None else options_first(command, rest)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line per command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="neuron-atlas", prog_name="atlas")
def cli() -> None:
    """Ask a language model's SAE neurons which of them stand for a topic, and steer its text with the answer.

    Begin with `atlas demo`. The atlas file is always the first argument; results go to stdout, progress to stderr.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0 (done), 1 (something a user can put right, said in one line) or 2 (usage)."""
    code: Any = 0
    for stream in (sys.stdout, sys.stderr):  # a name of a file may hold bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, stop)
    warnings.showwarning = show_warning
    try:
        code = cli.main(arguments, standalone_mode=False) or 0
    except AtlasError as error:
        echo(f"Error: {error}", err=True)
        code = 1
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("stopped", err=True)
        code = 1
    except BrokenPipeError:
        code = 0
    finish(code)


def stop(_number: int, _frame: object) -> None:
    """What SIGTERM does: the same as Ctrl-C, so that nothing half written is left."""
    raise KeyboardInterrupt


def show_warning(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
    """What was not stored is said in one line, other warnings as Python says them."""
    if issubclass(category, NotStored):
        echo(f"Warning: {message}", err=True)
    else:
        _show_warning(message, category, *place, **options)


_show_warning = warnings.showwarning


def finish(code: int) -> None:
    """Leave at once: taking torch and DuckDB down one object at a time is slow, and DuckDB talks while it happens."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    os._exit(code)


if __name__ == "__main__":
    main()
