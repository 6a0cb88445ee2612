"""An atlas file whose rows do not fit together, and one from a stranger: every command refuses it in one line.

And one that the released version made is taken as before.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import duckdb
import polars as pl
import pytest
import tiny
from atlas.cli.main import COMMANDS
from command import run

from atlas.errors import StoreError, UnknownName
from atlas.models.embeddings import embed_frame
from atlas.models.loading import load_transformer
from atlas.scoring.config import ScoringConfig
from atlas.scoring.score import score_topics
from atlas.store.exchange import export_atlas, import_atlas
from atlas.store.file import Store
from atlas.store.session import now
from atlas.texts.prompts import collect_texts

FAULTS = {  # what was done to a good file: what is said of it
    "delete from neurons where neuron = 3": "other neurons than its d_sae says",
    "delete from neurons": "other neurons than its d_sae says",
    "insert into neurons from neurons where neuron = 3": "other neurons than its d_sae says",
    "update neurons set neuron = 900 where neuron = 3": "other neurons than its d_sae says",
    "update neurons set neuron = null where neuron = 3": "other neurons than its d_sae says",
    "update neurons set sae_key = 7 where neuron = 3": "other neurons than its d_sae says",
    "insert into neurons by name select 7 as sae_key, 0 as neuron": "table neurons names an SAE that is not there: '7'",
    "update neurons set support = null where neuron = 3": "a neuron has an empty or impossible figure: '3'",
    "update neurons set max_activation = null where neuron = 3": "a neuron has an empty or impossible figure: '3'",
    "update neurons set max_activation = 'nan' where neuron = 3": "a neuron has an empty or impossible figure: '3'",
    "update neurons set decoder_norm = 'inf' where neuron = 3": "a neuron has an empty or impossible figure: '3'",
    "update neurons set mass_mean = null where neuron = 3": "a neuron has an empty or impossible figure: '3'",
    "update neurons set square_count = 'nan' where neuron = 3": "a neuron has an empty or impossible figure: '3'",
    "delete from saes": "it has no SAE",
    "delete from saes where sae_key = 0": "names an SAE that is not there: '0'",
    "insert into saes from saes where sae_key = 0": "two SAEs have one key: '0'",
    "update saes set sae_key = null where sae_key = 0": "an SAE has an empty place",
    "update saes set hook_name = null": "an SAE has an empty place",
    "update saes set prepend_bos = null": "an SAE has an empty place",
    "update saes set dtype = '__class__'": "an SAE is of an unknown number format: '__class__'",
    "update saes set dtype = 'load'": "an SAE is of an unknown number format: 'load'",
    "update saes set dtype = 'float64'": "an SAE is of an unknown number format: 'float64'",
    "update saes set dtype = ''": "an SAE is of an unknown number format: ''",
    "update saes set d_sae = 4000000000": "other neurons than its d_sae says",
    "update saes set d_sae = 0": "an SAE has an impossible size",
    "update saes set d_in = 4000000000": "an SAE has an impossible size",
    "update saes set context_size = 0": "an SAE has an impossible size",
    "insert into atlas from atlas": "table atlas has more than one row: '2'",
    "delete from atlas": "table atlas has no row",
    "update atlas set state = 'done'": "its state is neither building nor complete: 'done'",
    "update atlas set state = null": "its state is neither building nor complete",
    "update atlas set encoder_hash = null": "its row in table atlas has an empty place",
    "update atlas set reference_hash = null": "its row in table atlas has an empty place",
    "delete from prompts where prompt_id = 5": "not numbered from 0 on without a gap",
    "delete from prompts where prompt_id = (select max(prompt_id) from prompts)": "other embeddings than prompts",
    "delete from prompts": "other embeddings than prompts",
    "insert into prompts from prompts where prompt_id = 5": "not numbered from 0 on without a gap",
    "update prompts set prompt_id = null where prompt_id = 5": "not numbered from 0 on without a gap",
    "update prompts set text = null where prompt_id = 5": "a prompt has no text or no number of tokens: '5'",
    "delete from embeddings": "other embeddings than prompts",
    "delete from embeddings where prompt_id = 5": "other embeddings than prompts",
    "update embeddings set prompt_id = 6 where prompt_id = 5": "other embeddings than prompts",
    "update shards set finished_at = null": "a piece of its build is not done: '0'",
    "update activations set neuron = 4000000000 where neuron = 3": "table activations has a prompt or a neuron",
    "update activations set prompt_id = 4000000000 where neuron = 3": "table activations has a prompt or a neuron",
    "update examples set prompt_id = 4000000000": "table examples has a prompt or a neuron",
    "update scores set neuron = 4000000000 where neuron = 3": "table scores has a prompt or a neuron",
    "update scores set neuron = 4 where neuron = 3": "a scoring has other neurons than its SAE",
    "delete from scores where neuron = 3": "a scoring has other neurons than its SAE",
    "delete from scores": "a scoring has other neurons than its SAE",
    "update scores set score = 'nan' where neuron = 3": "a score is not between 0 and 1: 'nan'",
    "update scores set score = -7 where neuron = 3": "a score is not between 0 and 1: '-7.0'",
    "update scorings set sae_key = 7": "table scorings names an SAE that is not there: '7'",
    "update scorings set topic_id = 7": "a topic's scoring has an empty place",
    "update scorings set scorer = null": "a topic's scoring has an empty place",
    "insert into scorings from scorings": "two have one number",
    "insert into topics from topics": "two topics have one number or name",
    "update topics set name = null": "two topics have one number or name, or one has none",
    "insert into vectors by name select 0 as vector_id, 'mirth' as name, 'sas' as kind, 0 as sae_key; "
    "insert into vector_entries values (0, 4000000000, 1)": "a vector has an entry beyond its size",
    "insert into vectors by name select 0 as vector_id, 'mirth' as name, 'sas' as kind, 0 as sae_key; "
    "insert into vector_entries values (0, 0, 'nan')": "a vector has an entry beyond its size, or none that is a number",
    "update neuron_vectors set neuron = 4000000000 where neuron = 3": "an SAE has vectors of other neurons than fired",
    "update neuron_vectors set neuron = 4 where neuron = 3": "an SAE has vectors of other neurons than fired",
    "update neuron_vectors set neuron = null where neuron = 3": "an SAE has vectors of other neurons than fired",
    "delete from neuron_vectors where neuron = 3": "an SAE has vectors of other neurons than fired",
    "insert into neuron_vectors from neuron_vectors where neuron = 3": "an SAE has vectors of other neurons than fired",
    "update neuron_vectors set sae_key = 7 where neuron = 3": "table neuron_vectors names an SAE that is not there: '7'",
    "update neuron_vectors set square = null where neuron = 3": "a neuron's vector has an impossible figure: '3'",
    "update neuron_vectors set expected_g = 'nan' where neuron = 3": "a neuron's vector has an impossible figure: '3'",
    "update neuron_vectors set spread = -1 where neuron = 3": "a neuron's vector has an impossible figure: '3'",
    "update neuron_vectors set spread = 'inf' where neuron = 3": "a neuron's vector has an impossible figure: '3'",
    "delete from embedding_moments": "it has neurons' vectors and not one row of embedding_moments: '0'",
    "insert into embedding_moments from embedding_moments": "it has neurons' vectors and not one row of embedding_moments: '2'",
    "update labels set sae_key = 7": "table labels names an SAE that is not there: '7'",
    "update labels set neuron = 4000000000": "a label has an empty or impossible place: '4000000000'",
    "update labels set neuron = null": "a label has an empty or impossible place",
    "update labels set label = ' '": "a label has an empty or impossible place: '3'",
    "update labels set source = null": "a label has an empty or impossible place: '3'",
    "update labels set quality = 'nan'": "a label has an empty or impossible place: '3'",
    "update labels set quality = 1.5": "a label has an empty or impossible place: '3'",
    "insert into labels from labels": "a neuron has two labels of one source: '3'",
    "update labels set created_at = 'infinity'": "a time is none of the calendar: 'infinity'",
    "update token_values set sae_key = 7": "table token_values names an SAE that is not there: '7'",
    "update token_values set neuron = 4000000000": "table token_values has a prompt or a neuron that is not there",
    "update token_values set prompt_id = 4000000000": "table token_values has a prompt or a neuron that is not there",
    "update token_values set prompt_id = null": "a neuron's values on the tokens of a prompt are not whole: '3'",
    "update token_values set tokens = []": "a neuron's values on the tokens of a prompt are not whole: '3'",
    "update token_values set tokens = ['a', null]": "a neuron's values on the tokens of a prompt are not whole: '3'",
    "update token_values set activations = [1]": "a neuron's values on the tokens of a prompt are not whole: '3'",
    "update token_values set activations = null": "a neuron's values on the tokens of a prompt are not whole: '3'",
    "update token_values set activations = [1, 'inf'::float]": "a neuron's values on the tokens of a prompt are not whole: '3'",
    "insert into token_values from token_values": "a neuron has two rows of values on the tokens of one prompt: '3'",
    "update token_logits set sae_key = 7": "table token_logits names an SAE that is not there: '7'",
    "update token_logits set neuron = 4000000000": "table token_logits has a prompt or a neuron that is not there",
    "update token_logits set side = 'x'": "a logit of a neuron has an empty or impossible place: '3'",
    "update token_logits set token = null": "a logit of a neuron has an empty or impossible place: '3'",
    "update token_logits set logit = 'nan'": "a logit of a neuron has an empty or impossible place: '3'",
    "insert into token_logits from token_logits": "a neuron has two logits of one rank: '3'",
    "update logit_histograms set sae_key = 7": "table logit_histograms names an SAE that is not there: '7'",
    "update logit_histograms set neuron = 4000000000": "table logit_histograms has a prompt or a neuron that is not there",
    "update logit_histograms set low = 9": "a neuron's histogram of logits is empty or impossible: '3'",
    "update logit_histograms set high = 'inf'": "a neuron's histogram of logits is empty or impossible: '3'",
    "update logit_histograms set counts = []": "a neuron's histogram of logits is empty or impossible: '3'",
    "update logit_histograms set counts = [1, null]": "a neuron's histogram of logits is empty or impossible: '3'",
    "insert into logit_histograms from logit_histograms": "a neuron has two histograms of logits: '3'",
    "update map set sae_key = 7": "table map names an SAE that is not there: '7'",
    "update map set neuron = 4000000000": "table map has a prompt or a neuron that is not there",
    "update map set basis = 'x'": "a neuron's place on a map is empty or impossible: '3'",
    "update map set x = 'inf'": "a neuron's place on a map is empty or impossible: '3'",
    "update map set y = null": "a neuron's place on a map is empty or impossible: '3'",
    "update map set made_of = null": "a neuron's place on a map is empty or impossible: '3'",
    "insert into map from map": "a neuron has two places on one map: '3'",
    "update map set created_at = 'infinity'": "a time is none of the calendar: 'infinity'",
    "update notes set sae_key = null": "table notes names an SAE that is not there",
    "update notes set neuron = 4000000000": "table notes has a prompt or a neuron that is not there",
    "update notes set list = ' '": "a note has no list, no neuron or no text: ' '",
    "update notes set text = null": "a note has no list, no neuron or no text: 'ships'",
    "insert into notes from notes": "a neuron is in a list twice: 'ships'",
    "update notes set created_at = '-infinity'": "a time is none of the calendar: '-infinity'",
    "update atlas set created_at = 'infinity'": "a time is none of the calendar: 'infinity'",
    "update topics set created_at = '-infinity'": "a time is none of the calendar: '-infinity'",
    "update scorings set created_at = '20000-01-01'": "a time is none of the calendar",
    "update atlas set created_at = null": "its row in table atlas has an empty place",
    "insert into calibrations by name select 'sea' as topic, '{' as parameters": "no settings as JSON: '{'",
}  # fmt: skip
RELEASED = Path(__file__).parent / "released.sql"
SECRET = "the secret of another file"
HOSTILE = """
    alter table atlas rename to real;
    create view atlas as select * replace ((select content from read_text('{secret}')) as libraries) from real"""


@pytest.fixture(scope="module")
def good_file(built_atlas, tmp_path_factory, encoder):
    path = Path(shutil.copy(built_atlas, tmp_path_factory.mktemp("good") / "good.atlas"))
    config = ScoringConfig(min_support=5, null_topics=3)
    score_topics(Store(path), {"sea": collect_texts(tiny.SEA)}, embed=partial(embed_frame, encoder), config=config)
    with Store(path).write() as session:
        session.append(
            "labels", pl.DataFrame({"sae_key": 0, "neuron": 3, "source": "words", "label": "ships", "quality": 0.8})
        )
        values = {"sae_key": [0], "neuron": [3], "prompt_id": [5], "tokens": [["a", "b"]], "activations": [[None, 1.5]]}
        session.append("token_values", pl.DataFrame(values))
        logit = {"sae_key": 0, "neuron": 3, "side": "promoted", "rank": 1, "token": "ship", "logit": 2.5}
        session.append("token_logits", pl.DataFrame(logit))
        spread = {"sae_key": [0], "neuron": [3], "low": [-1.5], "high": [2.5], "counts": [[3, 0, 1]]}
        session.append("logit_histograms", pl.DataFrame(spread))
        place = {
            "sae_key": 0,
            "neuron": 3,
            "basis": "vectors",
            "x": 0.5,
            "y": 1.5,
            "seed": 0,
            "made_of": "a",
            "created_at": now(),
        }
        session.append("map", pl.DataFrame(place))
        note = {"list": "ships", "sae_key": 0, "neuron": 3, "text": "", "created_at": now()}
        session.append("notes", pl.DataFrame(note))
    return path


def spoil(good, path, sql):
    shutil.copy(good, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql)
    return path


def commands(path, folder):
    """Every command that takes an atlas file, as one would give it."""
    texts, pairs = folder / "sea.txt", folder / "pairs.csv"
    texts.write_text("\n".join(tiny.SEA))
    pairs.write_text("prompt,positive,negative\na, b, c\n")
    return {
        "info": ["info", path],
        "top": ["top", path, "sea"],
        "why": ["why", path, "sea", "0", "--sae-id", "0"],
        "search": ["search", path, "a boat on the sea"],
        "neuron": ["neuron", path, "0", "--sae-id", "0"],
        "label": ["label", path],
        "match": ["match", path, "--sae-id", "0", "--to", "1"],
        "map": ["map", path],
        "notes": ["notes", path],
        "explore": ["explore", path, "--no-browser"],
        "query": ["query", path, "from topics"],
        "steer": ["steer", path, "sea", "The"],
        "score": ["score", path, "river", texts],
        "contrast": ["contrast", path, "mirth", pairs],
        "choices": ["choices", path, "mirth", pairs],
        "evaluate": ["evaluate", path, "sea"],
        "reproduce": ["reproduce", path, "--out", folder / "page"],
        "export": ["export", path, folder / "export"],
        "import": ["import", path, folder / "imported.atlas"],
        "build": ["build", path, texts, "--model", "none", "--release", "none", "--sae-id", "none"],
    }


def refusal(arguments):
    """The one line a command refuses with; anything else is an error of the test."""
    code, stdout, stderr = run(*arguments)
    assert code == 1, stderr
    assert stderr.count("Error:") == 1  # `build` says before it how many texts it read
    assert stderr.endswith("\n")
    assert "Error:" in stderr.splitlines()[-1]
    assert SECRET not in stdout + stderr
    return stderr


def test_every_command_is_asked(tmp_path):
    assert set(commands(tmp_path, tmp_path)) == set(COMMANDS) - {"demo"}


@pytest.mark.parametrize("sql", FAULTS)
def test_rows_that_do_not_fit_together_are_refused_in_one_line(sql, good_file, tmp_path):
    path = spoil(good_file, tmp_path / "x.atlas", sql)
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        Store(path).check()
    assert str(caught.value).startswith(f"{path} is damaged ({FAULTS[sql]}") or FAULTS[sql] in str(caught.value)
    assert "build it again" in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"demo"}))
@pytest.mark.parametrize("spoiled", ["gaps", "hostile"])
def test_every_command_refuses_a_spoiled_file_in_one_line(command, spoiled, good_file, tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    sql = (
        HOSTILE.format(secret=tmp_path / "secret.txt")
        if spoiled == "hostile"
        else "delete from neurons where neuron = 3"
    )
    path = spoil(good_file, tmp_path / "x.atlas", sql)
    arguments = commands(path, tmp_path)[command]
    before, there = path.read_bytes(), set(tmp_path.iterdir())
    said = refusal(arguments)
    assert str(path) in said
    assert path.read_bytes() == before
    assert set(tmp_path.iterdir()) == there


def test_embeddings_that_are_no_numbers_or_of_another_width_are_refused(good_file, tmp_path, encoder):
    for odd in ("['nan']", "[1]", "null", "[]", "[null]"):
        path = spoil(good_file, tmp_path / "x.atlas", f"update embeddings set vector = {odd} where prompt_id = 5")
        with pytest.raises(StoreError, match="an embedding is of another width than others, or no number"):
            score_topics(
                Store(path),
                {"river": collect_texts(tiny.SEA[:2])},
                embed=partial(embed_frame, encoder),
                config=ScoringConfig(min_support=5, null_topics=3),
            )


def test_an_export_whose_rows_do_not_fit_together_is_not_imported(good_file, tmp_path):
    path = Path(shutil.copy(good_file, tmp_path / "x.atlas"))
    with Store(path).write() as session:  # what this program writes it does not check
        session._execute("delete from neurons where neuron = 3")
    export_atlas(Store(path), tmp_path / "export")
    with pytest.raises(StoreError, match="other neurons than its d_sae says"):
        import_atlas(tmp_path / "export", tmp_path / "y.atlas")
    assert not (tmp_path / "y.atlas").exists()


def test_a_number_format_is_one_of_those_that_weights_are_loaded_in(gpt2_folder):
    with pytest.raises(UnknownName, match="unknown number format '__class__': known are"):
        load_transformer(str(gpt2_folder), dtype="__class__")


@pytest.mark.parametrize("storage", ["v1.0.0", "v1.2.0"])
def test_a_file_that_the_released_version_made_opens_and_answers_as_one_of_today(storage, good_file, tmp_path):
    path, good_file = (
        tmp_path / "old.atlas",
        spoil(good_file, tmp_path / "good.atlas", "delete from labels; delete from map"),
    )
    with duckdb.connect() as connection:
        connection.execute(
            f"attach '{path}' as old (storage_version '{storage}'); attach '{good_file}' as good (read_only)"
        )
        connection.execute("use old")
        connection.execute(RELEASED.read_text())
        for (table,) in connection.sql("select table_name from duckdb_tables() where database_name = 'old'").fetchall():
            connection.execute(f'insert into "{table}" from good."{table}"')
    questions = [commands(path, tmp_path)[word] for word in ("info", "top", "why", "query")]
    for arguments in [
        *questions,
        ["query", path, "from top_neurons('sea', 3)"],
        ["query", path, "from neuron_coverage"],
    ]:
        code, stdout, stderr = run(*arguments)
        assert (code, stderr) == (0, "")
        assert (
            stdout.replace(str(path), str(good_file))
            == run(*[good_file if one == path else one for one in arguments])[1]
        )
    with Store(path).write() as session:
        session.run("move_model", model="elsewhere")
