"""Every benchmark of the small scale runs, on less data still, and says what it measured. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from spark_here import QUICK, needs_spark

from tests.bench import __main__ as bench
from tests.bench import building, detection, matching, meaning, measure, scoring, spark, steering

SMALL = [name for name in bench.BENCHMARKS if name not in bench.WHOLE_PROCESS]


@pytest.fixture
def less_data(monkeypatch, encoder):
    """Sizes at which a benchmark takes a second or two."""
    monkeypatch.setitem(bench.SIZES, "small", measure.Size(prompts=200, neurons=128, rows=6000))
    monkeypatch.setattr(scoring, "MANY", (2, 3))
    monkeypatch.setitem(scoring.GROWTH, "small", (64, [2000, 4000]))
    monkeypatch.setitem(building.PROMPTS, "small", 4)
    monkeypatch.setitem(meaning.PROMPTS, "small", 4)
    monkeypatch.setitem(matching.TRAINED, "small", (48, 16, 12))
    monkeypatch.setitem(meaning.SAES, "small", ((2, 32),))
    monkeypatch.setattr(building, "encoder", lambda: encoder)
    monkeypatch.setitem(steering.TOKENS, "small", 2)


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_of_the_small_scale_runs_and_writes_its_figures(name, less_data, tmp_path):
    file = tmp_path / "figures.json"
    result = CliRunner().invoke(bench.main, [name, "--runs", "1", "--json", str(file)], catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads(file.read_text())
    assert document["machine"]["cores"] >= 1
    assert document["figures"]
    for figure in document["figures"]:
        assert figure["benchmark"] == name
        assert math.isfinite(figure["median"])
        assert figure["low"] <= figure["median"] <= figure["high"]
        assert figure["name"] in result.stdout
        assert figure["target"] is not None or figure["reached"] is None


def test_scores_equal_those_of_the_published_approach(tmp_path):
    setting = measure.Setting("small", measure.Size(200, 128, 6000), tmp_path, runs=1)
    found = {figure.name: figure for figure in scoring.score(setting)}
    assert found["largest difference of the scores from the published"].high < 1e-4


@needs_spark
def test_scores_on_spark_equal_those_of_duckdb(tmp_path, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(spark.ROWS, "small", (64, [2000, 4000]))
    setting = measure.Setting("small", measure.Size(200, 128, 6000), tmp_path, runs=1)
    found = {figure.name: figure for figure in spark.spark(setting)}
    assert 0 <= found["largest difference of a score on Spark from DuckDB's"].high < 1e-6
    assert all(math.isfinite(figure.median) for figure in found.values())
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_that_cannot_run_here_says_why(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(bench.main, ["spark"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "skipped: engine spark needs pyspark and sqlglot: pip install 'neuron-atlas[spark]'" in result.stdout


def test_an_unknown_benchmark_is_named_with_the_known_ones():
    result = CliRunner().invoke(bench.main, ["scores"])
    assert result.exit_code == 2
    assert "no benchmark 'scores'" in result.output and "score_many" in result.output


def test_what_takes_long_is_run_once(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "LONG", -1.0)
    calls = []
    setting = measure.Setting("small", measure.Size(1, 1, 1), tmp_path)
    seconds = setting.time_all({"slow": lambda: calls.append(1)})["slow"]
    assert len(calls) == 1 and len(seconds) == measure.RUNS


def test_a_figure_says_whether_its_median_reaches_the_target():
    assert measure.figure("f", [1, 2, 9], at_most=2).reached is True
    assert measure.figure("f", [1, 2, 9], at_least=3).reached is False
    assert measure.figure("f", [1, 2, 9]).reached is None


def test_the_exponent_of_a_power_law_is_found():
    assert measure.exponent([1, 10, 100], [2, 2 * 10**1.5, 2 * 10**3]) == pytest.approx(1.5)


def test_detection_holds_a_topics_texts_against_everyday_texts_and_against_other_topics():
    topics = {"one": np.array([[2.0, 0], [3, 0]]), "two": np.array([[0.0, 5], [2.5, 0]])}
    codes = detection.HeldOut(np.array([[0.0, 9], [2.5, 9]]), topics)
    assert codes.areas("one", np.array([0])) == (0.75, 0.75)
    assert codes.areas("two", np.array([1])) == (0.0, 0.75)
    assert detection.shown([0.5, 1.0]).startswith("0.750 ± ")
    assert detection.shown([0.5, 1.0]).endswith(", 0.500")
