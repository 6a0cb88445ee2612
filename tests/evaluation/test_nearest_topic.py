"""Which topic a text is about: both rules by hand and by brute force, and the choice between them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from scipy import stats

from atlas.evaluation.intervals import share_interval
from atlas.evaluation.nearest_topic import NEARNESS, make_classifier

SEA = ("The harbour was full of ships.", "A sailor on deck.", "Salt water everywhere.", "The tide turned.")


class Plane:
    """An encoder of texts such as "0.6 0.8"."""

    name = "plane"

    def embed(self, texts):
        return np.array([[float(part) for part in text.split()] for text in texts])


def angle(*degrees):
    """Texts whose embeddings point there."""
    return [f"{np.cos(d)} {np.sin(d)}" for d in np.radians(degrees)]


def distances_by_hand(rule, own, others, labels, *, left_out):
    """Squared distances [text, topic], one at a time."""
    found = np.full((len(own), labels.max() + 1), np.inf)
    for i, x in enumerate(own):
        for topic in range(labels.max() + 1):
            rest = [o for j, o in enumerate(others) if labels[j] == topic and not (left_out and i == j)]
            if rest:
                points = [np.mean(rest, axis=0)] if rule == "nearest mean" else rest
                found[i, topic] = min(((x - point) ** 2).sum() for point in points)
    return found


@pytest.mark.parametrize("left_out", [True, False])
@pytest.mark.parametrize("rule", NEARNESS)
def test_a_rule_gives_squared_distances_to_the_topics_other_texts(rule, left_out):
    generator = np.random.default_rng(0)
    others = generator.standard_normal((11, 5))
    labels = np.array([0] * 4 + [1] * 6 + [2])  # a topic of one text has no other one
    own = others if left_out else generator.standard_normal((7, 5))
    expected = distances_by_hand(rule, own, others, labels, left_out=left_out)
    np.testing.assert_allclose(-NEARNESS[rule](own, others, labels, left_out=left_out), expected, atol=1e-12)


def test_the_rule_that_puts_more_held_out_texts_right_is_taken_with_its_accuracy():
    """Two tight topics, each with a straggler beside the other one: a mean does not mind, a nearest text does."""
    one, two = angle(0, 2, 4, 6, 86), angle(90, 92, 94, 96, 10)
    made = make_classifier(Plane(), "one", one, {"two": two})
    assert made.rule == "nearest mean" and made.topics == ("one", "two")
    assert made.accuracy == share_interval(8, 10)
    assert made.assign(Plane().embed(angle(20, 70))) == ["one", "two"]
    ring = make_classifier(Plane(), "one", angle(0, 2, 180, 182), {"two": angle(90, 92, 270, 272)})
    assert ring.rule == "nearest text" and ring.accuracy.value == 1
    assert ring.assign(Plane().embed(angle(178, 100, 359))) == ["one", "two", "one"]


def test_the_topic_itself_is_not_one_of_the_others_and_empty_topics_do_not_count():
    made = make_classifier(Plane(), "one", angle(0, 5), {"one": angle(90), "two": angle(50, 55), "three": []})
    assert made.topics == ("one", "two")
    assert made.assign(Plane().embed(angle(88))) == ["two"]


@pytest.mark.parametrize(("held_out", "others"), [([], {"two": ["1 0"]}), (["1 0"], {}), (["1 0"], {"one": ["0 1"]})])
def test_one_topic_alone_makes_no_classifier(held_out, others):
    assert make_classifier(Plane(), "one", held_out, others) is None


def test_texts_of_a_real_encoder_are_told_apart(encoder):
    made = make_classifier(encoder, "sea", SEA, {"medicine": tiny.PROMPTS[:12], "cooking": tiny.PROMPTS[30:45]})
    assert made.accuracy.value > 0.8
    assert made.assign(encoder.embed(["The ship sails into port.", "The nurse and the doctor."])) == ["sea", "medicine"]


@pytest.mark.parametrize(("count", "total"), [(0, 5), (5, 5), (8, 10), (270, 288)])
def test_the_interval_of_a_share_is_wilsons(count, total):
    """The ends are the shares at which the count lies 1.96 standard errors away."""
    found = share_interval(count, total)
    assert found.value == count / total and 0 <= found.low <= found.value <= found.high <= 1
    for end in {found.low, found.high} - {0.0, 1.0}:
        away = abs(count / total - end) / np.sqrt(end * (1 - end) / total)
        assert away == pytest.approx(stats.norm.ppf(0.975), rel=1e-6)
