"""Lists of neurons steer in a topic's stead, by their names."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from command import run

import atlas
from atlas.errors import AtlasError, UnknownName
from atlas.evaluation.controls import control_target
from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.models.recorded import RecordedModels
from atlas.steering.prepare import prepare_steering
from atlas.steering.settings import Options

PROMPT = "The doctor"


def test_an_sae_with_fewer_chosen_neurons_than_another_steers_by_its_own_alone(recorded):
    clamped = prepare_steering(recorded, None, {"clamp": Options(3.0)}, chosen={0: [5, 2, 7], 1: [3]})
    assert clamped.options["clamp"].neurons == 3
    assert [sae.target.first(3).tolist() for sae in clamped.saes] == [[5, 2, 7], [3]]
    target = clamped.saes[1].target
    alike = np.ones(len(target.scores))
    moved = [control_target(target, "shuffled", alike, alike, seed) for seed in range(4)]
    assert all(one.first(3).tolist() == one.scores.nonzero().squeeze(-1).tolist() for one in moved)
    assert {one.first(3).item() for one in moved} != {3}


def test_a_list_steers_by_its_name_where_a_topic_is_asked_for(recorded, tmp_path):
    opened = atlas.open(shutil.copy(recorded.store.path, tmp_path / "listed.atlas"))
    opened.add_notes([7, 2], name="blood", sae_id=0)
    opened.add_notes([3], name="blood", sae_id=1)
    opened.add_notes([3], name="medicine", sae_id=0)
    own = RecordedModels(opened.store, loaded=recorded.model, saes=recorded._saes)
    found = prepare_steering(own, "blood", {"clamp": Options(3.0)})
    assert (found.topic, found.list_name, found.chosen) == (None, "blood", {0: [2, 7], 1: [3]})
    assert found.chosen == prepare_steering(own, None, {"clamp": Options(3.0)}, chosen="blood").chosen
    topic = prepare_steering(own, "medicine", {"add": Options(0.1)})
    assert (topic.topic, topic.list_name) == ("medicine", None)  # a topic goes before a list of its name
    assert prepare_steering(own, None, {"add": Options(0.1)}, chosen="medicine").chosen == {0: [3]}
    with pytest.raises(UnknownName, match="unknown list 'bone': known are blood, medicine"):
        prepare_steering(own, None, {"add": Options()}, chosen="bone")
    with pytest.raises(AtlasError, match="either topic 'medicine' or list 'blood' steers"):
        prepare_steering(own, "medicine", {"add": Options()}, chosen="blood")
    opened.add_notes([3], name="heads", sae_id=1)
    with pytest.raises(AtlasError, match="list 'heads' has no neuron of the SAEs"):
        prepare_steering(own, "heads", {"add": Options()}, sae_ids=[0])


def test_the_command_and_python_steer_by_a_list_and_keep_its_name_with_the_text(recorded, tmp_path):
    opened = atlas.open(shutil.copy(recorded.store.path, tmp_path / "listed.atlas"))
    opened.add_notes([5, 2], name="blood", sae_id=0)
    words = ("--strength", "0.5", "--max-new-tokens", "5", "--format", "json")
    path = opened.store.path
    code, out, err = run("steer", path, "blood", PROMPT, *words)
    assert code == 0, err
    texts = [row["text"] for row in json.loads(out)]
    assert [row["text"] for row in json.loads(run("steer", path, "-", PROMPT, "--list", "blood", *words)[1])] == texts
    numbers = ("--sae-id", "0", "--neuron", "2", "--neuron", "5")
    assert [row["text"] for row in json.loads(run("steer", path, "-", PROMPT, *numbers, *words)[1])] == texts
    assert opened.generate("blood", PROMPT, strength=0.5, max_new_tokens=5)["text"].to_list() == texts
    assert opened.generate(None, PROMPT, chosen="blood", strength=0.5, max_new_tokens=5)["text"].to_list() == texts
    kept = opened.sql("select parameters from generations where method = 'add' order by generation_id")["parameters"]
    assert [json.loads(one).get("list") for one in kept[-5:]] == ["blood", "blood", None, "blood", "blood"]
    assert "exclude each other" in run("steer", path, "-", PROMPT, *numbers, "--list", "blood")[2]
    model, tokenizer = recorded.model
    with opened.steer(model, "blood", strength=0.5, tokenizer=tokenizer) as steering:
        model(**steering.encode(PROMPT))
    assert sorted(steering.saes[0].target.first(None).tolist()) == [2, 5]


def test_a_list_is_not_evaluated(recorded, tmp_path):
    opened = atlas.open(shutil.copy(recorded.store.path, tmp_path / "listed.atlas"))
    opened.add_notes([5], name="blood", sae_id=0)
    own = RecordedModels(opened.store, loaded=recorded.model, saes=recorded._saes)
    data = EvaluationSet(["a doctor"], ["a boat"], ["The"])
    with pytest.raises(AtlasError, match="'blood' is a list of neurons, which has no texts to measure by"):
        opened.evaluate("blood", data, recorded=own)
