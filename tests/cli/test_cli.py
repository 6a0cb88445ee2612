"""The command line: whole outputs, exit codes, and one clear line for bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import click
import pytest
import tiny
from atlas.cli.main import COMMANDS, cli, main
from command import run
from contents import change

from atlas.building.build import BuildReport


@pytest.fixture(autouse=True)
def loaded_models(loaded_once):
    """Commands take models and encoders that are loaded already."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "medicine.txt"
    path.write_text("\n".join(tiny.MEDICINE))
    return path


@pytest.fixture(scope="module")
def scored_once(built_atlas, texts, tmp_path_factory):
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("scored") / "tiny.atlas")
    code, _, stderr = run("score", path, "medicine", texts, "--min-support", 2)
    assert code == 0, stderr
    return path


@pytest.fixture
def scored(scored_once, tmp_path):
    """A copy of an atlas in which a topic is scored."""
    return shutil.copy(scored_once, tmp_path / "tiny.atlas")


def test_help_names_every_command_and_loads_no_model_library():
    code, stdout, _ = run("--help")
    assert code == 0
    assert all(name in stdout for name in COMMANDS)
    script = "import sys; from atlas.cli.main import cli; cli.main(['--help'], standalone_mode=False)\n"
    script += "print(sorted({'torch', 'transformers', 'duckdb', 'polars'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["info", "top", "why", "query"])
def test_commands_that_need_no_model_load_no_model_library(command, scored):
    arguments = {"info": [], "top": ["medicine"], "why": ["medicine", "1"], "query": ["select 1"]}[command]
    script = "import sys; from atlas.cli.main import cli; cli.main(sys.argv[1:], standalone_mode=False)\n"
    script += "print(sorted({'torch', 'transformers', 'sae_lens'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script, command, str(scored), *arguments], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_sentence_an_example_and_a_help_text_per_option(name):
    command = cli.get_command(click.Context(cli), name)
    assert "Example" in command.help and f"atlas {name}" in command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_help_of_steer_names_every_method():
    from atlas.steering.methods import METHODS

    assert all(name in run("steer", "--help")[1] for name in METHODS)


def test_score_prints_the_best_neurons_and_a_second_run_gives_the_same(atlas_file, texts):
    arguments = ("score", atlas_file, "medicine", texts, "--min-support", 2, "-n", 2, "--format", "json")
    first, second = run(*arguments), run(*arguments)
    rows = json.loads(first[1])
    assert first == second
    assert [row["rank"] for row in rows] == [1, 2, 1, 2]
    assert {row["topic"] for row in rows} == {"medicine"}
    assert rows[0]["z"] <= rows[1]["z"]  # the order where topics were compared with random ones
    by_score = json.loads(run("top", atlas_file, "medicine", "-n", 2, "--by", "score", "--format", "json")[1])
    assert by_score[0]["score"] == 1.0 >= by_score[1]["score"]


def test_a_folder_of_topics_is_scored_in_one_call(atlas_file, tmp_path):
    folder = tmp_path / "topics"
    folder.mkdir()
    (folder / "medicine.txt").write_text("\n".join(tiny.MEDICINE))
    (folder / "sea.txt").write_text("\n".join(tiny.SEA))
    code, stdout, stderr = run("score", atlas_file, "--topics", folder, "--min-support", 2, "--format", "csv", "-n", 1)
    assert code == 0, stderr
    assert [line.split(",")[0] for line in stdout.splitlines()] == ["topic", "medicine", "medicine", "sea", "sea"]


def test_top_prints_a_table_with_one_line_per_neuron(scored):
    code, stdout, _ = run("top", scored, "medicine", "-n", 3, "--sae-id", "residual")
    lines = stdout.splitlines()
    assert code == 0
    assert lines[0].split() == ["sae_id", "rank", "neuron", "score", "se", "z", "support", "fires_on", "top_tokens"]
    assert [line.split()[:2] for line in lines[1:]] == [["residual", "1"], ["residual", "2"], ["residual", "3"]]


def test_why_lists_the_heaviest_prompts_first(scored):
    best = json.loads(run("top", scored, "medicine", "-n", 1, "--sae-id", 0, "--format", "json")[1])[0]
    code, stdout, _ = run("why", scored, "medicine", best["neuron"], "--sae-id", 0, "-n", 500, "--format", "json")
    rows = json.loads(stdout)
    weights = [row["weight"] for row in rows]
    assert code == 0
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1)
    assert sum(row["contribution"] for row in rows) == pytest.approx(best["g"])
    assert all({name: row[name] for name in ("g", "score", "se", "z")}.items() <= best.items() for row in rows)
    lines = run("why", scored, "medicine", best["neuron"], "--sae-id", 0, "-n", 2)[1].splitlines()
    assert [line.split()[:4] for line in (lines[0], lines[3])] == [
        ["sae_id", "g", "score", "se"],
        ["sae_id", "prompt_id", "distance", "weight"],
    ]


def test_info_tells_what_is_in_the_atlas(scored):
    code, stdout, _ = run("info", scored)
    assert code == 0
    assert f"{scored}: complete" in stdout and "60 prompts" in stdout and "medicine" in stdout
    rows = json.loads(run("info", scored, "--format", "json")[1])
    assert [row["sae_id"] for row in rows] == ["residual", "heads"]


def test_query_answers_in_sql_and_can_touch_nothing_else(scored, tmp_path):
    code, stdout, _ = run("query", scored, "select count(*) as n from prompts", "--format", "csv")
    assert (code, stdout) == (0, "n\n60\n")
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (
        f"select * from read_csv('{secret}')",
        f"copy prompts to '{tmp_path / 'out.csv'}'",
        f"attach '{tmp_path / 'other.db'}'",
        "insert into topics values (9, 'x', null)",
        "set enable_external_access = true",
        "install httpfs",
        "selec 1",
        "select text::int from prompts",
    ):
        code, stdout, stderr = run("query", scored, sql)
        assert (code, stdout, stderr.count("\n")) == (1, "", 1), sql
        assert stderr.startswith("Error: SQL error: "), stderr


def test_query_without_a_query_is_said(scored):
    for sql in ("", "-- nothing", " ;"):
        code, stdout, stderr = run("query", scored, sql)
        assert (code, stdout) == (1, "")
        assert stderr == "Error: the SQL text holds no query: give one, such as 'from atlas'\n"


def test_query_shows_words_that_are_types_elsewhere(scored):
    sql = """select 'INTERVAL'::enum('INTERVAL', 'UNION') as "UNION", {'INTERVAL': 1} as s"""
    assert json.loads(run("query", scored, sql, "--format", "json")[1]) == [{"UNION": "INTERVAL", "s": {"INTERVAL": 1}}]


def test_steer_shows_methods_side_by_side_and_stores_them(scored):
    arguments = (
        "steer",
        scored,
        "medicine",
        "The doctor",
        "A ship",
        "--select",
        "score",
        "--max-new-tokens",
        5,
        "--format",
        "json",
    )
    code, stdout, stderr = run(*arguments, "--method", "original", "--method", "swap", "--method", "clamp")
    assert code == 0, stderr
    rows = json.loads(stdout)
    assert [(row["method"], row["prompt"]) for row in rows] == [
        (method, prompt) for method in ("original", "swap", "clamp") for prompt in ("The doctor", "A ship")
    ]
    assert all(0 <= row["contamination"] <= 1 for row in rows)
    kept = json.loads(run("query", scored, "select method, text from generations", "--format", "json")[1])
    assert kept == [{"method": row["method"], "text": row["text"]} for row in rows]
    metrics = run("query", scored, "select count(*) as n from metrics where name = 'contamination'", "--format", "csv")
    assert metrics[1] == "n\n6\n"


@pytest.mark.parametrize(("given", "methods"), [([], ["original", "add"]), (["--paper"], ["original", "swap"])])
def test_without_a_method_the_default_one_stands_beside_unsteered_text(scored, given, methods):
    given = given or ["--select", "score"]
    code, stdout, stderr = run(
        "steer", scored, "medicine", "The doctor", *given, "--max-new-tokens", 3, "--no-save", "--format", "json"
    )
    assert code == 0, stderr
    assert [row["method"] for row in json.loads(stdout)] == methods


def test_the_same_seed_gives_the_same_text_and_no_save_stores_nothing(scored):
    arguments = (
        "steer",
        scored,
        "medicine",
        "The doctor",
        "--select",
        "score",
        "--max-new-tokens",
        6,
        "--no-save",
        "--format",
        "json",
    )
    first, second = run(*arguments, "--seed", 3), run(*arguments, "--seed", 3)
    assert json.loads(first[1]) == json.loads(second[1])
    assert run("query", scored, "select count(*) as n from generations", "--format", "csv")[1] == "n\n0\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["top", "{atlas}", "medcine"], "unknown topic 'medcine': known are medicine; score it first"),
        (["why", "{atlas}", "medicine", "24", "--sae-id", "residual"], "unknown neuron '24'"),
        (["top", "{atlas}", "medicine", "--sae-id", "residul"], "unknown SAE 'residul': known are residual, heads"),
        (["steer", "{atlas}", "medicine", "x", "--method", "swop"], "unknown method 'swop': known are swap"),
        (["steer", "{atlas}", "medicine", "x", "--method", "swap", "--strength", "2"], "method swap has no strength"),
        (["steer", "{atlas}", "medicine", "x", "--positions", "last"], "unknown positions 'last'"),
        (["steer", "{atlas}", "medicine", "x", "--top-p", "0"], "top_p 0.0 is out of range"),
        (["steer", "{atlas}", "medicine", "x " * 40, "--select", "score"], "do not fit into the context of 32"),
        (["steer", "{atlas}", "medicine", "x", "--model", "no/such"], "cannot load language model no/such"),
        (["score", "{atlas}", "t", "{texts}", "--summary", "median"], "unknown summary 'median'"),
        (["score", "{atlas}", "t", "{texts}", "--distance", "cosin"], "unknown distance 'cosin': known are cosine"),
        (["score", "{atlas}", "t", "{texts}", "--power", "0"], "power 0.0 is not positive"),
        (["score", "{atlas}", "t", "nothing.txt"], "no such file nothing.txt"),
        (["score", "{atlas}", "--topics", "nothing"], "no such folder nothing"),
        (["info", "nothing.atlas"], "no atlas at nothing.atlas: build one"),
        (["info", "{texts}"], "is not an atlas, or is damaged"),
    ],
)
def test_bad_input_gives_one_clear_line(scored, texts, arguments, message):
    filled = [argument.format(atlas=scored, texts=texts) for argument in arguments]
    code, stdout, stderr = run(*filled)
    error = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert (code, stdout, len(error)) == (1, "", 1)
    assert message in error[0]


def test_other_texts_for_a_topic_need_replace(scored, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n".join(tiny.SEA))
    code, _, stderr = run("score", scored, "medicine", other, "--min-support", 2)
    assert code == 1 and "has 3 other texts already" in stderr
    assert run("score", scored, "medicine", other, "--min-support", 2, "--replace")[0] == 0


def test_usage_errors_exit_with_2():
    assert run("score", "a.atlas")[0] == 2
    assert run("nonsense")[0] == 2


def test_a_model_folder_that_has_moved_is_asked_for(scored, gpt2_folder, tmp_path, sae_folder):
    import shutil

    from atlas.store.file import Store

    moved = shutil.copytree(gpt2_folder, tmp_path / "moved")
    with Store(scored).write() as session:
        session.append(
            "topics", session.sql("select 9::uinteger as topic_id, 'unused' as name, null::timestamp as created_at")
        )
        change(session, "update saes set model = '/gone/model'")
    code, _, stderr = run("steer", scored, "medicine", "The doctor", "--select", "score", "--max-new-tokens", 2)
    assert code == 1 and "/gone/model is gone: say where it is now with --model" in stderr
    assert (
        run("steer", scored, "medicine", "The doctor", "--select", "score", "--max-new-tokens", 2, "--model", moved)[0]
        == 0
    )


def test_a_folder_of_saes_that_has_moved_is_asked_for(scored, tmp_path, sae_folder):
    from atlas.store.file import Store

    with Store(scored).write() as session:
        change(session, "update saes set release = '/gone/saes'")
    code, _, stderr = run("steer", scored, "medicine", "The doctor", "--select", "score")
    assert code == 1 and "/gone/saes is gone: say where it is now with --release" in stderr
    assert (
        run(
            "steer",
            scored,
            "medicine",
            "The doctor",
            "--select",
            "score",
            "--max-new-tokens",
            2,
            "--release",
            sae_folder,
        )[0]
        == 0
    )


def test_build_says_what_it_dropped_and_that_there_is_nothing_to_do(tmp_path, atlas_file, gpt2_folder, sae_folder):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join([*tiny.PROMPTS[:9], "", tiny.PROMPTS[0]]))
    code, stdout, stderr = run(
        "build", atlas_file, prompts, "--model", gpt2_folder, "--release", sae_folder, "--sae-id", "residual"
    )
    assert code == 0
    assert "9 prompts; dropped 1 duplicates and 1 empty rows (10)" in stderr
    assert "nothing to do" in stdout


def test_main_turns_errors_into_exit_codes(monkeypatch, capsys):
    codes = []
    monkeypatch.setattr("atlas.cli.main.finish", codes.append)
    main(["info", "nothing.atlas"])
    main(["info"])
    main(["--version"])
    assert codes == [1, 2, 0]
    assert capsys.readouterr().err.splitlines()[0].startswith("Error: no atlas at nothing.atlas")


def test_build_says_what_is_in_when_it_only_had_the_sort_left(tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a ship")
    report = BuildReport(1, new_prompts=0, new_saes=0, shards=0, sorted=True, truncated=0, rows=7)
    monkeypatch.setattr("atlas.building.build.build_atlas", lambda *arguments, **options: report)
    code, stdout, _ = run(
        "build", "x.atlas", tmp_path / "prompts.txt", "--model", "m", "--release", "r", "--sae-id", "s"
    )
    assert (code, stdout) == (0, "x.atlas: 1 prompts, 7 activation rows. Next: atlas info x.atlas\n")
