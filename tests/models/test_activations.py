"""Activations are summed up as the method says, over the tokens that count and over nothing else."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import polars as pl
import pytest
import tiny
import torch

import atlas.models.activations
from atlas.building.strongest import EXAMPLES, Strongest
from atlas.models.activations import Entries, encode_entries, run_model, summarise, tokenize
from atlas.models.saes import LoadedSae, describe_sae, load_sae

IDS = np.array([40, 17, 99], np.uint32)  # prompt_id of each row of a batch


@pytest.fixture(scope="module")
def residual(sae_folder) -> LoadedSae:
    return load_sae(str(sae_folder), "residual")


@pytest.fixture(scope="module")
def special(language_model):
    return frozenset(language_model.tokenizer.all_special_ids)


def random_entries(seed, *, prompts=3, tokens=6, d_sae=5, share=0.4):
    rng = np.random.default_rng(seed)
    prompt, position, neuron = np.nonzero(rng.random((prompts, tokens, d_sae)) < share)
    return Entries(prompt, position, neuron, rng.random(len(prompt)).astype(np.float32) + 0.1)


def test_summaries_equal_a_plain_loop():
    entries = random_entries(0)
    values = defaultdict(list)
    for prompt, neuron, value in zip(entries.prompt, entries.neuron, entries.value, strict=True):
        values[int(IDS[prompt]), int(neuron)].append(float(value))
    rows, totals = summarise(entries, IDS, 5)
    found = {(p, n): summary for n, p, *summary in rows.iter_rows()}
    assert found.keys() == values.keys()
    for key, fired in values.items():
        assert found[key] == pytest.approx([sum(fired), max(fired), len(fired)], rel=1e-6)
    for prompt_id, *total in totals.iter_rows():
        of_prompt = [fired for (p, _), fired in values.items() if p == prompt_id]
        expected = [sum(map(sum, of_prompt)), sum(map(max, of_prompt)), sum(map(len, of_prompt))]
        assert total == pytest.approx(expected, rel=1e-6)
    assert totals["prompt_id"].to_list() == IDS.tolist()


def test_summaries_of_a_case_worked_by_hand():
    entries = Entries(
        prompt=np.array([0, 0, 0, 2]),
        position=np.array([1, 1, 2, 0]),
        neuron=np.array([3, 0, 3, 3]),
        value=np.array([2, 1, 0.5, 4], np.float32),
    )
    rows, totals = summarise(entries, IDS, 5)
    assert rows.rows() == [(0, 40, 1.0, 1.0, 1), (3, 40, 2.5, 2.0, 2), (3, 99, 4.0, 4.0, 1)]
    assert totals.rows() == [(40, 3.5, 3.0, 3.0), (17, 0.0, 0.0, 0.0), (99, 4.0, 4.0, 1.0)]


def test_a_batch_in_which_nothing_fired_has_totals_of_zero_and_no_rows():
    none = np.zeros(0, np.int64)
    nothing = Entries(none, none, none, np.zeros(0, np.float32))
    rows, totals = summarise(nothing, IDS, 5)
    assert rows.height == 0
    assert totals.rows() == [(40, 0, 0, 0), (17, 0, 0, 0), (99, 0, 0, 0)]
    assert Strongest(5).take(nothing, IDS).height == 0


def entries_of(model, sae, texts, special, *, prepend_bos=True):
    ids, _ = tokenize(model, texts, prepend_bos=prepend_bos)
    return encode_entries(sae, run_model(model, ids, [sae.hook_name])[sae.hook_name], ids, special), ids


def as_dict(entries, row):
    mine = entries.prompt == row
    columns = (entries.position[mine], entries.neuron[mine], entries.value[mine])
    return {(int(p), int(n)): float(v) for p, n, v in zip(*columns, strict=True)}


def test_entries_are_the_saes_codes_of_the_tokens_that_count(language_model, residual, special, transformer):
    text = "The doctor <|endoftext|> slept."
    entries, [ids] = entries_of(language_model, residual, [text], special)
    assert ids.count(0) == 2
    with torch.no_grad():
        hidden = transformer(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        codes = residual.codec.sae.encode(hidden)
    expected = {(p, n): v for p, row in enumerate(codes.tolist()) if ids[p] != 0 for n, v in enumerate(row) if v > 0}
    assert as_dict(entries, 0) == pytest.approx(expected, rel=1e-3)


def test_a_prompt_without_bos_keeps_its_first_word(language_model, residual, special):
    with_bos, [long] = entries_of(language_model, residual, ["Rain fell"], special)
    without, [short] = entries_of(language_model, residual, ["Rain fell"], special, prepend_bos=False)
    assert long == [0, *short]
    assert without.position.min() == 0
    assert with_bos.position.min() == 1


def test_padding_and_batch_mates_do_not_change_a_prompts_entries(language_model, residual, special):
    texts = ["Rain.", "The crowd cheered for the home team, all day long.", "The ferry was late again."]
    together, ids = entries_of(language_model, residual, texts, special)
    assert len({len(row) for row in ids}) == 3
    for row, text in enumerate(texts):
        alone, _ = entries_of(language_model, residual, [text], special)
        assert as_dict(together, row) == pytest.approx(as_dict(alone, 0), rel=1e-3)


def test_padding_gives_no_entries_even_when_the_padding_token_is_an_ordinary_one(language_model, residual):
    entries, ids = entries_of(language_model, residual, ["Rain.", "The ferry was late again."], frozenset())
    assert entries.position[entries.prompt == 0].max() == len(ids[0]) - 1


def test_a_prompt_of_special_tokens_alone_gives_no_entries(language_model, residual, special):
    entries, _ = entries_of(language_model, residual, ["<|endoftext|>"], special)
    assert [len(column) for column in (entries.prompt, entries.position, entries.neuron, entries.value)] == [0] * 4


def test_encoding_in_small_chunks_gives_the_same_entries(monkeypatch, language_model, residual, special):
    whole, _ = entries_of(language_model, residual, tiny.PROMPTS[:5], special)
    monkeypatch.setattr(atlas.models.activations, "CHUNK_TOKENS", 7)
    parts, _ = entries_of(language_model, residual, tiny.PROMPTS[:5], special)
    assert len(whole.prompt) > 7
    for name in ("prompt", "position", "neuron"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    assert np.allclose(whole.value, parts.value, rtol=1e-4)


def test_activations_of_a_signed_sae_are_taken_as_absolute_values(language_model, special):
    sae = describe_sae(tiny.make_kind("abstopk"), "memory", "abstopk")
    entries, _ = entries_of(language_model, sae, tiny.PROMPTS[:3], special)
    signed = sae.codec.encode(torch.randn(20, tiny.D_MODEL)).acts
    assert (signed < 0).any()
    assert (entries.value > 0).all()
    counts = np.unique(np.stack([entries.prompt, entries.position]), axis=1, return_counts=True)[1]
    assert set(counts) == {4}  # k neurons per token, those with a negative value too


def test_a_text_longer_than_the_context_is_cut_and_said_to_be(language_model):
    ids, cut = tokenize(language_model, ["a b " * 40, "short"], prepend_bos=True)
    assert cut == [True, False]
    assert len(ids[0]) == tiny.CONTEXT
    whole = language_model.tokenizer("a b " * 40, add_special_tokens=False, verbose=False)["input_ids"]
    assert ids[0] == [0, *whole[: tiny.CONTEXT - 1]]
    assert tokenize(language_model, ["a b " * 40], prepend_bos=False)[0] == [whole[: tiny.CONTEXT]]


def test_a_text_that_just_fits_is_not_said_to_be_cut(language_model):
    whole = language_model.tokenizer("a b " * 40, add_special_tokens=False, verbose=False)["input_ids"]
    text = language_model.tokenizer.decode(whole[: tiny.CONTEXT - 1])
    for prepend_bos, room in ((True, tiny.CONTEXT - 1), (False, tiny.CONTEXT)):
        ids, cut = tokenize(language_model, [text], prepend_bos=prepend_bos)
        assert (len(ids[0]), cut) == (tiny.CONTEXT - 1 + prepend_bos, [False]), room


@pytest.mark.parametrize(
    "hook_names",
    [
        ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"],
        ["blocks.1.hook_mlp_out"],
        ["blocks.0.attn.hook_z", "ln_final.hook_normalized"],
    ],
)
def test_a_run_that_stops_early_gives_the_same_activations_and_leaves_no_hook(language_model, hook_names):
    ids = [[0, 300, 21], [0, 45, 310]]
    found = run_model(language_model, ids, hook_names)
    assert set(found) == set(hook_names)
    assert not any(point._forward_hooks for point in language_model.bridge.hook_dict.values())
    _, cache = language_model.bridge.run_with_cache(torch.tensor(ids), names_filter=lambda name: name in hook_names)
    for name in hook_names:
        torch.testing.assert_close(found[name], cache[name], rtol=1e-4, atol=1e-4)


def test_the_true_strongest_tokens_survive_being_fed_in_pieces():
    d_sae, pieces = 4, [random_entries(seed, prompts=3, tokens=30, d_sae=4) for seed in range(6)]
    strongest, handed_on, everything = Strongest(d_sae), [], []
    for piece, entries in enumerate(pieces):
        ids = np.arange(3, dtype=np.uint32) + 3 * piece
        handed_on.append(strongest.take(entries, ids))
        columns = {"neuron": entries.neuron, "prompt_id": ids[entries.prompt], "position": entries.position}
        everything.append(pl.DataFrame({**columns, "activation": entries.value}).cast(handed_on[0].schema))
        if piece == 2:  # a build that was stopped begins anew from what was kept
            strongest = Strongest(d_sae)
            strongest.remember(pl.concat(handed_on).select("neuron", "activation"))
    assert pl.concat(handed_on).height < pl.concat(everything).height / 2
    assert top(handed_on).equals(top(everything))


def top(frames):
    """The ten strongest rows of each neuron."""
    frame = pl.concat(frames).sort("neuron", "activation", descending=[False, True])
    return frame.filter(pl.int_range(pl.len()).over("neuron") < EXAMPLES)


def test_a_neuron_with_fewer_than_ten_tokens_keeps_them_all():
    entries = random_entries(1, prompts=3, tokens=3, d_sae=3, share=0.5)
    assert np.bincount(entries.neuron).max() < EXAMPLES < len(entries.value)
    assert Strongest(3).take(entries, IDS).height == len(entries.value)


def test_weaker_tokens_are_not_handed_on():
    strong = Entries(np.zeros(12, int), np.arange(12), np.ones(12, int), np.arange(1, 13, dtype=np.float32))
    strongest = Strongest(2)
    assert sorted(strongest.take(strong, IDS)["activation"]) == list(range(3, 13))
    weak = Entries(np.zeros(2, int), np.arange(2), np.ones(2, int), np.array([2.9, 3.5], np.float32))
    assert strongest.take(weak, IDS)["activation"].to_list() == [3.5]
