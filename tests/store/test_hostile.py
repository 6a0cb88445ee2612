"""An atlas file from a stranger: no word of ours reads, writes or reaches anything for it, or believes what it redefines."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import polars as pl
import pytest
import tiny
from polars.testing import assert_frame_equal

import atlas.building.build
import atlas.building.finish
import atlas.store.file
from atlas.api import Atlas
from atlas.contrast.make_vectors import make_vectors
from atlas.errors import StoreError
from atlas.evaluation.remeasure import remeasure_topic
from atlas.models.embeddings import embed_frame
from atlas.models.recorded import RecordedModels
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.steering.targets import load_steered_saes
from atlas.store.exchange import export_atlas
from atlas.store.file import Store
from atlas.texts.pairs import collect_pairs
from atlas.texts.prompts import collect_texts

SECRET = "the secret of another file"

# Each makes of a good atlas one that has something else in it. {secret} is a file to steal, {out} a folder to write into.
REFUSED = {
    "a view that reads a file, for the table atlas": """
        alter table atlas rename to real;
        create view atlas as select * replace ((select content from read_text('{secret}')) as libraries) from real""",
    "a view that reads a file, for the table topics": """
        alter table topics rename to real;
        create view topics as select topic_id, content as name, created_at from real, read_text('{secret}')""",
    "a view that reads a file only when its rows are asked for, for the table examples": """
        alter table examples rename to real;
        create view examples as
        select * replace ((select any_value(line) from read_csv('{secret}', columns = {{'line': 'varchar'}})) as token)
        from real""",
    "a view that writes a log, for the table atlas": """
        alter table atlas rename to real;
        create view atlas as
        select r.* from real as r, enable_logging(level := 'trace', storage := 'file', storage_path := '{out}')""",
    "a view that only renames, for the table scores": """
        alter table scores rename to real;
        create view scores as select * replace (1 - score as score) from real""",
    "another view": "create view medicine as select content from read_text('{secret}')",
    "a table of our temporary ones: distances": "create table distances as select 0 as topic_id, 0 as prompt_id",
    "a table of our temporary ones: computed": "create table computed (topic_id integer, neuron integer, score double)",
    "a table of our frames: wanted": "create table wanted as select 0 as topic_id",
    "a table of our frames: appended": "create table appended as from prompts",
    "a table of another name": "create table friends (text varchar)",
    "a table that is missing": "drop table topics",
    "a table of another name for ours": "alter table neurons rename to Neurons2",
    "a table in letters of another size": "alter table neurons rename to n_; alter table n_ rename to NEURONS",
    "another column": "alter table topics add column owner varchar",
    "a column that is missing": "alter table topics drop column created_at",
    "a column of another name": "alter table neurons rename column support to supports",
    "a column of another type": "alter table scorings alter power type varchar",
    "a view for a table that older files lack": """
        drop table neuron_vectors;
        create view neuron_vectors as
        select 0 as sae_key, 0 as neuron, [1] as vector, content as square, 0 as expected_g, 0 as spread
        from read_text('{secret}')""",
    "another column in a table that older files lack": "alter table embedding_moments add column owner varchar",
    "a column whose name hides two": """
        drop table null_scores; create table null_scores ("null_id uinteger, neuron" uinteger, mean double, sd double)""",
    "columns in another order": """
        drop table topics; create table topics (name varchar, topic_id uinteger, created_at timestamp)""",
    "a default that asks for a setting": "alter table prompts alter text set default (current_setting('threads'))",
    "a default": "alter table prompts alter text set default 'x'",
    "a generated column": """
        drop table metrics; create table metrics (run_id uinteger, generation_id uinteger, name varchar, value double,
        low double generated always as (value - 1), high double)""",
    "a check": """
        drop table topics;
        create table topics (topic_id uinteger, name varchar check (name <> 'sea'), created_at timestamp)""",
    "a key": "drop table topics; create table topics (topic_id uinteger primary key, name varchar, created_at timestamp)",
    "a column that may not be null": "alter table topics alter name set not null",
    "another collation": """
        drop table topics; create table topics (topic_id uinteger, name varchar collate nocase, created_at timestamp)""",
    "an index": "create index quick on topics (name)",
    "a sequence": "create sequence numbers",
    "a type of a name that ours use": "create type varchar2 as varchar",
    "an enumeration": "create type states as enum ('building', 'complete')",
    "another schema": "create schema old; create table old.topics as from topics",
    "a schema of the name of a database": """
        create schema x."system"; create view x."system".topics as select content from read_text('{secret}')""",
    "a trigger": """
        create trigger spy after insert on scorings for each statement
        insert into topics select 77, content, null from read_text('{secret}')""",
    "a trigger on topics": """
        create trigger spy after insert on topics for each statement insert into prompts (text) select 'mine'""",
}

FUNCTIONS = {  # what a file may not have, and what is never called but by its name
    "count": "create macro count(x) as 7",
    "least and greatest": "create macro least(a, b) as 0; create macro greatest(a, b) as 0",
    "coalesce": 'create macro "coalesce"(a, b) as a',
    "sum and avg": "create macro sum(x) as 0; create macro avg(x) as 0",
    "list functions": """
        create macro list_distance(a, b) as 0; create macro list(x) as ['mine']; create macro list_contains(a, b) as false""",
    "a cast": "create macro lower(x) as 'mine'; create macro trim(x) as 'mine'",
    "the catalog": """
        create macro duckdb_tables() as table select 1; create macro duckdb_functions() as table select 1""",
    "a function of another kind under our name": """
        drop macro table why; create macro why(x) as (select content from read_text('{secret}'))""",
    "another name": "create macro best_medicine() as table select content from read_text('{secret}')",
}

HARMLESS = {  # what a file may have under our names: it is not used
    "a macro of ours that reads": """
        create or replace macro top_neurons(topic, n, sae := null, scoring := null, scorer := 'distance', "by" := 'score')
        as table select content from read_text('{secret}')""",
    "a macro of ours that lies": """
        create or replace macro why(topic, neuron, sae := null, scoring := null) as table select 'mine' as text""",
    "a macro of ours with another head": "create or replace macro coverage(x) as table select x",
    "a view of ours that reads": "create or replace view neuron_coverage as select content from read_text('{secret}')",
    "a view of ours that lies": "create or replace view neuron_scores as select 1 as score",
    "a view of ours that counts for ever": """
        create or replace view vector_overlap as with recursive x(n) as (select 1 union all select n + 1 from x) from x""",
    "views and macros that are missing": "drop view neuron_coverage; drop macro table top_neurons",
    "comments": "comment on table topics is '{out}'; comment on column topics.name is 'e\\x1b[2J'",
}


@dataclass(frozen=True)
class Trap:
    """A folder with a secret, and one that stays empty when nothing is written."""

    secret: Path
    out: Path

    @property
    def sprung(self) -> bool:
        """Whether anything was written."""
        return any(self.out.iterdir())


@pytest.fixture
def trap(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "secret.txt").write_text(SECRET)
    return Trap(tmp_path / "secret.txt", tmp_path / "out")


@pytest.fixture(scope="module")
def good_file(built_atlas, tmp_path_factory, encoder):
    """A built atlas with a scored topic and a behaviour's pairs."""
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("good") / "good.atlas")
    topics = {"sea": collect_texts(tiny.SEA)}
    score_topics(
        Store(path), topics, embed=partial(embed_frame, encoder), config=ScoringConfig(min_support=5, null_topics=3)
    )
    return Path(path)


def spoil(good, path, sql, trap):
    """A copy of the file that has been through some SQL of a stranger's."""
    shutil.copy(good, path)
    triggers = "trigger" in sql
    with duckdb.connect() as connection:
        if triggers:  # only the newest storage has them
            path.unlink()
            connection.execute(f"attach '{path}' as x (storage_version 'v2.0.0')")
            connection.execute(f"attach '{good}' as good (read_only)")
            connection.execute("copy from database good to x")
        else:
            connection.execute(f"attach '{path}' as x")
        connection.execute("use x")
        connection.execute(sql.format(secret=trap.secret, out=trap.out / "log"))
    shutil.rmtree(trap.out)  # where a view was tried as it was made
    trap.out.mkdir()
    return path


def words(path, tmp_path, encoder):
    """Every word of ours that opens a file; each gives all it has to say as a text."""
    store, opened = Store(path), Atlas(Store(path))
    texts = {"river": collect_texts(tiny.SEA[:3])}
    return {
        "open": lambda: atlas.open(path),
        "check": store.check,
        "info": opened.info,
        "top": lambda: opened.top("sea"),
        "why": lambda: opened.why("sea", 0, sae_id=0),
        "search": lambda: opened.search("a boat on the sea"),
        "label": opened.label,
        "match": lambda: opened.match(sae_id=0, to=1),
        "examples": lambda: opened.examples(0),
        "neuron": lambda: opened.neuron(0, sae_id=0, live=False).samples,
        "vector": lambda: opened.vector("mirth"),
        "sql": lambda: opened.sql("from topics"),
        "macro": lambda: opened.sql("from top_neurons('sea', 3)"),
        "view": lambda: opened.sql("from neuron_coverage"),
        "nearest": lambda: opened.sql("from nearest_neurons(3, 2)"),
        "score": lambda: score_topics(
            store, texts, embed=partial(embed_frame, encoder), config=ScoringConfig(min_support=5, null_topics=0)
        ),
        "score by model": lambda: opened.score("sea", list(tiny.SEA), scorer="contrast"),
        "contrast": lambda: make_vectors(opened.store, "mirth", collect_pairs([("a", " b", " c")], origin="here")),
        "steer": lambda: load_steered_saes(RecordedModels(store), "sea"),
        "measure": lambda: remeasure_topic(opened.store, "sea", []),
        "export": lambda: export_atlas(store, tmp_path / "export"),
        "build": lambda: atlas.building.build.build_atlas(
            path, collect_texts(["another prompt"]), model="none", saes=[("none", "none")]
        ),
        "write": lambda: write(store),
        "sort": lambda: atlas.building.finish.write_sorted(store, pl.DataFrame(schema={"sae_key": pl.UInt32})),
    }


def write(store):
    with store.write() as session:
        session.append("topics", pl.DataFrame({"topic_id": [9], "name": ["mine"]}))


READS = ("info", "top", "why", "examples", "neuron")  # what is read by our own words
QUERIES = ("macro", "view", "nearest")  # what is read by a user's


def assert_refused(path, trap, calls):
    before = path.read_bytes()
    for word, call in calls.items():
        with pytest.raises(StoreError) as caught:
            call()
        said = str(caught.value)
        assert "\n" not in said, word
        assert SECRET not in said, word
        assert str(path) in said, word
        assert not trap.sprung, word
        assert path.read_bytes() == before, word


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_holds_anything_but_an_atlas_is_refused_in_one_line(case, good_file, tmp_path, trap, encoder):
    path = spoil(good_file, tmp_path / "x.atlas", REFUSED[case], trap)
    calls = words(path, tmp_path, encoder)
    assert_refused(path, trap, {word: calls[word] for word in ("check", "sql", "write")})


@pytest.mark.parametrize("case", ["a view that reads a file, for the table atlas", "a trigger", "a generated column"])
def test_no_word_of_ours_opens_such_a_file(case, good_file, tmp_path, trap, encoder):
    path = spoil(good_file, tmp_path / "x.atlas", REFUSED[case], trap)
    assert_refused(path, trap, words(path, tmp_path, encoder))


def answers(path, tmp_path, encoder, chosen):
    calls = words(path, tmp_path, encoder)
    return {word: calls[word]() for word in chosen}


def assert_same(found, expected):
    for word, answer in expected.items():
        if isinstance(answer, pl.DataFrame):
            assert_frame_equal(found[word], answer)
        else:
            assert str(found[word]) == str(answer), word


@pytest.mark.parametrize("case", HARMLESS)
def test_views_and_macros_of_our_names_are_never_those_of_the_file(case, good_file, tmp_path, trap, encoder):
    path = spoil(good_file, tmp_path / "x.atlas", HARMLESS[case], trap)
    chosen = (*READS, *QUERIES)
    assert_same(answers(path, tmp_path, encoder, chosen), answers(good_file, tmp_path, encoder, chosen))
    write(Store(path))
    assert not trap.sprung


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_function_of_the_file_answers_nothing_and_is_refused_where_it_could_be_called(
    case, good_file, tmp_path, trap, encoder
):
    path = spoil(good_file, tmp_path / "x.atlas", FUNCTIONS[case], trap)
    assert_same(answers(path, tmp_path, encoder, READS), answers(good_file, tmp_path, encoder, READS))
    for word in ("sql", *QUERIES, "score", "write"):
        with pytest.raises(StoreError, match="holds a macro .* which is no part of an atlas") as caught:
            words(path, tmp_path, encoder)[word]()
        assert SECRET not in str(caught.value)
    assert not trap.sprung


def test_a_file_is_checked_once_and_again_when_it_has_changed(good_file, tmp_path, monkeypatch):
    path = Path(shutil.copy(good_file, tmp_path / "x.atlas"))
    asked = []
    monkeypatch.setattr(atlas.store.file, "require_tables", lambda path, things: asked.append(path) or frozenset())
    opened = atlas.open(path)
    opened.info()
    opened.top("sea")
    assert len(asked) == 1
    write(opened.store)
    opened.info()
    assert len(asked) == 1  # what this program writes it need not check
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table one_more (a integer)")
    opened.info()
    assert len(asked) == 2
