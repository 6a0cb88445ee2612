"""Free text on the command line: a topic, a prompt or an SQL text may begin with a dash, as a list or a comment does."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

import click

OPTION = re.compile(
    r"--[A-Za-z][\w-]*(=.*)?|-[A-Za-z]\S*", re.DOTALL
)  # what looks like one; "- milk", "-- best" and -1 do not


def options_first(command: click.Command, arguments: Sequence[str]) -> list[str]:
    """The arguments with what are options in front, and what are texts behind `--`, where click takes all for a text."""
    takes = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    options: list[str] = []
    texts: list[str] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        if argument == "--":
            texts += rest
            break
        if not OPTION.fullmatch(argument):
            texts.append(argument)
            continue
        options.append(argument)
        for _ in range(_values(takes.get(argument))):
            if not rest:
                return list(arguments)  # click says what is missing
            options.append(rest.popleft())
    return [*options, "--", *texts]


def _values(option: click.Parameter | None) -> int:
    """How many of the next arguments belong to an option that stands alone; 0 where its value is in it already."""
    if not isinstance(option, click.Option) or option.is_flag or option.count:
        return 0
    return option.nargs
