"""Load things in silence: one thread at a time, while what the other threads print and log goes where it always goes."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

LOADING = threading.RLock()  # loaders set what a process has once, such as torch's default dtype: threads take turns
LIBRARIES = ("transformers", "sae_lens", "sentence_transformers")  # the names of their loggers


@contextmanager
def quiet() -> Iterator[None]:
    """The loaders' own chatter (progress bars, notices, warnings) goes nowhere; threads that load at once take turns.

    Only what this thread writes, warns of and logs is left out. Libraries that are imported meanwhile keep a stream that
    works afterwards too.
    """
    with LOADING, ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stack.enter_context(_muted_stream(name))
        stack.enter_context(_muted_warnings())
        stack.enter_context(_no_progress_bars())  # imports Transformers, which sets the level of its logger
        stack.enter_context(_muted_loggers())
        yield


class _Stream:
    """Stands where sys.stdout or sys.stderr does: what one thread writes goes nowhere, what others write passes.

    Who keeps it, as the handlers of loggers do, writes to the stream of the day once the thread has finished.
    """

    def __init__(self, name: str) -> None:
        self._name, self.replaced = name, getattr(sys, name)
        self._thread: int | None = threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self._passed_on().write(text))

    def finish(self) -> None:
        """Let everything pass from now on, and leave the place to the stream that was there, unless it was taken since."""
        self._thread = None
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self.replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._passed_on(), name)

    def _passed_on(self) -> Any:
        current = getattr(sys, self._name)
        return self.replaced if isinstance(current, _Stream) else current


@contextmanager
def _muted_stream(name: str) -> Iterator[None]:
    stream = _Stream(name)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        stream.finish()


class _ThisThread:
    """Matches every message, as a compiled pattern would, that comes from the thread that made it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def match(self, text: str) -> bool:
        return threading.get_ident() == self._thread


@contextmanager
def _muted_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        ignored: Any = ("ignore", _ThisThread(), Warning, None, 0)
        warnings.filters.insert(0, ignored)  # type: ignore[attr-defined]
        yield


@contextmanager
def _muted_loggers() -> Iterator[None]:
    """Libraries log errors only, and this thread nothing at the root, where TransformerLens logs."""
    root, thread = logging.getLogger(), threading.get_ident()
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    root.addFilter(from_elsewhere)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.removeFilter(from_elsewhere)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for handler in [one for one in root.handlers if isinstance(getattr(one, "stream", None), _Stream)]:
            root.removeHandler(handler)  # logging.warning made it, which would keep the program from setting up its own


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Bars of downloads and of weights are drawn by threads of their own, which the streams let pass."""
    import huggingface_hub.utils
    from transformers.utils import logging as library

    hub: Any = huggingface_hub.utils
    shown, hidden_by_hub = library.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    library.disable_progress_bar()  # the hub's too
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bar()
        if not hidden_by_hub:
            hub.enable_progress_bars()
        elif shown:
            hub.disable_progress_bars()


@contextmanager
def no_notice_of_pads() -> Iterator[None]:
    """Transformers asks for an attention mask where a row ends in pads; a causal model sees none of those on the right."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "attention_mask" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
