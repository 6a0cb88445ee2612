"""Say in one line what could not be loaded, whatever library failed at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from atlas.errors import AtlasError, ModelError

PANIC = "PanicException"  # of the Rust inside of tokenizers, for files it did not foresee; it is no Exception


@contextlib.contextmanager
def loading(kind: str, name: str, *, hint: str = "check the name; a local folder works too") -> Iterator[None]:
    """Turn a loader's failure into one line: whatever is raised inside other libraries is about the files they read.

    What this package itself raises is a bug, and keeps its traceback.
    """
    try:
        yield
    except AtlasError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise  # stopped by the user
        if _raised_here(error):
            raise
        if isinstance(error, ImportError):
            hint = "install or update the package that is asked for"
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ModelError(f"cannot load {kind} {name}: {reason}; {hint}") from error


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).parent == Path(__file__).parent
