"""Contrastive vectors are those of the method, section 5, and steer by their name."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import handmade
import numpy as np
import polars as pl
import pytest
import tiny
import torch
from command import run
from contents import change

import atlas
from atlas.contrast.make_vectors import compare_vectors, count_sides, make_vectors, sweep_tau
from atlas.contrast.pair_tokens import CODE_POSITIONS, tokenize_pairs
from atlas.errors import AtlasError, StoreError, UnknownName
from atlas.models.codec import Codec
from atlas.models.hooks import find_site
from atlas.models.recorded import RecordedModels
from atlas.models.saes import load_sae
from atlas.steering.generation import Sampling
from atlas.steering.methods import settle_options, spread_options
from atlas.steering.prepare import check_sources, prepare_steering
from atlas.steering.settings import Options
from atlas.steering.steer import steer_prompts
from atlas.steering.targets import load_steered_saes
from atlas.texts.pairs import collect_pairs

PAIRS = collect_pairs(
    [
        ("The doctor", " gave a new drug.", " sailed the ship."),
        ("A nurse", " cleaned the wound.", " tied the rope."),
        ("They", " took a pill with care.", " rowed across the sea."),
        ("The old man", " had a fever.", " had a boat."),
        ("", "Blood was drawn.", "Waves broke."),
    ]
)
OTHER = collect_pairs([("She", " ran the last mile.", " cut the onions."), ("He", " won.", " ate fish.")])


@pytest.fixture
def opened(atlas_file):
    return atlas.open(atlas_file)


def rows(opened, table):
    return opened.sql(f"select * from {table}").rows()


def make_codes(folder, positive, negative):
    """A store that holds the codes of both sides [pair, neuron] as those of a behaviour `b`."""
    store = handmade.make_store(
        folder / "x.atlas", [np.ones((3, 1, positive.shape[1]), np.float32)], handmade.unit_vectors(np.random, 1)
    )
    with store.write() as session:
        for side, codes in (("positive", positive), ("negative", negative)):
            pair, neuron = np.nonzero(codes)
            frame = pl.DataFrame({"pair_id": pair, "neuron": neuron, "value": codes[pair, neuron].astype(np.float32)})
            labels = {"name": "b", "sae_key": 0, "position": "last", "side": side}
            session.append("pair_codes", frame.with_columns(**{k: pl.lit(v) for k, v in labels.items()}))
    return store


def vector_in_sql(store, tau, pairs, neurons):
    with store.read() as session:
        kept = session.ask("make_sas_vector", behaviour="b", sae_key=0, position="last", tau=tau, pairs=pairs)
    found = np.zeros(neurons)
    entries = kept.filter(~pl.col("shared"))
    found[entries["index"].to_numpy()] = entries["value"].to_numpy()
    return found, kept


def vector_by_hand(positive, negative, tau):
    """Section 5 in five lines."""

    def side(codes):
        fired = codes != 0
        with np.errstate(invalid="ignore"):
            means = np.nan_to_num(codes.sum(0) / fired.sum(0))
        return np.where(fired.sum(0) >= tau * len(codes) - 1e-9, means, 0)

    plus, minus = side(positive), side(negative)
    return np.where((plus != 0) & (minus != 0), 0, plus - minus)


def test_the_worked_example_gives_its_vector(tmp_path):
    positive = np.array([[1, 0, 2, 0], [3, 0, 0, 0], [2, 0, 4, 1], [0, 0, 6, 0]])
    negative = np.array([[0, 5, 1, 0], [0, 1, 3, 0], [0, 0, 0, 0], [0, 3, 2, 7]])
    found, kept = vector_in_sql(make_codes(tmp_path, positive, negative), 0.5, 4, 4)
    assert found.tolist() == [2, -3, 0, 0]
    assert count_sides(kept) == {"positive": 2, "negative": 2, "shared": 1, "entries": 2}


@pytest.mark.parametrize("signed", [False, True], ids=["positive codes", "signed codes"])
def test_the_vector_in_sql_is_the_one_by_hand_for_every_tau(tmp_path, signed):
    rng = np.random.default_rng(4)
    shares = rng.random((2, 30))  # neurons that fire rarely, and neurons that nearly always do, on each side
    sides = [rng.integers(1, 9, (20, 30)) * (rng.random((20, 30)) < share) for share in shares]
    if signed:
        sides = [side * rng.choice([-1, 1], 30) for side in sides]
    store = make_codes(tmp_path, *sides)
    entries = 0
    for tau in (0.05, 0.3, 0.5, 0.7, 0.95, 1.0):
        found, kept = vector_in_sql(store, tau, 20, 30)
        np.testing.assert_allclose(found, vector_by_hand(sides[0], sides[1], tau), rtol=1e-6)
        assert count_sides(kept)["entries"] == np.count_nonzero(found)
        entries += np.count_nonzero(found)
    assert entries > 30


def codes_by_hand(model, tokenizer, codec, hook_name, bos, position):
    """Codes and activations of both sides, one text at a time, the spans found anew: [side][pair, ...]."""
    acts, dense = ([], []), ([], [])
    for prompt, *texts in PAIRS.rows():
        ids = [
            [tokenizer.bos_token_id] * bos + tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
            for text in texts
        ]
        begin = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + bos if prompt else bos
        differ = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
        for side, row in enumerate(ids):
            seen = []
            handle = find_site(model, hook_name).edit(lambda x, seen=seen: seen.append(x) or x)
            with torch.no_grad():
                model(torch.tensor([row]))
            handle.remove()
            chosen = {"last": slice(-1, None), "answer": slice(differ, differ + 1), "mean": slice(begin, None)}[
                position
            ]
            acts[side].append(codec.encode(seen[0][0, chosen]).acts.mean(0))
            dense[side].append(codec.flatten(seen[0][0, chosen]).mean(0))
    return [torch.stack(side).numpy() for side in acts], [torch.stack(side).numpy() for side in dense]


@pytest.mark.parametrize("position", CODE_POSITIONS)
def test_codes_and_both_vectors_are_those_of_the_plain_model_at_the_position(
    opened, transformer, language_model, sae_folder, position
):
    counts = make_vectors(opened.store, "medical", PAIRS, tau=0.2, position=position)
    assert counts["sae_id"].to_list() == ["residual", "heads"]
    for row in counts.to_dicts():
        sae = load_sae(str(sae_folder), row["sae_id"])
        acts, dense = codes_by_hand(
            transformer, language_model.tokenizer, sae.codec, sae.hook_name, sae.prepend_bos, position
        )
        where = f"name = 'medical' and sae_key = {row['sae_key']} and position = '{position}'"
        for side, codes in zip(("positive", "negative"), acts, strict=True):
            stored = opened.sql(f"select * from pair_codes where {where} and side = '{side}'")
            found = np.zeros_like(codes)
            found[stored["pair_id"].to_numpy(), stored["neuron"].to_numpy()] = stored["value"].to_numpy()
            np.testing.assert_allclose(found, codes, atol=1e-4)
        for kind, expected in (
            ("sas", vector_by_hand(acts[0], acts[1], 0.2)),
            ("dense", (dense[0] - dense[1]).mean(0)),
        ):
            stored = opened.sql(
                f"select e.* from vector_entries as e join vectors as v using (vector_id) where v.kind = '{kind}' and {where}"
            )
            found = np.zeros_like(expected)
            found[stored["index"].to_numpy()] = stored["value"].to_numpy()
            np.testing.assert_allclose(found, expected, atol=1e-4)
            assert found.any()


def test_the_same_again_needs_no_model_and_changes_nothing(opened):
    first = make_vectors(opened.store, "medical", PAIRS)
    before = [rows(opened, table) for table in ("pairs", "pair_codes", "vectors", "vector_entries")]
    broken = RecordedModels(opened.store, model="/nowhere", release="/nowhere")
    assert make_vectors(opened.store, "medical", PAIRS, recorded=broken).equals(first)
    assert opened.contrast("medical", PAIRS, steerer=broken).equals(first)
    assert [rows(opened, table) for table in ("pairs", "pair_codes", "vectors", "vector_entries")] == before


def test_another_tau_makes_a_further_vector_without_the_model_and_the_last_one_asked_for_is_current(opened):
    make_vectors(opened.store, "medical", PAIRS, tau=0.9)
    broken = RecordedModels(opened.store, model="/nowhere", release="/nowhere")
    current = "select distinct tau from vectors where kind = 'sas' and is_current"
    for tau in (0.3, 0.9):
        make_vectors(opened.store, "medical", PAIRS, tau=tau, recorded=broken)
        assert opened.sql(current)["tau"].to_list() == [tau]
    assert opened.sql("select count(*) as n from vectors where kind = 'sas'")["n"].to_list() == [4]
    assert opened.sql("select count(*) as n from vectors where kind = 'dense'")["n"].to_list() == [2]


def test_another_position_makes_further_vectors_of_both_kinds(opened):
    make_vectors(opened.store, "medical", PAIRS)
    make_vectors(opened.store, "medical", PAIRS, position="mean")
    found = opened.sql("select kind, position from vectors where is_current and sae_key = 0 order by kind").rows()
    assert found == [("dense", "mean"), ("sas", "mean")]
    assert opened.sql("select count(*) as n from vectors").item() == 8


def test_other_pairs_under_a_name_are_refused_unless_they_are_to_replace_it(opened):
    make_vectors(opened.store, "medical", PAIRS)
    make_vectors(opened.store, "other", OTHER)
    with pytest.raises(StoreError, match="'medical' has 5 other pairs already: choose another name, or --replace"):
        make_vectors(opened.store, "medical", OTHER)
    make_vectors(opened.store, "medical", OTHER, replace=True)
    counted = "select name, count(*) as n, max(pair_id) as last from {} group by name order by name"
    assert opened.sql(counted.format("pairs")).rows() == [("medical", 2, 1), ("other", 2, 1)]
    assert opened.sql("select distinct pair_id from pair_codes order by all")["pair_id"].to_list() == [0, 1]
    assert opened.sql("select distinct pairs from vectors")["pairs"].to_list() == [2]
    assert opened.sql("select count(*) as n from vector_entries anti join vectors using (vector_id)").item() == 0


def test_an_id_is_not_given_again_while_a_text_names_it(opened):
    make_vectors(opened.store, "medical", PAIRS)
    last = opened.sql("select max(vector_id) as id from vectors").item()
    with opened.store.write() as session:
        session.append("generations", pl.DataFrame({"vector_ids": [[last + 10]]}))
    make_vectors(opened.store, "other", OTHER)
    assert opened.sql("select min(vector_id) as id from vectors where name = 'other'").item() == last + 11


def test_vectors_of_one_sae_are_made_and_the_others_later(opened):
    make_vectors(opened.store, "medical", PAIRS, sae_ids=["heads"])
    assert opened.sql("select distinct sae_key from vectors")["sae_key"].to_list() == [1]
    make_vectors(opened.store, "medical", PAIRS)
    assert opened.sql("select count(*) as n from vectors").item() == 4


@pytest.mark.parametrize("settings", [{"tau": 0.0}, {"tau": 1.2}, {"position": "first"}, {"sae_ids": ["nothing"]}])
def test_settings_that_cannot_be_are_refused_and_nothing_is_stored(opened, settings):
    with pytest.raises(AtlasError, match="out of range|unknown position 'first': known are|unknown SAE"):
        make_vectors(opened.store, "medical", PAIRS, **settings)
    assert rows(opened, "pairs") == []


def test_pairs_longer_than_the_context_are_left_out(opened):
    long = collect_pairs([*PAIRS.rows(), ("The sea " * 40, " yes", " no")])
    counts = make_vectors(opened.store, "medical", long, sae_ids=[0])
    assert counts["pairs"].to_list() == [5]
    with pytest.raises(AtlasError, match="none of 1 pairs fits into the context of 32 tokens"):
        make_vectors(opened.store, "long", collect_pairs([("The sea " * 40, " yes", " no")]))


def test_answer_is_the_first_token_that_differs_even_where_one_side_ends_before(language_model):
    pairs = collect_pairs([("The doctor", " gave", " gave a drug.")])
    [sides] = tokenize_pairs(language_model.tokenizer, pairs, prepend_bos=True, context=32)
    assert CODE_POSITIONS["answer"].span(sides, sides.positive) == (len(sides.positive) - 1, len(sides.positive))
    assert CODE_POSITIONS["answer"].span(sides, sides.negative) == (len(sides.positive), len(sides.positive) + 1)


def test_a_higher_tau_leaves_no_more_neurons_on_a_side_and_agrees_with_contrast(opened):
    made = make_vectors(opened.store, "medical", PAIRS, tau=0.6)
    found = sweep_tau(opened.store, "medical", (0.2, 0.6, 1.0))
    for _, group in found.group_by("sae_id"):
        assert group["positive"].is_sorted(descending=True) and group["negative"].is_sorted(descending=True)
    shared = ["sae_id", "tau", "pairs", "positive", "negative", "shared", "entries"]
    assert found.filter(pl.col("tau") == 0.6).select(shared).equals(made.select(shared), null_equal=True)
    with pytest.raises(UnknownName, match="unknown vector 'medicine': known are medical"):
        sweep_tau(opened.store, "medicine")


def test_vectors_of_two_behaviours_are_compared_entry_by_entry(opened):
    make_vectors(opened.store, "a", PAIRS, tau=0.3, sae_ids=[0])
    make_vectors(opened.store, "b", OTHER, tau=0.3, sae_ids=[0])
    values = {}
    for name in ("a", "b"):
        for kind in ("sas", "dense"):
            rows = opened.sql(
                "select e.* from vector_entries as e join vectors as v using (vector_id) "
                f"where v.name = '{name}' and v.kind = '{kind}'"
            )
            values[name, kind] = dict(zip(rows["index"], rows["value"], strict=True))
    for row in compare_vectors(opened.store).to_dicts():
        a, b = values["a", row["kind"]], values["b", row["kind"]]
        both = set(a) & set(b)
        assert (row["entries_a"], row["entries_b"], row["both"]) == (len(a), len(b), len(both))
        assert row["jaccard"] == pytest.approx(len(both) / len(set(a) | set(b)))
        length = np.linalg.norm(list(a.values())) * np.linalg.norm(list(b.values()))
        assert row["cosine"] == pytest.approx(sum(a[i] * b[i] for i in both) / length)


@pytest.fixture(scope="module")
def with_both(built_atlas, tmp_path_factory):
    path = shutil.copy(built_atlas, tmp_path_factory.mktemp("both") / "tiny.atlas")
    make_vectors(atlas.open(path).store, "medical", PAIRS, tau=0.3)
    make_vectors(atlas.open(path).store, "sport", OTHER, tau=0.3)
    return path


class TestSteering:
    """Vectors of the store steer, by their name, without a topic."""

    IDS = torch.tensor([[0, 30, 41, 52, 63, 74]])

    @pytest.fixture
    def both(self, with_both, tmp_path):
        """A copy of an atlas with vectors of two behaviours."""
        return atlas.open(shutil.copy(with_both, tmp_path / "both.atlas"))

    def logits(self, opened, transformer, tokenizer, **settings):
        with opened.steer(transformer, None, tokenizer=tokenizer, **settings), torch.no_grad():
            return transformer(self.IDS).logits

    def test_dense_adds_the_stored_vectors_of_all_names_to_the_residual_stream(self, both, transformer, language_model):
        step = torch.zeros(tiny.D_MODEL)
        for index, value in both.sql(
            "select e.index, e.value from vector_entries as e join vectors as v using (vector_id) "
            "where v.kind = 'dense' and v.sae_key = 0"
        ).rows():
            step[index] += value
        handle = find_site(transformer, "blocks.0.hook_resid_post").edit(
            lambda x: x - 1.5 * step * (self.IDS != 0).unsqueeze(-1)
        )
        with torch.no_grad():
            expected = transformer(self.IDS).logits
        handle.remove()
        found = self.logits(
            both, transformer, language_model.tokenizer, method="dense", vector=["medical", "sport"], strength=-1.5
        )
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("method", ["sas", "dense", "filtered"])
    def test_strength_0_is_the_model_as_it_is_and_other_strengths_are_not(
        self, both, transformer, language_model, method
    ):
        with torch.no_grad():
            plain = transformer(self.IDS).logits
        for strength, same in ((0.0, True), (3.0, False), (-3.0, False)):
            found = self.logits(
                both, transformer, language_model.tokenizer, method=method, vector="medical", strength=strength,
                sigma="none" if method == "sas" else "own",
            )  # fmt: skip
            assert torch.equal(found, plain) is same

    def test_filtered_steers_by_the_mean_difference_of_the_codes(self, both):
        codes = both.sql("select * from pair_codes where name = 'medical' and sae_key = 0")
        expected = torch.zeros(24)
        for row in codes.to_dicts():
            expected[row["neuron"]] += row["value"] * {"positive": 1, "negative": -1}[row["side"]] / len(PAIRS)
        [sae] = load_steered_saes(RecordedModels(both.store), None, [0], vectors=["medical"]).saes
        assert isinstance(sae.codec, Codec)
        torch.testing.assert_close(sae.target.vector("difference"), expected)

    def test_the_first_sae_that_has_every_vector_is_taken(self, opened):
        make_vectors(opened.store, "medical", PAIRS)
        make_vectors(opened.store, "sport", OTHER, sae_ids=["heads"])
        found = load_steered_saes(RecordedModels(opened.store), None, vectors=["medical", "sport"])
        assert [row["sae_id"] for row in found.rows] == ["heads"]
        with pytest.raises(StoreError, match="vector 'sport' is not there for SAE 0"):
            load_steered_saes(RecordedModels(opened.store), None, [0], vectors=["sport"])

    def test_a_text_names_the_vectors_that_steered_it(self, both):
        methods = spread_options(Options(2.0), ["original", "sas", "dense"])
        prepared = prepare_steering(RecordedModels(both.store), None, methods, vectors=["sport", "medical"])
        found = steer_prompts(prepared, ["The doctor"], sampling=Sampling(4))
        assert [text.contamination for text in found] == [None] * 3
        stored = {row["method"]: row for row in both.sql("select * from generations").to_dicts()}
        names = {row["vector_id"]: (row["name"], row["kind"]) for row in both.sql("select * from vectors").to_dicts()}
        assert stored["original"]["vector_ids"] == []
        for method in ("sas", "dense"):
            assert [names[i] for i in stored[method]["vector_ids"]] == [("medical", method), ("sport", method)]
            assert json.loads(stored[method]["parameters"])["strength"] == 2.0

    @pytest.mark.parametrize(
        ("method", "vectors", "message"),
        [
            ("swap", ["medical"], "method swap steers by a topic's scores: name a topic"),
            ("sas", [], "method sas steers by a contrastive vector: name one with --vector"),
            ("original", ["medical"], "none of the methods original uses a vector: add one"),
            ("sas", ["medicine"], "unknown vector 'medicine': known are medical"),
        ],
    )
    def test_what_cannot_be_steered_is_said(self, both, method, vectors, message):
        with pytest.raises(AtlasError, match=message):
            prepare_steering(RecordedModels(both.store), None, {method: Options()}, vectors=vectors)

    def test_who_names_a_topic_and_no_vector_is_told_how_to_make_the_topics_own(self):
        with pytest.raises(
            AtlasError, match=r"`atlas contrast ATLAS 'green tea' --topic 'green tea'` makes that of the topic"
        ):
            check_sources("green tea", ["filtered"], [])

    def test_python_says_too_that_a_vector_is_missing(self, both, transformer, language_model):
        with pytest.raises(AtlasError, match="name one with --vector"):
            both.steer(transformer, None, method="sas", tokenizer=language_model.tokenizer)
        with pytest.raises(AtlasError, match="the vector has no entry for method sas"):
            make_vectors(both.store, "medical", PAIRS, tau=1.0, position="answer")
            with both.store.write() as session:
                change(session, "delete from vector_entries")
            both.steer(transformer, None, method="sas", vector="medical", tokenizer=language_model.tokenizer)


@pytest.mark.parametrize("methods", [["swap", "sas"], ["sas"]])
def test_a_sigma_goes_to_the_methods_that_have_it(methods):
    taken = spread_options(Options(sigma="relu"), methods)
    assert settle_options("sas", taken["sas"]) == Options(1.0, None, "relu")
    if "swap" in methods:
        assert settle_options("swap", taken["swap"]).sigma == "own"


class TestCommand:
    """What the command line prints."""

    @pytest.fixture
    def files(self, atlas_file, tmp_path):
        path = tmp_path / "medical.jsonl"
        pl.DataFrame(PAIRS.rows(), schema=["prompt", "positive", "negative"], orient="row").write_ndjson(path)
        return SimpleNamespace(atlas=atlas_file, pairs=path)

    def test_contrast_prints_counts_and_the_strongest_entries(self, files):
        code, stdout, stderr = run("contrast", files.atlas, "medical", files.pairs, "--tau", 0.4, "-n", 2)
        assert code == 0, stderr
        lines = [line.split() for line in stdout.splitlines()]
        assert lines[0] == ["sae_id", "pairs", "positive", "negative", "shared", "entries"]
        assert [line[:2] for line in lines[1:3]] == [["residual", "5"], ["heads", "5"]]
        assert lines[4] == ["sae_id", "neuron", "value", "support", "fires_on", "top_tokens"]
        assert len(lines) == 5 + sum(min(2, int(line[5])) for line in lines[1:3])
        strongest = [abs(float(line[2])) for line in lines[5:] if line[0] == "heads"]
        assert strongest == sorted(strongest, reverse=True)

    def test_json_has_counts_and_entries_in_one_array(self, files):
        code, stdout, _ = run("contrast", files.atlas, "medical", files.pairs, "--tau", 0.4, "--format", "json")
        found = json.loads(stdout)
        assert code == 0
        assert {"name", "sae_id", "tau", "pairs", "entries", "neuron", "value", "fires_on"} <= set(found[0])

    def test_pairs_that_do_not_fit_are_counted_on_stderr(self, files, tmp_path):
        path = tmp_path / "long.jsonl"
        line = json.dumps({"positive": "The sea " * 40, "negative": "no"})
        path.write_text(files.pairs.read_text() + line.replace('{"', '{"prompt": "", "') + "\n")
        _, _, stderr = run("contrast", files.atlas, "medical", path)
        assert "1 of 6 pairs left out: they do not fit into the model's context" in stderr

    def test_a_topics_texts_are_set_against_everyday_texts(self, files, tmp_path):
        opened = atlas.open(files.atlas)
        opened.score("medicine", tiny.MEDICINE, min_support=2)
        everyday = tmp_path / "everyday.txt"
        everyday.write_text("\n".join(tiny.PROMPTS[40:47]))
        code, stdout, stderr = run("contrast", files.atlas, "medical", "--topic", "medicine", "--unaligned", everyday)
        assert code == 0, stderr
        assert stdout.splitlines()[1].split()[:2] == ["residual", "7"]
        stored = opened.sql("select prompt, positive, negative from pairs order by pair_id").rows()
        assert stored == [("", tiny.MEDICINE[i % 3], tiny.PROMPTS[40 + i]) for i in range(7)]
        assert opened.sql("select distinct position from vectors")["position"].to_list() == ["mean"]

    def test_the_bundled_pairs_of_a_behaviour_need_no_file(self, files):
        code, _, stderr = run("contrast", files.atlas, "question", "--sae-id", "residual")
        assert code == 0, stderr
        assert atlas.open(files.atlas).sql("select count(*) from pairs where name = 'question'").item() == 72
        code, _, stderr = run("contrast", files.atlas, "medical")
        assert code == 1 and "behaviour 'medical' has no bundled pairs" in stderr and "question" in stderr

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["--topic", "medicin"], 1, "unknown topic 'medicin'"),
            (["--unaligned", "x.txt"], 2, "--unaligned goes with --topic"),
            (["x.jsonl", "--topic", "medicine"], 2, "PAIRS and --topic exclude each other"),
        ],
    )
    def test_what_does_not_go_together_is_said(self, files, arguments, code, message):
        found, _, stderr = run("contrast", files.atlas, "medical", *arguments)
        assert found == code and message in stderr

    def test_a_vector_steers_without_a_topic(self, files):
        run("contrast", files.atlas, "medical", files.pairs, "--tau", 0.4)
        arguments = (
            "steer",
            files.atlas,
            "-",
            "The doctor",
            "--vector",
            "medical",
            "--strength",
            -2,
            "--temperature",
            0,
        )
        code, stdout, stderr = run(*arguments, "--max-new-tokens", 4, "--sigma", "none")
        assert code == 0, stderr
        assert [line.split("(")[0].strip() for line in stdout.splitlines()[1::2]] == ["original", "sas"]
        assert "(strength -2, no topic)" in stdout

    def test_bad_input_is_told_in_one_line(self, files, tmp_path):
        code, _, stderr = run("contrast", files.atlas, "medical", tmp_path / "none.jsonl")
        assert (code, stderr.count("\n")) == (1, 1) and "no such file" in stderr
        code, _, stderr = run("contrast", files.atlas, "medical", files.pairs, "--tau", 2)
        assert code == 1 and stderr.endswith(
            "Error: tau 2.0 is out of range: give a share of the pairs above 0 and at most 1\n"
        )
