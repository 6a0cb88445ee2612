"""Run the command line in this process."""

from __future__ import annotations

from atlas.cli.main import cli
from click.testing import CliRunner

from atlas.errors import AtlasError


def run(*arguments):
    """(exit code, stdout, stderr) of `atlas` with these arguments, errors told as main tells them."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(result.exception, AtlasError):
        return 1, result.stdout, f"{result.stderr}Error: {result.exception}\n"
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
