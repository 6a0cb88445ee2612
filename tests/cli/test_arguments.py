"""Texts on the command line may begin with a dash; options stay options, wherever they stand."""

from __future__ import annotations

import click
import pytest
from atlas.cli.arguments import options_first
from atlas.cli.main import cli
from click.testing import CliRunner


@click.command()
@click.argument("texts", nargs=-1)
@click.option("-n", default=1)
@click.option("--name", "--label", multiple=True)
@click.option("--pair", nargs=2)
@click.option("--strength", type=float)
@click.option("--yes/--no")
def command(**_):
    pass


@pytest.mark.parametrize(
    ("given", "texts", "values"),
    [
        (["a", "- item"], ("a", "- item"), {}),
        (["-- comment\nselect 1"], ("-- comment\nselect 1",), {}),
        (["--comment here"], ("--comment here",), {}),
        (["-"], ("-",), {}),
        (["-1 degree", "-5", "-.5"], ("-1 degree", "-5", "-.5"), {}),
        (["a", "-n", "3", "b"], ("a", "b"), {"n": 3}),
        (["-n3", "- a"], ("- a",), {"n": 3}),
        (["--name", "- x", "--name=-- y", "--label", "-z"], (), {"name": ("- x", "-- y", "-z")}),
        (["--strength", "-1", "- a"], ("- a",), {"strength": -1.0}),
        (["--pair", "- a", "-b", "- c"], ("- c",), {"pair": ("- a", "-b")}),
        (["--yes", "- a", "--no"], ("- a",), {"yes": False}),
        (["--", "--name", "-n"], ("--name", "-n"), {}),
        (["\u2014 dash", "--\u00e9t\u00e9"], ("\u2014 dash", "--\u00e9t\u00e9"), {}),
        (["-- a", "-n", "2"], ("-- a",), {"n": 2}),
    ],
)
def test_texts_that_begin_with_a_dash_are_texts(given, texts, values):
    context = command.make_context("x", options_first(command, given))
    assert context.params["texts"] == texts
    assert {name: context.params[name] for name in values} == values


@pytest.mark.parametrize("given", [["--nmae", "x"], ["-q"], ["--name"], ["-n", "x"], ["--formt=csv"]])
def test_a_mistyped_option_is_still_said(given):
    with pytest.raises(click.UsageError):
        command.make_context("x", options_first(command, given))


@pytest.mark.parametrize(
    "arguments",
    [
        ["top", "no.atlas", "- topic"],
        ["why", "no.atlas", "- topic", "1"],
        ["steer", "no.atlas", "- topic", "- item", "-- and"],
        ["steer", "--method", "add", "no.atlas", "topic", "- item", "--strength", "-1"],
        ["query", "no.atlas", "-- why\nselect 1"],
        ["query", "--format", "csv", "no.atlas", "--why\nselect 1"],
    ],
)
def test_every_command_takes_texts_that_begin_with_a_dash(arguments):
    found = CliRunner().invoke(cli, arguments)
    assert "no atlas at no.atlas" in str(found.exception), found.output


def test_a_mistyped_option_of_a_command_is_a_usage_error():
    assert CliRunner().invoke(cli, ["top", "no.atlas", "x", "--formt", "csv"]).exit_code == 2
