"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def join(*options: Command) -> Command:
    """Several options as one decorator, in the order in which the help lists them."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_options = join(
    click.option("--model", default=None, help="Where the language model is now.  [default: as it was built]"),
    click.option(
        "--release",
        default=None,
        help="SAELens release or folder where the SAEs are now.  [default: as they were built]",
    ),
)
device_option = click.option("--device", default="cpu", show_default=True, help="Torch device of model and SAEs.")
encoder_option = click.option(
    "--encoder", default=None, help="Where the atlas's sentence encoder is now.  [default: as it was built]"
)
scorer_option = click.option("--scorer", default="distance", show_default=True, help="Whose scores steer.")
select_option = click.option(
    "--select",
    default=None,
    help="Which neurons, in which order: score, z, remarkable, writes, combined, centroid, centroid-combined or "
    "centroid-joint.  [default: combined]",
)
positions_option = click.option(
    "--positions", default="all", show_default=True, help="Tokens to steer: all, prompt or generated."
)
chat_options = join(
    click.option("--chat", is_flag=True, help="Give the prompts to a chat model as what a user says, in its template."),
    click.option("--system", default=None, help="System message before it.  [default: the template's own]"),
)
strength_options = join(
    click.option(
        "--strength",
        type=float,
        default=None,
        help="In the method's unit; vectors take a negative one too.  "
        "[default: picked by evaluate, else fitted to the model for add, 10 for clamp, 1 for vectors]",
    ),
    click.option(
        "--neurons", type=int, default=None, help="How many of the best neurons clamp and add use.  [default: 5 and 60]"
    ),
    click.option(
        "--sigma",
        default="own",
        show_default=True,
        help="Selection: own (or sae); topk for swap and weight; relu or none for sas.",
    ),
)


vectors_option = click.option(
    "--vector",
    "vectors",
    multiple=True,
    help="Behaviour that sas, dense and filtered steer by; again to add several up.",
)


def sae_ids_option(default: str) -> Command:
    """--sae-id, which may be given again; `default` says what is taken when it is not."""
    return click.option(
        "--sae-id",
        "sae_ids",
        multiple=True,
        help=f"Which SAE, by id or key; again for several at once.  [default: {default}]",
    )


def sampling_options(max_new_tokens: int, seed: str) -> Command:
    """How text is sampled; `seed` says whose the seed is."""
    return join(
        click.option("--max-new-tokens", default=max_new_tokens, show_default=True, help="Tokens to generate."),
        click.option("--temperature", default=1.0, show_default=True, help="0 takes the likeliest token each time."),
        click.option("--top-k", default=5, show_default=True, help="Sample among so many tokens; 0 for all."),
        click.option(
            "--top-p", default=1.0, show_default=True, help="Sample among the likeliest with this total probability."
        ),
        click.option("--seed", default=0, show_default=True, help=seed),
    )


TAU_HELP = "Share of the pairs in which a neuron must fire on a side to be kept"
tau_option = click.option("--tau", default=0.7, show_default=True, help=f"{TAU_HELP}.")
taus_option = click.option(
    "--tau", "taus", multiple=True, type=float, help=f"{TAU_HELP}; again to compare several.  [default: 0.7]"
)


def position_option(default: str) -> Command:
    """--position; `default` says what is taken when it is not given."""
    return click.option(
        "--position",
        default=None,
        help="Where in each text: last (token), answer (first token in which the completions differ) or mean (over them).  "
        f"[default: {default}]",
    )
