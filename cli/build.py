"""atlas build"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click
from atlas.cli.engine import master_option
from atlas.cli.labelled import outdated_lines
from atlas.cli.output import Progress, echo

if TYPE_CHECKING:
    from atlas.building.shards import RunShards


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("prompts", type=click.Path())
@click.option("--model", required=True, help="Language model: hub name, local folder, GGUF file, or smollm2.")
@click.option("--release", required=True, help="SAELens release, or a local folder that holds SAEs.")
@click.option(
    "--sae-id",
    "sae_ids",
    required=True,
    multiple=True,
    help="SAE of the release, or its name in the folder; again for more.",
)
@click.option("--text-column", default=None, help="Column of the texts.  [default: text, else prompt]")
@click.option(
    "--encoder",
    default="sentence-transformers/all-MiniLM-L6-v2",
    show_default=True,
    help="SentenceTransformer name or folder.",
)
@click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Prompts per forward pass."
)
@click.option("--device", default="cpu", show_default=True, help="Torch device of model and SAEs.")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Number format of model and SAEs.",
)
@click.option(
    "--memory-limit",
    default="128MB",
    show_default=True,
    help="What DuckDB may take, above all to sort the tables; model and SAEs come on top.",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "spark"]),
    help="local: this process; spark: executors that have this package, model, SAEs and encoder under the same names.",
)
@master_option
@click.option(
    "--staging",
    default=None,
    type=click.Path(),
    help="Engine spark: a folder that every machine has at the same path.  [default: the one ATLAS is in]",
)
def build(
    atlas: str,
    prompts: str,
    model: str,
    release: str,
    sae_ids: tuple[str, ...],
    text_column: str | None,
    encoder: str,
    batch_size: int,
    device: str,
    dtype: str,
    memory_limit: str,
    engine: str,
    master: str,
    staging: str | None,
) -> None:
    """Build ATLAS from the texts in PROMPTS (.txt, .csv, .jsonl or .parquet), or add prompts and SAEs to it.

    A build that was stopped goes on with the same command, on either engine.

    \b
    Examples:
      atlas build gpt2.atlas prompts.txt --model gpt2 \\
          --release gpt2-small-resid-post-v5-32k --sae-id blocks.9.hook_resid_post
      atlas build gpt2.atlas prompts.txt --model gpt2 \\
          --release gpt2-small-resid-post-v5-32k --sae-id blocks.9.hook_resid_post \\
          --engine spark --master spark://host:7077
    """
    if engine != "spark" and staging is not None:
        raise click.UsageError("--staging goes with --engine spark")
    from atlas.texts.prompts import read_texts

    texts = read_texts(prompts, text_column=text_column)
    dropped = []
    if texts.duplicates:
        dropped.append(f"{texts.duplicates} duplicates")
    if texts.empty:
        first = ", ".join(map(str, texts.empty[:5])) + (", ..." if len(texts.empty) > 5 else "")
        dropped.append(f"{len(texts.empty)} empty rows ({first})")
    echo(
        f"{prompts}: {len(texts.texts):,} prompts" + (f"; dropped {' and '.join(dropped)}" if dropped else ""), err=True
    )
    from atlas.building.build import build_atlas
    from atlas.building.shards import run_here

    run_shards: RunShards = run_here
    if engine == "spark":
        from atlas.spark.build import run_on_spark
        from atlas.spark.session import require_spark

        require_spark()
        run_shards = partial(run_on_spark, master=master, staging=staging)
    progress = Progress()
    try:
        report = build_atlas(
            atlas,
            texts,
            model=model,
            saes=[(release, sae_id) for sae_id in sae_ids],
            encoder=encoder,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            memory_limit=memory_limit,
            progress=progress,
            run_shards=run_shards,
        )
    finally:
        progress.close()
    if report.truncated:
        echo(f"{report.truncated} prompts were longer than the model's context and were cut to it", err=True)
    if report.cut_by_encoder:
        echo(
            f"{report.cut_by_encoder} prompts are longer than the sentence encoder reads: their embeddings are of their "
            "beginnings only",
            err=True,
        )
    if report.same_embeddings and (report.shards or report.sorted):
        echo(
            f"{report.same_embeddings} of {report.prompts:,} prompts have the embedding of an earlier one: no topic tells "
            "them apart",
            err=True,
        )
    for line in outdated_lines(report.outdated_labels):
        echo(line, err=True)
    if report.shards or report.new_saes or report.sorted:
        echo(f"{atlas}: {report.prompts:,} prompts, {report.rows:,} activation rows. Next: atlas info {atlas}")
    else:
        echo(f"{atlas}: nothing to do, all {report.prompts:,} prompts and these SAEs are in")
