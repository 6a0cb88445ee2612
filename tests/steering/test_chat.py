"""A chat model is prompted in its template: one BOS, no special token steered, and the template in no printed or stored text."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from command import run
from contents import change

import atlas
from atlas.errors import AtlasError
from atlas.evaluation.evaluate import evaluate_methods
from atlas.evaluation.evaluation_set import EvaluationSet
from atlas.evaluation.evaluator import EvaluationConfig, prepare_evaluator
from atlas.evaluation.language_judge import LanguageJudge
from atlas.evaluation.metrics import METRICS, MetricInputs, perplexity
from atlas.evaluation.remeasure import remeasure_topic
from atlas.evaluation.runs import MethodSetting
from atlas.models.chat import wrap_prompts
from atlas.models.likelihood import log_probabilities
from atlas.models.loaded import LoadedModel
from atlas.models.loading import load_transformer
from atlas.models.recorded import RecordedModels
from atlas.models.tokens import special_ids
from atlas.steering.calibrations import store_strength
from atlas.steering.generation import Sampling, generate
from atlas.steering.intervention import Steering
from atlas.steering.prepare import prepare_steering
from atlas.steering.settings import Options, SteeringSettings

END = tiny.END  # opens every turn, as SmolLM2's BOS does
TEMPLATE = (
    "{% for message in messages %}{{ '<|endoftext|>' + message['role'][0] + '\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|endoftext|>me\n' }}{% endif %}"
)
QUESTION = "Is it on?"
BRIEF = "Go."
WRAPPED = f"{END}u\n{QUESTION}{END}me\n"


@pytest.fixture(scope="module")
def chat_folder(gpt2_folder, tmp_path_factory):
    """The tiny GPT-2 with a chat template: the same weights and vocabulary."""
    folder = shutil.copytree(gpt2_folder, tmp_path_factory.mktemp("chat") / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def chat_model(chat_folder):
    model, tokenizer = load_transformer(str(chat_folder))
    return LoadedModel(model, tokenizer, True, chat=True)


@pytest.fixture
def scored(atlas_file, encoder, monkeypatch):
    """The atlas with topic "sea" scored."""
    monkeypatch.setattr("atlas.models.encoders.load_encoder", lambda *args, **options: encoder)
    opened = atlas.open(atlas_file)
    opened.score("sea", tiny.SEA, min_support=2)
    return opened


@pytest.fixture
def recorded(atlas_store, chat_folder):
    return RecordedModels(atlas_store, model=str(chat_folder))


def test_a_prompt_in_the_template_gets_no_second_bos(chat_model):
    tokenizer = chat_model.tokenizer
    ids = tokenizer(WRAPPED, add_special_tokens=False)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id != ids[1]
    for prepend_bos in (True, False):
        assert replace(chat_model, prepend_bos=prepend_bos).prompt_rows([QUESTION]) == [ids]
    plain = replace(chat_model, chat=False)
    assert plain.prompt_rows([QUESTION]) == [[tokenizer.bos_token_id, *tokenizer(QUESTION)["input_ids"]]]
    assert chat_model.rows([QUESTION]) == plain.rows([QUESTION])  # texts that are no prompts


def test_a_template_that_does_not_begin_with_bos_gets_it_where_the_sae_wants_it(chat_model):
    tokenizer = copy.copy(chat_model.tokenizer)
    tokenizer.chat_template = "{{ messages[-1]['content'] }} =>"
    rows = replace(chat_model, tokenizer=tokenizer).prompt_rows([QUESTION])
    assert rows == [[tokenizer.bos_token_id, *tokenizer(f"{QUESTION} =>")["input_ids"]]]


def test_a_system_message_comes_first(chat_model):
    assert wrap_prompts(chat_model.tokenizer, [QUESTION], system=BRIEF) == [f"{END}s\n{BRIEF}{WRAPPED}"]


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        (None, None, "has no chat template, as those of base models have none: leave out --chat"),
        ("{{ raise_exception('System role\nnot supported') }}", "x", "System role not supported; leave out the system"),
        ("{% for %}", None, "cannot be filled in"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", None, "cannot be filled in"),
        ("{{ messages[5]['content'] }}", None, "cannot be filled in"),
    ],
)
def test_a_template_that_is_missing_or_refuses_is_said_in_one_line(chat_model, template, system, message):
    tokenizer = copy.copy(chat_model.tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(AtlasError, match=message) as caught:
        wrap_prompts(tokenizer, [QUESTION], system=system)
    assert "\n" not in str(caught.value)


def test_a_system_message_without_a_chat_is_refused():
    with pytest.raises(AtlasError, match="give --chat too"):
        SteeringSettings(system=BRIEF)


def test_special_tokens_of_the_template_are_never_steered(recorded, chat_model):
    settings = SteeringSettings(chat=True, keep_error=False, select="score")
    steering = prepare_steering(recorded, None, {"sae": Options()}, settings=settings, strict=False).steering("sae")
    given = steering.encode(QUESTION)
    special = torch.isin(given["input_ids"][0], torch.tensor(sorted(special_ids(chat_model.tokenizer))))
    assert special.sum() == 2
    seen = []
    handle = steering.model.transformer.h[1].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone())
    )
    with torch.no_grad():
        steering.model(**given)
        with steering:
            steering.model(**given)
    handle.remove()
    same = (seen[0] == seen[1]).all(-1)[0]
    assert torch.equal(same, special)


def test_what_is_encoded_goes_into_generate_and_gives_the_text_of_the_command(recorded, chat_model):
    settings = SteeringSettings(chat=True, system=BRIEF, select="score")
    steering = prepare_steering(recorded, None, {"sae": Options()}, settings=settings, strict=False).steering("sae")
    given = steering.encode([QUESTION, "No."])
    assert given["input_ids"].shape == given["attention_mask"].shape
    with steering:
        out = steering.model.generate(**given, max_new_tokens=4, do_sample=False, pad_token_id=0)
    texts = chat_model.tokenizer.batch_decode(out[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    model = replace(chat_model, system=BRIEF, transformer=steering.model)
    found = generate(model, [QUESTION, "No."], steering, sampling=Sampling(max_new_tokens=4, temperature=0))
    assert [one.text for one in found] == texts
    with pytest.raises(AtlasError, match="no token"):
        steering.encode([])
    with pytest.raises(AtlasError, match="has no tokenizer"):
        Steering(steering.model, steering.saes).encode(QUESTION)


def test_python_gives_a_steering_that_encodes_as_the_atlas_reads(atlas_file, chat_folder):
    model, tokenizer = load_transformer(str(chat_folder))
    opened = atlas.open(atlas_file)
    for chat, text in ((True, WRAPPED), (False, f"{END}{QUESTION}")):
        steering = opened.steer(model, None, method="sae", tokenizer=tokenizer, chat=chat)
        assert tokenizer.decode(steering.encode(QUESTION)["input_ids"][0]) == text
    with pytest.raises(AtlasError, match="has no chat template"):
        opened.steer(model, None, method="sae", chat=True)  # the tokenizer of the build has none


def test_the_command_prints_and_stores_texts_without_the_template(atlas_file, chat_folder, chat_model):
    options = ["--model", chat_folder, "--max-new-tokens", 6, "--temperature", 0, "--method", "original"]
    code, out, err = run("steer", atlas_file, "-", QUESTION, "--chat", "--system", BRIEF, *options)
    assert code == 0, err
    ids = chat_model.tokenizer(f"{END}s\n{BRIEF}{WRAPPED}", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        full = chat_model.transformer.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    text = chat_model.tokenizer.decode(full[0, ids.shape[1] :], skip_special_tokens=True)
    assert out == f"{QUESTION}\n  original (no topic)\n    {' '.join(text.split())}\n"
    [row] = atlas.open(atlas_file).sql("select prompt, text, parameters from generations").to_dicts()
    assert (row["prompt"], row["text"]) == (QUESTION, text)
    stored = json.loads(row["parameters"])
    assert (stored["chat"], stored["system"]) == (True, BRIEF)
    run("steer", atlas_file, "-", QUESTION, *options)
    plain = json.loads(atlas.open(atlas_file).sql("select parameters from generations")["parameters"][-1])
    assert plain.keys() == stored.keys() - {"chat", "system"}


def test_the_command_says_that_a_base_model_has_no_template(atlas_file):
    code, out, err = run("steer", atlas_file, "-", QUESTION, "--chat", "--method", "original")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("Error: the model's tokenizer has no chat template")


def test_a_strength_picked_for_chats_steers_chats_and_one_picked_on_texts_where_there_is_none(scored, recorded):
    def prepared(**chat):
        settings = SteeringSettings(select="score", **chat)
        return prepare_steering(recorded, "sea", {"add": Options()}, settings=settings)

    def strength(**chat):
        return prepared(**chat).options["add"].strength

    def pick(value, **chat):
        found = prepared(**chat)
        with recorded.store.write() as session:
            store_strength(session, found.calibration_key(session, "add", Options(neurons=60)), value, "by hand")

    fitted = strength()
    assert fitted == strength(chat=True) == prepared().fitted("add", Options(neurons=60)).strength
    pick(0.7)
    assert (strength(), strength(chat=True)) == (0.7, 0.7)
    pick(0.3, chat=True)
    assert (strength(), strength(chat=True), strength(chat=True, system="x")) == (0.7, 0.3, 0.3)


def test_perplexity_is_of_the_answer_behind_the_wrapped_prompt(chat_model, encoder):
    inputs = MetricInputs(chat_model, encoder, None, None)
    answer = "She ran the last mile."
    head = chat_model.tokenizer(WRAPPED)["input_ids"]
    row = [*head, *chat_model.tokenizer(answer)["input_ids"]]
    [chances] = log_probabilities(chat_model, [row], [(len(head), len(row))])
    assert perplexity(inputs, [QUESTION], [answer]) == [pytest.approx(np.exp(-chances.mean()))]
    plain = replace(inputs, model=replace(chat_model, chat=False))
    assert perplexity(plain, [QUESTION], [answer]) != [pytest.approx(np.exp(-chances.mean()), rel=1e-3)]


def test_a_judging_model_reads_an_answer_behind_the_prompt_in_its_own_template(chat_model, encoder):
    reader = LanguageJudge("it", replace(chat_model, chat=False), np.full(len(chat_model.tokenizer), -3.0))
    inputs = MetricInputs(chat_model, encoder, None, None, language=reader)
    answer = "She ran."
    [wrapped], [plain] = reader.read([WRAPPED], [answer]), reader.read([f"{QUESTION}\n"], [answer])
    assert wrapped.slor != plain.slor
    assert METRICS["slor"].measure(inputs, [QUESTION], [answer]) == [pytest.approx(wrapped.slor)]
    base = copy.copy(chat_model.tokenizer)
    base.chat_template = None
    reader = LanguageJudge("it", replace(chat_model, chat=False, tokenizer=base), reader.unigrams)
    assert METRICS["slor"].measure(replace(inputs, language=reader), [QUESTION], [answer]) == [
        pytest.approx(plain.slor)
    ]


def test_an_evaluation_of_chats_says_so_and_measures_again_alike(scored, atlas_store, recorded, encoder, monkeypatch):
    monkeypatch.setattr("atlas.evaluation.remeasure.load_encoder", lambda *args, **options: encoder)
    data = EvaluationSet(
        ("The harbour was full.", "A tide."), ("He ran home.", "It rains."), (QUESTION, "No."), ("A pill.",)
    )
    config = EvaluationConfig(samples=1, select="score", sampling=Sampling(max_new_tokens=4), chat=True)
    evaluator = prepare_evaluator(atlas_store, "sea", data, config, recorded=recorded, encoder=encoder)
    evaluate_methods(evaluator, [MethodSetting("swap")])
    parameters = [json.loads(one) for one in scored.sql("select parameters from runs")["parameters"]]
    assert {one["chat"] for one in parameters} == {True}
    asked = (
        "select generation_id, value from metrics where name = 'perplexity' and generation_id is not null order by 1"
    )
    before = scored.sql(asked)
    with atlas_store.write() as session:
        change(session, "delete from metrics where name = 'perplexity' and generation_id is not null")
    assert scored.sql(asked).is_empty()
    remeasure_topic(atlas_store, "sea", data.held_out, recorded=recorded)
    after = scored.sql(asked)
    assert after["generation_id"].equals(before["generation_id"])
    assert np.allclose(after["value"], before["value"])
    assert before.height >= 4
