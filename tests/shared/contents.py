"""What an atlas file holds: to compare it, and to change it as no word of the program does."""

from __future__ import annotations

import duckdb
from polars.testing import assert_frame_equal

TIMES = ("created_at", "finished_at")

TABLES = ("atlas", "saes", "prompts", "embeddings", "shards", "activations", "prompt_totals", "neurons", "examples")


def tables(path, *, without=()):
    """Every table, in the order it is stored in, without the times."""
    with duckdb.connect(str(path), read_only=True) as connection:
        frames = {name: connection.sql(f"from {name}").pl() for name in TABLES if name not in without}
    return {name: frame.drop(*TIMES, strict=False) for name, frame in frames.items()}


def assert_same(found, expected, **tolerance):
    for name, frame in expected.items():
        assert_frame_equal(found[name], frame, check_exact=not tolerance, **tolerance)


def change(session, statement, parameters=None):
    """Run a statement of the test's own in a writing session."""
    session._connection.execute(statement, parameters)
