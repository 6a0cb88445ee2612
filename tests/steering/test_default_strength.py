"""The default strength costs the same in every model: known prices, a model by hand, and SAEs whose units differ."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest
import tiny
import torch

import atlas
from atlas.models.recorded import RecordedModels
from atlas.models.tokens import pad_rows, special_ids
from atlas.steering.calibrations import store_strength
from atlas.steering.default_strength import CLOSE, PRICE, RULE, TOKENS, divergence, settle_price
from atlas.steering.generation import Sampling
from atlas.steering.methods import METHODS
from atlas.steering.prepare import prepare_steering
from atlas.steering.settings import Options, SteeringSettings
from atlas.steering.steer import steer_prompts
from atlas.store.file import Store

BY_SCORE = SteeringSettings(select="score")


@pytest.fixture(scope="module")
def path(built_atlas, tmp_path_factory, loaders):
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("default") / "x.atlas")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atlas.models.encoders.load_encoder", loaders["load_encoder"])
        atlas.open(path).score("sea", tiny.SEA, min_support=2)
    return path


def prepared_for(path, options=Options(), settings=BY_SCORE, **more):
    return prepare_steering(RecordedModels(Store(path)), "sea", {"add": options}, settings=settings, **more)


def price_by_hand(prepared, strength):
    """exp of the mean KL(steered || unsteered) over the tokens of prompts that lie evenly among the reference set."""
    texts = [text for i, text in enumerate(tiny.PROMPTS) if i * 8 % len(tiny.PROMPTS) < 8]
    assert len(texts) == 8
    rows = [row[:TOKENS] for row in prepared.model.rows(texts)]
    batch, mask = pad_rows(prepared.model.tokenizer, rows, "cpu")
    special = special_ids(prepared.model.tokenizer)
    at = replace(prepared, options={"add": replace(prepared.options["add"], strength=strength)})
    with torch.no_grad():
        plain = prepared.model.transformer(batch, attention_mask=mask.long()).logits.double().softmax(-1)
        with at.steering("add"):
            steered = prepared.model.transformer(batch, attention_mask=mask.long()).logits.double().softmax(-1)
    total = [
        float(sum(p * math.log(p / q) for p, q in zip(steered[i, j].tolist(), plain[i, j].tolist(), strict=True)))
        for i, row in enumerate(rows)
        for j, token in enumerate(row)
        if token not in special
    ]
    return math.exp(sum(total) / len(total))


def test_the_default_strength_of_add_is_the_one_at_the_price(path):
    prepared = prepared_for(path)
    strength = prepared.options["add"].strength
    assert strength != METHODS["add"].strength
    price = price_by_hand(prepared, strength)
    assert 1 / CLOSE**2 < math.log(price) / math.log(PRICE) < CLOSE**2


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_which_tokens_are_steered_does_not_matter_for_the_price_of_one(path, positions):
    prepared = prepared_for(path, settings=replace(BY_SCORE, positions=positions))
    assert prepared.options["add"].strength == prepared_for(path).options["add"].strength
    assert prepared.settings.positions == positions


def test_a_unit_that_is_off_does_not_change_the_text(path):
    """As when one outlying token makes every largest activation fifty times as large."""
    prepared = prepared_for(path)
    [sae] = prepared.saes
    blown = replace(
        prepared, saes=[replace(sae, target=replace(sae.target, max_activation=50 * sae.target.max_activation))]
    )
    found = blown.fitted("add", prepared.options["add"]).strength
    assert 50 * found == pytest.approx(prepared.options["add"].strength, rel=0.1)


@pytest.mark.parametrize("given", [0.0, 0.1, -2.0])
def test_a_strength_that_is_given_is_kept(path, given):
    assert prepared_for(path, Options(strength=given)).options["add"].strength == given


def test_a_strength_that_was_picked_goes_before_a_fitted_one(path, tmp_path):
    from atlas.steering.calibrations import store_strength

    copy = shutil.copy(path, tmp_path / "x.atlas")
    prepared = prepared_for(copy)
    with Store(copy).write() as session:
        store_strength(session, prepared.calibration_key(session, "add", prepared.options["add"]), 0.77, "a rule")
    assert prepared_for(copy).options["add"].strength == 0.77


def test_a_method_that_moves_nothing_keeps_its_default(path):
    assert prepared_for(path, Options(neurons=0)).options["add"].strength == METHODS["add"].strength


def test_python_steers_by_the_same_default_through_a_bridge_as_through_the_plain_model(
    path, language_model, transformer
):
    opened = atlas.open(path)
    found = [
        opened.steer(model, "sea", tokenizer=language_model.tokenizer, select="score").options.strength
        for model in (transformer, language_model.bridge)
    ]
    assert found[0] == pytest.approx(found[1], rel=0.05) == prepared_for(path).options["add"].strength


@pytest.mark.parametrize("unit", [1e-4, 1.0, 30.0])
def test_the_price_of_small_steps_grows_with_their_square_and_is_found_from_afar(unit):
    found = settle_price(lambda strength: (strength / unit) ** 2, 0.1)
    assert found == pytest.approx(unit * math.sqrt(math.log(PRICE)), rel=0.05)


def test_a_price_that_is_full_or_no_number_is_come_down_from():
    assert settle_price(lambda strength: min((10 * strength) ** 2, 6.0), 90.0) == pytest.approx(0.047, rel=0.05)
    assert settle_price(lambda strength: math.nan if strength > 1 else strength**2, 40.0) == pytest.approx(
        0.47, rel=0.05
    )


def test_divergence_is_that_worked_out_by_hand():
    """Of (1/2, 1/2) from (1/4, 3/4): half log 2 and half log 2/3; a token that is not steered halves the mean."""
    steered = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log()
    plain = torch.tensor([[0.25, 0.75], [0.2, 0.8]]).log()
    assert divergence(steered, plain) == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2, rel=1e-5)


def test_a_fit_is_stored_with_the_texts_and_found_again_until_the_topic_is_scored_anew(
    path, tmp_path, loaders, monkeypatch
):
    copy = shutil.copy(path, tmp_path / "x.atlas")
    first = prepared_for(copy)
    steer_prompts(first, ["She"], sampling=Sampling(max_new_tokens=2))
    [row] = atlas.open(copy).sql("from calibrations").to_dicts()
    assert (row["topic"], row["method"], row["strength"], row["rule"]) == (
        "sea", "add", first.options["add"].strength, RULE,
    )  # fmt: skip
    fit = "atlas.steering.prepare.fit_strength"
    with monkeypatch.context() as patch:
        patch.setattr(fit, lambda *given: pytest.fail("fitted again"))
        again = prepared_for(copy)
        assert again.options == first.options
        assert not again.fits
        steer_prompts(again, ["She"], sampling=Sampling(max_new_tokens=2))
    assert atlas.open(copy).sql("from calibrations").height == 1
    monkeypatch.setattr(fit, lambda *given: 0.123)
    assert prepared_for(copy, Options(neurons=3)).options["add"].strength == 0.123
    monkeypatch.setattr("atlas.models.encoders.load_encoder", loaders["load_encoder"])
    atlas.open(copy).score("sea", tiny.SEA[:1], replace=True, min_support=2)
    assert prepared_for(copy).options["add"].strength == 0.123


def test_a_calibrated_strength_goes_before_a_stored_fit(path, tmp_path):
    copy = shutil.copy(path, tmp_path / "x.atlas")
    first = prepared_for(copy)
    steer_prompts(first, ["She"], sampling=Sampling(max_new_tokens=2))
    with Store(copy).write() as session:
        store_strength(session, first.calibration_key(session, "add", first.options["add"]), 0.7, "by hand")
    assert prepared_for(copy).options["add"].strength == 0.7
