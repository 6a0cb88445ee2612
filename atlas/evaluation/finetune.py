"""The baseline that steering saves: the language model fine-tuned on a topic's texts, with Hugging Face's own trainer."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from atlas.errors import AtlasError, ModelError
from atlas.models.fingerprints import hash_model
from atlas.models.loaded import LoadedModel
from atlas.models.loading import load_transformer
from atlas.models.quiet import quiet
from atlas.models.recorded import RecordedModels
from atlas.store.keeping import show_nobody
from atlas.store.replacement import follow
from atlas.texts.prompts import hash_texts

RECORD = "finetuned.json"  # beside the weights: what they were made from


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of the trainer.

    Attributes:
        epochs: passes over the texts.
        learning_rate: peak of a linear schedule.
        batch_size: texts per step.
        seed: of the order of the texts.
    """

    epochs: int = 5
    learning_rate: float = 5e-5
    batch_size: int = 4
    seed: int = 0


def finetuned(
    model_name: str,
    texts: Sequence[str],
    folder: str | Path,
    *,
    config: FinetuneConfig = FinetuneConfig(),
    prepend_bos: bool = True,
    device: str = "cpu",
    dtype: str = "float32",
) -> tuple[Any, float]:
    """A model fine-tuned on texts: loaded from `folder` when it was made from the same texts and settings, else trained.

    Args:
        model_name: hub name or local folder of the model to begin with.
        texts: what to train on.
        folder: where the weights are kept.
        config: settings of the trainer.
        prepend_bos: whether a BOS token goes before each text, as the SAE's policy has it.
        device: torch device.
        dtype: number format of the model that comes back; training is in float32.

    Returns:
        The model, and the seconds its training took.

    Raises:
        ModelError: the folder holds something else.
    """
    folder = follow(Path(folder))
    if folder.is_file():
        raise ModelError(f"{folder} is a file: name a folder for the fine-tuned model")
    model: Any
    model, tokenizer = load_transformer(model_name, device=device)
    wanted = {
        "model_hash": hash_model(model),
        "texts_hash": hash_texts(list(texts)),
        "prepend_bos": prepend_bos,
        **asdict(config),
    }
    record = folder / RECORD
    if folder.exists() and any(folder.iterdir()):
        found = json.loads(record.read_text()) if record.exists() else {}
        if {name: found.get(name) for name in wanted} != wanted:
            raise ModelError(f"{folder} holds a model made from other texts or settings: name another folder")
        return load_transformer(str(folder), device=device, dtype=dtype)[0], float(found["seconds"])
    seconds = _train(LoadedModel(model, tokenizer, prepend_bos), texts, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        with quiet():
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
        (Path(made) / RECORD).write_text(json.dumps({**wanted, "seconds": seconds}))
        shutil.copytree(made, Path(f"{folder}.new"), dirs_exist_ok=True)
    Path(f"{folder}.new").replace(folder)
    return load_transformer(str(folder), device=device, dtype=dtype)[0], seconds


def finetune_topic(
    recorded: RecordedModels, topic: str, folder: str | Path, *, tell: Callable[[str], None] = show_nobody
) -> Any:
    """The model of an atlas, fine-tuned on the texts that a topic is scored by (see `finetuned`).

    Args:
        recorded: the models of the atlas.
        topic: a scored topic.
        folder: holds a folder per topic, named after it.
        tell: called with what was made, as a line.

    Raises:
        AtlasError: the topic's name cannot be that of a folder.
        ModelError: its folder holds something else.
    """
    if Path(topic).name != topic or topic == ".." or "\0" in topic:
        raise AtlasError(
            f"topic {topic!r} cannot be the name of a folder in {folder}: score its texts under another name"
        )
    with recorded.store.read() as session:
        texts = session.ask("topic_texts", topic=topic)["text"].to_list()
        row = session.ask("all_saes").to_dicts()[0]
    own = Path(folder) / topic
    model, seconds = finetuned(
        recorded.model_name, texts, own, prepend_bos=bool(row["prepend_bos"]), device=recorded.device
    )
    tell(f"fine-tuned on {len(texts)} texts in {seconds:.1f} s: {own}")
    return model


def _train(loaded: LoadedModel, texts: Sequence[str], config: FinetuneConfig) -> float:
    """Train in place; the seconds it took."""
    with quiet():
        from transformers import Trainer, TrainingArguments

    model, rows = loaded.transformer, loaded.rows(texts)

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in batch)
        ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in batch]
        labels = [row["input_ids"] + [-100] * (longest - len(row["input_ids"])) for row in batch]
        mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in batch]
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "attention_mask": torch.tensor(mask)}

    model.requires_grad_(True)
    model.train()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, quiet(), torch.random.fork_rng():
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            per_device_train_batch_size=config.batch_size,
            seed=config.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=str(model.device) == "cpu",
        )
        trainer: Any = Trainer(
            model=model, args=arguments, train_dataset=[{"input_ids": row} for row in rows], data_collator=collate
        )
        trainer.train()
    model.requires_grad_(False)
    model.eval()
    return time.perf_counter() - started
