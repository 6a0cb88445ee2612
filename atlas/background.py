"""`atlas explore` in a process of its own, for who has other things to do meanwhile: a notebook, a prompt, a test."""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Self

from atlas.errors import AtlasError


class Served:
    """A page that another process serves; closed with this process at the latest.

    Attributes:
        url: its address.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Start `atlas` with these words, and wait for the line that ends in the address."""
        command = [sys.executable, "-m", "atlas.cli.main", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        atexit.register(self.close)
        assert self._process.stdout is not None and self._process.stderr is not None  # noqa: S101 - they are pipes
        line = self._process.stdout.readline()
        if "http" not in line:
            reason = self._process.stderr.read().strip().splitlines() or ["it ended without a word"]
            raise AtlasError(reason[-1].removeprefix("Error: "))
        self.url = next(word for word in line.split() if word.startswith("http"))

    @property
    def is_open(self) -> bool:
        """Whether it still answers."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until the page is closed; Ctrl-C closes it."""
        try:
            self._process.wait()
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Stop serving."""
        if self.is_open:
            self._process.terminate()
            self._process.communicate(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _repr_html_(self) -> str:
        return f'<a href="{self.url}" target="_blank">{self.url}</a>' if self.is_open else "closed"

    def __repr__(self) -> str:
        return f"<page at {self.url}>" if self.is_open else "<page that is closed>"
