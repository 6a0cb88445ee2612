"""Settings of steering: what every method of a call shares, and what is a method's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from atlas.errors import AtlasError, UnknownName
from atlas.models.chat import check_chat
from atlas.scoring.scorers import SCORERS
from atlas.steering.selection import DEFAULT_RULE, RULES

POSITIONS = {
    "all": "prompt and generated tokens",
    "prompt": "tokens of the prompt",
    "generated": "generated tokens",
}
SIGMAS = {
    "own": "the SAE's own selection",
    "sae": "another name for own",
    "topk": "as many neurons as the token has active, chosen by score * pre-activation / threshold",
    "relu": "every neuron above 0",
    "none": "every neuron",
}


@dataclass(frozen=True)
class SteeringSettings:
    """What every method of a call shares, whatever it does to a code.

    Attributes:
        scorer: whose scores steer: key of atlas.scoring.scorers.SCORERS.
        select: which neurons steer: key of atlas.steering.selection.RULES.
        keep_error: whether a method that decodes keeps what the SAE cannot represent. Evaluation showed that this is
            better; the papers' own arithmetic drops it.
        positions: which tokens are steered: key of POSITIONS.
        chat: whether prompts are a user's messages in the model's chat template.
        system: the system message before them; None for what the template has by itself.

    Raises:
        UnknownName: one of them is no key.
        AtlasError: there is a system message and no chat.
    """

    scorer: str = "distance"
    select: str = DEFAULT_RULE
    keep_error: bool = True
    positions: str = "all"
    chat: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        check_chat(self.chat, self.system)
        for kind, name, known in (
            ("scorer", self.scorer, SCORERS),
            ("selection rule", self.select, RULES),
            ("positions", self.positions, POSITIONS),
        ):
            if name not in known:
                raise UnknownName(kind, name, known)

    def stored(self) -> dict[str, Any]:
        """As it is stored: what is of a chat only where it is one, as atlases had it before there were chats."""
        return asdict(self) if self.chat else without_chat(asdict(self))


def without_chat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those of a chat."""
    return {name: value for name, value in values.items() if name not in ("chat", "system")}


@dataclass(frozen=True)
class Options:
    """A method's own settings.

    Attributes:
        strength: in the method's own unit (see METHODS); None for its default. Vectors take a negative one too.
        neurons: how many of the best neurons clamp and add use; None for the method's default.
        sigma: how swap, weight and sas select neurons: key of SIGMAS.

    Raises:
        UnknownName: there is no such sigma.
        AtlasError: the number of neurons is negative.
    """

    strength: float | None = None
    neurons: int | None = None
    sigma: str = "own"

    def __post_init__(self) -> None:
        if self.sigma not in SIGMAS:
            raise UnknownName("sigma", self.sigma, SIGMAS)
        if self.neurons is not None and self.neurons < 0:
            raise AtlasError(f"number of neurons {self.neurons} is negative: give 0 or more")
