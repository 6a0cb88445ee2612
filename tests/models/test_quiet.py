"""Loading is silent for the thread that loads, and for that thread alone; afterwards everything is as it was."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch

from atlas.models.activations import run_model, tokenize
from atlas.models.loading import load_tokenizer, load_transformer
from atlas.models.quiet import quiet


@pytest.fixture
def talk():
    """What reaches the two streams of the process; a context manager, for pytest sets its own after the fixtures are made."""

    @contextlib.contextmanager
    def listen():
        heard = SimpleNamespace(out=io.StringIO(), err=io.StringIO())
        with contextlib.redirect_stdout(heard.out), contextlib.redirect_stderr(heard.err):
            yield heard

    return listen


@pytest.fixture
def bare_root():
    """The root logger without handlers, as a program has it that set up none."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    yield root
    root.handlers = before


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def chatter():
    print("loaded!")
    print("100 %", file=sys.stderr)
    warnings.warn("old", RuntimeWarning, stacklevel=1)
    logging.warning("odd")
    logging.getLogger("transformers").warning("strange")


def test_what_a_loader_prints_warns_and_logs_goes_nowhere(talk, bare_root):
    with talk() as heard, quiet():
        chatter()
    assert (heard.out.getvalue(), heard.err.getvalue()) == ("", "")


def test_two_threads_that_load_at_once_leave_the_streams_as_they_were(talk):
    """The first in is the first out: what each kept of the streams would be put back in the wrong order."""
    entered, first_left = threading.Event(), threading.Event()

    def first():
        with quiet():
            entered.set()
            first_left.wait(0.2)
        first_left.set()

    def second():
        entered.wait()
        with quiet():
            first_left.wait()

    with talk() as heard:
        for thread in (in_thread(first), in_thread(second)):
            thread.join()
        assert (sys.stdout, sys.stderr) == (heard.out, heard.err)
        print("still here")
    assert heard.out.getvalue() == "still here\n"


def test_what_other_threads_say_while_one_loads_is_not_lost(talk, bare_root):
    def speak():
        print("out")
        print("err", file=sys.stderr)
        logging.getLogger("mine").warning("logged")
        logging.warning("at the root")

    with talk() as heard:
        bare_root.addHandler(logging.StreamHandler(heard.err))
        with quiet():
            in_thread(speak).join()
    assert heard.out.getvalue() == "out\n"
    assert heard.err.getvalue().splitlines() == ["err", "logged", "at the root"]


def test_a_warning_of_another_thread_is_given_while_one_loads():
    caught = []

    def warn():
        try:
            warnings.warn("mine", RuntimeWarning, stacklevel=1)
        except RuntimeWarning as warning:  # the tests turn warnings into errors
            caught.append(str(warning))

    with quiet():
        in_thread(warn).join()
    assert caught == ["mine"]


def test_levels_filters_handlers_and_bars_come_back(bare_root):
    from huggingface_hub import utils as hub
    from transformers.utils import logging as library

    logger = logging.getLogger("transformers")

    def state():
        return (
            logger.level,
            bare_root.level,
            list(bare_root.filters),
            list(bare_root.handlers),
            list(warnings.filters),
            library.is_progress_bar_enabled(),
            hub.are_progress_bars_disabled(),
        )

    logger.setLevel(logging.INFO)
    before = state()
    try:
        with quiet(), quiet():
            chatter()
        assert state() == before
        with pytest.raises(ZeroDivisionError), quiet():
            raise ZeroDivisionError
        assert state() == before
    finally:
        logger.setLevel(logging.WARNING)


def test_a_handler_that_kept_a_stream_while_loading_is_heard_afterwards(talk):
    with talk(), quiet():
        handler = logging.StreamHandler()
    with talk() as heard:
        handler.emit(logging.LogRecord("x", logging.ERROR, "", 0, "heard", (), None))
    assert heard.err.getvalue() == "heard\n"


def test_threads_that_load_in_several_number_formats_get_each_their_own(gpt2_folder):
    """Loaders set torch's default number format for the whole process while they work."""
    found = {}

    def load(dtype):
        found[dtype] = [load_transformer(str(gpt2_folder), dtype=dtype)[0].dtype for _ in range(3)]

    threads = [in_thread(load, dtype) for dtype in ("float32", "bfloat16", "float16")]
    for thread in threads:
        thread.join()
    assert found == {name: [getattr(torch, name)] * 3 for name in ("float32", "bfloat16", "float16")}
    assert torch.get_default_dtype() == torch.float32


def test_what_is_printed_after_threads_have_loaded_is_there(gpt2_folder, talk):
    with talk() as heard:
        for thread in [in_thread(load_tokenizer, str(gpt2_folder)) for _ in range(4)]:
            thread.join()
        print("the result")
    assert (heard.out.getvalue(), heard.err.getvalue()) == ("the result\n", "")


def test_rows_padded_on_the_right_bring_no_notice_of_transformers(language_model, caplog):
    ids, _ = tokenize(language_model, ["The sea.", "The ship sailed before the storm."], prepend_bos=True)
    assert len(ids[0]) < len(ids[1])
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(caplog.handler)
    try:
        run_model(language_model, ids, ["blocks.0.hook_resid_post"])
        assert not caplog.messages
        logger.warning("anything else")
        assert set(caplog.messages) == {"anything else"}
    finally:
        logger.removeHandler(caplog.handler)
