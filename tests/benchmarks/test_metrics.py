"""RULER's metrics against golden values of the official code, and against its formulas."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.benchmarks.ruler.metrics import postprocess
from headscope.benchmarks.scoring import is_null, mean, score


def score_one(metric, prediction, references):
    return score("ruler", {"metric": metric, "references": references}, prediction)


def mean_score(metric, predictions, references):
    return mean([score_one(metric, *pair) for pair in zip(predictions, references, strict=True)])


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "golden"),
    [
        ("string_match_all", ["The values are 123 and 456."], [["123", "456", "789"]], 66.67),
        ("string_match_all", ["PARTY", "x"], [["art"], ["x", "y"]], 75.0),
        ("string_match_part", ["in 1066 in Normandy"], [["1066", "year 1066", "in 1066"]], 100.0),
        ("string_match_part", ["a b", "c"], [["b", "z"], ["q"]], 50.0),
    ],
)
def test_golden_values(metric, predictions, references, golden):
    assert mean_score(metric, predictions, references) == golden


def official_all(preds, refs):
    """NVIDIA/RULER @ c3f5e3b, scripts/eval/synthetic/constants.py (Apache-2.0)."""
    score = (
        sum(
            [
                sum([1.0 if r.lower() in pred.lower() else 0.0 for r in ref]) / len(ref)
                for pred, ref in zip(preds, refs, strict=True)
            ]
        )
        / len(preds)
        * 100
    )
    return round(score, 2)


def official_part(preds, refs):
    """As above."""
    score = (
        sum(
            [
                max([1.0 if r.lower() in pred.lower() else 0.0 for r in ref])
                for pred, ref in zip(preds, refs, strict=True)
            ]
        )
        / len(preds)
        * 100
    )
    return round(score, 2)


TEXT = st.text("abAB1\n\x00 ", max_size=12)
PAIRS = st.lists(
    st.tuples(TEXT, st.lists(st.text("abAB1", max_size=3), min_size=1, max_size=5)), min_size=1, max_size=6
)


@given(PAIRS)
@settings(max_examples=1000)
def test_metrics_agree_with_the_official_formulas(pairs):
    predictions, references = zip(*pairs, strict=True)
    clean = [postprocess(prediction) for prediction in predictions]
    assert mean_score("string_match_all", predictions, references) == pytest.approx(
        official_all(clean, references), abs=0.0101
    )
    assert mean_score("string_match_part", predictions, references) == pytest.approx(
        official_part(clean, references), abs=0.0101
    )


def test_one_prompt_scores_the_share_of_its_references_unrounded():
    assert score_one("string_match_all", "seen: a and B", ["A", "b", "z"]).value == pytest.approx(200 / 3)


def test_control_characters_become_new_lines_and_are_not_dropped():
    assert postprocess(" \x00one\x01two\t ") == "one\ntwo"
    assert score_one("string_match_all", "12\x0034", ["1234"]).value == 0


def test_the_metrics_never_give_up():
    assert not score_one("string_match_part", "", ["a"]).failed


@given(st.text(st.sampled_from(" \t\n\x00\x1f\x1c\u3000\x7f\x85a"), max_size=4) | st.text(max_size=4))
def test_an_answer_is_null_if_postprocessing_leaves_nothing(prediction):
    assert is_null(prediction) == (postprocess(prediction) == "")
