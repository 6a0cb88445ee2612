"""Builds that are killed, or that run out of disk, in processes of their own."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

SHARD_PROMPTS = 8
BATCH_SIZE = 4


def kill_builds(build_arguments: dict[str, Any], moments: list[tuple[str, ...]]) -> None:
    """Run a build that kills itself at each of the moments, one after the other; exit code 0 when all of them died."""
    prepare(build_arguments)
    for moment in moments:
        died = fork(lambda moment=moment: build_until(build_arguments, moment))
        if not os.WIFSIGNALED(died):
            print(f"was not killed at {moment}", file=sys.stderr)
            os._exit(1)


def fill_disk(build_arguments: dict[str, Any], limits: list[int], answer: Any) -> None:
    """Run a build under each limit on the size of a file, and send (error message, what it wrote to stderr)."""
    prepare(build_arguments)

    def run(limit: int) -> None:
        import atlas.building.build
        from atlas.errors import AtlasError

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        message = "built"
        with contextlib.redirect_stderr(io.StringIO()) as written:
            try:
                atlas.building.build.build_atlas(**build_arguments)
            except AtlasError as error:
                message = str(error)
            except Exception as error:
                message = f"{type(error).__name__} instead of an AtlasError: {error}"
        answer.send((message, written.getvalue()))

    for limit in limits:
        if fork(lambda limit=limit: run(limit)):
            answer.send(("died", ""))


def prepare(build_arguments: dict[str, Any]) -> None:
    """Load model and encoder once, before forking; nothing that starts threads may run here."""
    import atlas.building.build
    import atlas.building.plan
    from atlas.models.encoders import load_encoder
    from atlas.models.loading import load_language_model

    torch.set_num_threads(1)
    model, encoder = load_language_model(build_arguments["model"]), load_encoder()
    atlas.building.build.load_language_model = lambda *args, **options: model
    atlas.building.build.load_encoder = lambda *args, **options: encoder
    atlas.building.plan.SHARD_PROMPTS = SHARD_PROMPTS


@contextlib.contextmanager
def start_threads(master: str) -> Iterator[Any]:
    """Stands where Spark does: a job runs in the thread that asks for it."""

    def parallelize(tasks: list[Any], partitions: int) -> Any:
        return SimpleNamespace(foreach=lambda function: [function(task) for task in tasks] and None)

    yield SimpleNamespace(sparkContext=SimpleNamespace(parallelize=parallelize))


def run_on_threads(store: Any, models: Any, progress: Any) -> int:
    """The shards of a build on Spark, without Spark."""
    from atlas.spark import build as spark_build

    spark_build.start_spark = start_threads
    return spark_build.run_on_spark(store, models, progress, master="none")


def fork(function: Any) -> int:
    """Call a function in a fork and wait for its end: the status of waitpid."""
    pid = os.fork()
    if pid == 0:
        function()
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def build_until(build_arguments: dict[str, Any], moment: tuple[str, ...]) -> None:
    """Build until a moment: ("progress", stage, done), ("call", function that a build calls) or ("sql", query, nth time)."""
    import atlas.building.build
    import atlas.building.finish
    import atlas.store.replacement
    from atlas.store.session import Session

    def die(*args: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def progress(stage: str, done: int, total: int) -> None:
        if moment == ("progress", stage, done):
            die()

    if moment[0] == "call":
        finish, replacement = atlas.building.finish, atlas.store.replacement
        module = finish if hasattr(finish, moment[1]) else replacement
        setattr(module, moment[1], die)
    if moment[0] == "sql":
        run, left = Session.run, [moment[2]]

        def run_or_die(session: Session, name: str, **parameters: Any) -> None:
            left[0] -= name == moment[1]
            die() if left[0] == 0 else run(session, name, **parameters)

        Session.run = run_or_die
    atlas.building.build.build_atlas(**build_arguments, progress=progress)


def leftovers(path: Path) -> list[str]:
    """Names of the files beside an atlas that begin like it."""
    return sorted(p.name for p in path.parent.glob(path.name + "?*"))
