"""SQL of anybody's in a session: nothing but the atlas is read, and nothing is written or reached."""

from __future__ import annotations

import random
import socket

import duckdb
import handmade
import numpy as np
import pytest

from atlas.errors import StoreError
from atlas.store.file import Store

RUNS = 150  # a long run takes more (PYTHONPATH=tests/shared python tests/store/test_sealed.py RUNS)
SECRET = "the secret of another file"
FILES = (
    "{secret}",
    "{out}/x",
    "{atlas}.tmp/x",
    "{atlas}.wal",
    "{atlas}",
    "/etc/hostname",
    "http://127.0.0.1:{port}/x",
    "s3://a/b",
)
READERS = (
    "read_text",
    "read_blob",
    "read_csv",
    "read_json",
    "read_parquet",
    "glob",
    "sniff_csv",
    "parquet_metadata",
    "query_table",
)
STATEMENTS = (
    "from {reader}('{file}')",
    "from '{file}'",
    "select (select content from read_text('{file}'))",
    "from query('from {reader}(''{file}'')')",
    "copy topics to '{file}'",
    "copy topics to '{file}' (format parquet, partition_by (name))",
    "copy prompts from '{file}'",
    "export database '{file}'",
    "import database '{file}'",
    "attach '{file}' as other; create table other.x as from topics",
    "attach '{file}' as other (type sqlite)",
    "install {word}; load {word}",
    "load '{file}'",
    "set {setting} = '{file}'",
    "reset {setting}",
    "pragma {setting} = '{file}'",
    "call enable_logging(level := 'trace', storage := 'file', storage_path := '{file}')",
    "from enable_logging(storage := 'file', storage_path := '{file}')",
    "create secret s (type s3, key_id '{word}')",
    "create persistent secret s (type http, bearer_token '{word}')",
    "pragma enable_profiling = 'json'; pragma profiling_output = '{file}'; select 1",
    "explain analyze copy topics to '{file}'",
    "prepare p as from {reader}('{file}'); execute p",
    "create temp view v as from {reader}('{file}'); from v",
    "create macro m() as table from {reader}('{file}'); from m()",
    "create table held.main.stolen as from {reader}('{file}')",
    "update prompts set text = '{word}'; commit",
    "drop table topics; commit; checkpoint",
    "begin; delete from prompts; commit",
    "force checkpoint held",
    "detach held",
    "use memory; create table x as select 1; copy x to '{file}'",
    "select getenv('{word}'), getvariable('{word}')",
    "from {word}",
    "vacuum analyze",
    "comment on table topics is '{word}'",
)
SETTINGS = (
    "enable_external_access", "allowed_paths", "allowed_directories", "temp_directory", "extension_directory",
    "home_directory", "file_search_path", "lock_configuration", "logging_storage", "log_query_path", "allowed_configs",
    "secret_directory", "autoload_known_extensions", "allow_unsigned_extensions", "custom_extension_repository",
)  # fmt: skip
WORDS = ("httpfs", "sqlite", "spatial", "HOME", "secret", "SECRET", "sys")


def statement(chance, places):
    """A statement that reaches for something, perhaps changed at some letters."""
    chosen = {"reader": READERS, "file": FILES, "word": WORDS, "setting": SETTINGS}
    text = chance.choice(STATEMENTS)
    text = text.format(**{name: chance.choice(given) for name, given in chosen.items()}).format(**places)
    for _ in range(chance.choice((0, 0, 1, 2))):
        at = chance.randrange(len(text))
        other = chance.choice(("", text[at] * 2, chance.choice(" ;'\"()$,*/-\0"), chance.choice(STATEMENTS)[:9]))
        text = text[:at] + other + text[at + 1 :]
    return text


def attack(folder, seeds):
    """Run a statement per seed; (answered, refused). AssertionError when one got anywhere."""
    (folder / "out").mkdir()
    (folder / "secret").write_text(SECRET)
    rng = np.random.default_rng(0)
    path = folder / "x.atlas"
    handmade.make_store(path, [handmade.random_raw(rng, 6, 4)], handmade.unit_vectors(rng, 6))
    before, counts = path.read_bytes(), [0, 0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        places = {"secret": folder / "secret", "out": folder / "out", "atlas": path, "port": server.getsockname()[1]}
        for seed in seeds:
            text = statement(random.Random(seed), places)
            try:
                found = str(Store(path).query(text).rows())
                counts[0] += 1
            except StoreError as error:
                found = str(error)
                assert "\n" not in found, text
                counts[1] += 1
            assert SECRET not in found, text
            assert path.read_bytes() == before, text
            assert not list((folder / "out").iterdir()), text
            assert sorted(p.name for p in folder.iterdir()) == ["out", "secret", "x.atlas"], text
        with pytest.raises(BlockingIOError):
            server.accept()
    return counts


def test_sql_of_anybody_reads_writes_and_reaches_nothing(tmp_path):
    answered, refused = attack(tmp_path, range(RUNS))
    assert refused > answered


def test_the_same_sql_gets_somewhere_where_nothing_is_sealed(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    with duckdb.connect() as connection:
        assert SECRET in str(connection.sql(f"from read_text('{tmp_path / 'secret'}')").fetchall())


if __name__ == "__main__":
    import pathlib
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(f"answered, refused: {attack(pathlib.Path(folder), range(int(sys.argv[1])))}\n")
