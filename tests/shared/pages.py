"""What READMEs show."""

from __future__ import annotations

import re
import shlex


def shown_commands(text: str) -> list[list[str]]:
    """The words of every `atlas` command in a page's shell blocks, without the shell's own variables and loops."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    blocks = re.sub(r"\$\(.*?\)|\$\w+", "NAME", blocks)
    return [
        shlex.split(found, comments=True)
        for found in re.findall(r'^ *atlas ((?:[^"\n]|"[^"]*")+)', blocks, re.MULTILINE)
    ]
