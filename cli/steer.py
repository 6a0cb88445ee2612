"""atlas steer"""

from __future__ import annotations

import click
from atlas.cli.output import Progress, format_option, print_frame


@click.command()
@click.argument("atlas", type=click.Path())
@click.argument("topic")
@click.argument("prompts", nargs=-1, required=True)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="original, sae, clamp, clamp-own, clamp-plus, weight, swap or add; again for more.  [default: original, swap]",
)
@click.option("--strength", type=float, default=None, help="In the method's unit.  [default: 10 for clamp, 1 for add]")
@click.option("--neurons", type=int, default=None, help="How many of the best neurons clamp and add use.  [default: 5]")
@click.option("--sigma", default="own", show_default=True, help="Selection of swap and weight: own, or topk.")
@click.option("--keep-error/--drop-error", default=False, show_default=True, help="Keep what the SAE cannot represent.")
@click.option("--positions", default="all", show_default=True, help="Tokens to steer: all, prompt or generated.")
@click.option(
    "--sae-id",
    "sae_ids",
    multiple=True,
    help="Which SAE, by id or key; again for several at once.  [default: the first scored]",
)
@click.option(
    "--model", "model_name", default=None, help="Where the language model is now.  [default: as it was built]"
)
@click.option(
    "--release", default=None, help="SAELens release or folder where the SAEs are now.  [default: as they were built]"
)
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option("--max-new-tokens", default=40, show_default=True, help="Tokens to generate.")
@click.option("--temperature", default=1.0, show_default=True, help="0 takes the likeliest token each time.")
@click.option("--top-k", default=5, show_default=True, help="Sample among so many tokens; 0 for all.")
@click.option("--top-p", default=1.0, show_default=True, help="Sample among the likeliest with this total probability.")
@click.option("--seed", default=0, show_default=True, help="Seed of the sampling, the same for every method.")
@click.option("--no-save", is_flag=True, help="Do not store the texts and their figures in the atlas.")
@format_option
def steer(
    atlas: str,
    topic: str,
    prompts: tuple[str, ...],
    methods: tuple[str, ...],
    strength: float | None,
    neurons: int | None,
    sigma: str,
    keep_error: bool,
    positions: str,
    sae_ids: tuple[str, ...],
    model_name: str | None,
    release: str | None,
    device: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    no_save: bool,
    style: str,
) -> None:
    """Go on with each of PROMPTS, steered towards TOPIC by the scores in ATLAS, one text per method side by side.

    Contamination is the share of the edited code that is off topic: 0 is pure, 1 is all off.

    \b
    Example:
      atlas steer pocket.atlas medicine "I want to tell you about" --method original --method swap
    """
    import polars as pl

    import atlas as library
    from atlas.generate import Sampling
    from atlas.steer import Steerer, steer_prompts

    opened = library.open(atlas)
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    progress = Progress()
    try:
        generations = steer_prompts(
            opened,
            topic,
            prompts,
            methods=methods or ("original", "swap"),
            sae_ids=sae_ids or None,
            settings={"strength": strength, "neurons": neurons, "sigma": sigma},
            keep_error=keep_error,
            positions=positions,
            steerer=Steerer(opened.store, model=model_name, release=release, device=device),
            sampling=sampling,
            save=not no_save,
            progress=progress,
        )
    finally:
        progress.close()
    frame = pl.DataFrame(generations)
    if style != "table":
        print_frame(frame, style)
        return
    for prompt in dict.fromkeys(prompts):
        click.echo(f"{prompt} ...")
        for row in frame.filter(pl.col("prompt") == prompt).iter_rows(named=True):
            purity = "no code" if row["contamination"] is None else f"contamination {row['contamination']:.3f}"
            click.echo(f"  {row['method']} ({purity})")
            click.echo(f"    {' '.join(row['text'].split())}")
