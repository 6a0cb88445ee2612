"""The fine-tuned baseline: it learns its texts, is kept, and is not mistaken for another."""

from __future__ import annotations

import pytest
import tiny
import torch

from atlas.errors import ModelError
from atlas.evaluation.finetune import FinetuneConfig, finetuned
from atlas.models.loading import load_transformer

CONFIG = FinetuneConfig(epochs=3, learning_rate=1e-3)


def loss(model, tokenizer, text):
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def test_training_lowers_the_loss_on_the_texts_and_is_not_done_twice(gpt2_folder, tmp_path, monkeypatch):
    folder = tmp_path / "models" / "sea"
    plain, tokenizer = load_transformer(str(gpt2_folder))
    state = torch.random.get_rng_state()
    tuned, seconds = finetuned(str(gpt2_folder), tiny.SEA, folder, config=CONFIG)
    assert torch.equal(state, torch.random.get_rng_state())
    assert seconds > 0 and not any(parameter.requires_grad for parameter in tuned.parameters())
    assert all(loss(tuned, tokenizer, text) < loss(plain, tokenizer, text) for text in tiny.SEA)
    monkeypatch.setattr("atlas.evaluation.finetune._train", lambda *args: pytest.fail("trained again"))
    again, before = finetuned(str(gpt2_folder), tiny.SEA, folder, config=CONFIG)
    assert before == seconds
    assert loss(again, tokenizer, tiny.SEA[0]) == pytest.approx(loss(tuned, tokenizer, tiny.SEA[0]))
    with pytest.raises(ModelError, match="holds a model made from other texts or settings: name another folder"):
        finetuned(str(gpt2_folder), tiny.MEDICINE, folder, config=CONFIG)
    with pytest.raises(ModelError, match="other texts or settings"):
        finetuned(str(gpt2_folder), tiny.SEA, folder, config=FinetuneConfig())


def test_a_folder_of_something_else_is_left_alone(gpt2_folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="name another folder"):
        finetuned(str(gpt2_folder), tiny.SEA, tmp_path, config=CONFIG)
    assert (tmp_path / "notes.txt").read_text() == "mine"
