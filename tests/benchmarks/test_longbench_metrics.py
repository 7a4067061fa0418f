"""LongBench's metrics against golden values of the official code, and what must hold of any text."""

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.benchmarks.longbench import metrics
from headscope.benchmarks.longbench.metrics import METRICS, RougeFailure, score
from headscope.benchmarks.scoring import Score, mean
from headscope.errors import AssetError

TRUTH = "Group or organization of person"


def row(metric, *references, task="any", classes=()):
    return {"task": task, "metric": metric, "references": references, "classes": classes}


@pytest.mark.parametrize(
    ("metric", "prediction", "reference", "golden"),
    [
        ("qa_f1", "The  Eiffel Tower, in Paris.", "Eiffel tower", 0.666667),
        ("qa_f1", "yes", "Yes.", 1),
        ("qa_f1", "", "x", 0),
        ("qa_f1", "a the an", "a", 0),
        ("qa_f1_zh", "北京是中国的首都。", "中国的首都是北京", 1),
        ("qa_f1_zh", "北京", "上海", 0),
        ("rouge", "the cat sat on the mat", "the cat the cat the cat", 0.571429),
        ("rouge", "A B C D E F C", "A C B", 0.444444),
        ("rouge_zh", "会议讨论了预算", "会议总结了预算", 0.75),
        ("retrieval", "Paragraph 3 and 4", "Paragraph 3", 0.5),
        ("retrieval_zh", "段落3和4", "段落3", 0.5),
        ("count", "There are 12 of 30", "12", 0.5),
        ("count", "07", "7", 0),
        ("count", "many", "7", 0),
        ("code_sim", "\n\nreturn x", "return x", 1),
        ("code_sim", "   \nreturn x", "return x", 0.18),
        ("code_sim", "# c\nreturn x", "return x", 1),
        ("code_sim", "```python\nreturn x", "return x", 1),
        ("code_sim", "// c\nreturn x", "return x", 1),
        ("code_sim", "tide", "diet", 0.5),
        ("code_sim", "cadb", "abc", 0.57),
        ("code_sim", "", "", 1),
        ("code_sim", "# only a comment", "return x", 0),
    ],
)
def test_golden_values(metric, prediction, reference, golden):
    assert METRICS[metric](prediction, reference) == pytest.approx(golden, abs=5e-7)
    assert score(row(metric, reference), prediction).value == pytest.approx(100 * golden, abs=5e-5)


@pytest.mark.parametrize(
    ("prediction", "reference", "classes", "golden"),
    [
        (TRUTH, TRUTH, ["Individual", TRUTH, "person", "organization"], 0.5),
        ("a ab abc", "abc", ["a", "ab", "abc"], 0.5),
        ("a ab abc", "abc", ["a", "abc", "ab"], 1),
        ("one or two", "two", ["one", "two", "three"], 0.5),
        ("one", "two", ["one", "two", "three"], 0),
        ("one", "four", ["one", "two", "three"], 0),
    ],
)
def test_golden_values_of_classification(prediction, reference, classes, golden):
    assert score(row("classification", reference, classes=classes), prediction).value == 100 * golden


def test_the_order_of_a_rows_own_classes_decides():
    prompt = row("classification", "abc", classes=["a", "ab", "abc"])
    other = row("classification", "abc", classes=["a", "abc", "ab"])
    assert [score(each, "a ab abc").value for each in (prompt, other, prompt)] == [50, 100, 50]


@given(st.sets(st.sampled_from(["red", "green", "blue", "black"]), min_size=1), st.data())
def test_classes_apart_share_the_score(named, data):
    reference = data.draw(st.sampled_from(sorted(named)))
    prompt = row("classification", reference, classes=["blue", "black", "red", "green", "white"])
    assert score(prompt, " and ".join(named)).value == pytest.approx(100 / len(named))


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("The correct answer is (B).", "B"),
        ("The correct answer is C", "C"),
        ("**The correct answer is** **(D)**", "D"),
        ("The correct answer is A? No. The correct answer is (B)", "B"),
        ("The correct answer is (A). The correct answer is (B)", "A"),
        ("the correct answer is (A)", None),
        ("The correct answer is (E)", None),
        ("(A)", None),
        ("", None),
    ],
)
def test_a_choice_is_read_with_brackets_first(prediction, letter):
    assert [score(row("choice", each), prediction).value for each in "ABCD"] == [
        100 * (each == letter) for each in "ABCD"
    ]


ENGLISH = st.text("abt he.,'A\n", max_size=20)


@given(ENGLISH, ENGLISH)
def test_word_f1_knows_no_side_order_case_or_article(prediction, reference):
    f1 = METRICS["qa_f1"](prediction, reference)
    words = prediction.upper().split()
    assert 0 <= f1 <= 1
    assert f1 == pytest.approx(METRICS["qa_f1"](reference, prediction))
    assert f1 == pytest.approx(METRICS["qa_f1"](" the, an: A ".join(["", *reversed(words)]), reference))


@given(st.lists(st.sampled_from(["北京", "首都", "预算", "会议"]), min_size=1, max_size=5))
def test_chinese_word_f1_ignores_punctuation_and_white_space(words):
    assert METRICS["qa_f1_zh"]("，\n ".join(words) + "。", "！".join(words)) == 1


def test_one_chinese_bracket_is_punctuation_and_its_partner_a_word():
    assert METRICS["qa_f1_zh"]("会议》", "会议") == 1
    assert METRICS["qa_f1_zh"]("《会议", "会议") == pytest.approx(2 / 3)


@given(st.lists(st.integers(0, 12), max_size=5), st.integers(0, 12))
def test_numbers_score_the_share_that_is_right(numbers, truth):
    text = ", ".join(map(str, numbers))
    share = numbers.count(truth) / max(len(numbers), 1)
    assert METRICS["count"](text, str(truth)) == share
    assert METRICS["retrieval"](text, f"Paragraph {truth} of 13") == share
    assert METRICS["retrieval_zh"](text, f"段落{truth}") == share


def test_a_reference_without_a_paragraph_is_refused():
    with pytest.raises(AssetError, match="'Section 3' names no paragraph"):
        score(row("retrieval", "Section 3"), "3")


CODE = st.text("ab(= )", max_size=8)


@given(st.lists(st.sampled_from(["# a", "x = 1  # b", "```", "// c"]), max_size=2), CODE, CODE, CODE)
def test_code_is_compared_by_its_first_line_in_hundredths(comments, line, rest, reference):
    similarity = METRICS["code_sim"]("\n".join(["", *comments, "x" + line, rest]), reference)
    assert similarity == METRICS["code_sim"]("x" + line, reference)
    assert similarity == round(100 * similarity) / 100
    assert METRICS["code_sim"]("x" + line, "x" + line) == 1


TWO_WORDS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=6).map(" ".join)


@given(TWO_WORDS, st.lists(TWO_WORDS, min_size=1, max_size=3))
def test_a_score_is_the_best_over_the_references(prediction, references):
    alone = [METRICS["rouge"](prediction, reference) for reference in references]
    assert score(row("rouge", *references), prediction) == Score(100 * max(alone))


@pytest.mark.parametrize("task", ["trec", "triviaqa", "samsum", "lsht"])
@pytest.mark.parametrize("suffix", ["", "_e"])
def test_few_shot_answers_end_with_their_first_line(task, suffix):
    prompt = row("qa_f1", "red", task=task + suffix)
    assert score(prompt, "\n\nred\nQuestion: blue").value == 100
    assert score(prompt, "blue\nred").value == 0


@given(st.text("ab \n", max_size=6))
def test_other_answers_are_scored_to_their_end(prediction):
    for task in ("qasper", "qasper_e", "trec_x"):
        assert score(row("qa_f1", "red", task=task), "red\n" + prediction).value == pytest.approx(
            100 * METRICS["qa_f1"]("red " + prediction, "red")
        )


def words(number, seed):
    rng = Random(seed)
    return " ".join(f"w{rng.randrange(100)}" for _ in range(number))


@pytest.mark.parametrize("metric", ["rouge", "rouge_zh"])
@pytest.mark.parametrize(("prediction", "reference"), [("", "x"), ("x", ""), ("...", "x")])
def test_an_empty_text_fails_and_scores_nothing(metric, prediction, reference):
    assert score(row(metric, reference), prediction) == Score(0, failed=True)


def test_rouge_fails_between_520_and_600_words_without_a_full_stop():
    fine = score(row("rouge", words(520, 1)), words(520, 2))
    assert fine.value > 30 and not fine.failed
    assert score(row("rouge", words(600, 1)), words(600, 2)) == Score(0, failed=True)


def test_full_stops_save_a_long_text():
    halves = ". ".join([words(300, 1), words(300, 2)])
    assert not score(row("rouge", halves), halves).failed


def test_a_rouge_failure_shows_even_where_another_reference_gives_a_score():
    answer = score(row("rouge", "x", "", "w1 w2"), "w1 w2")
    assert answer.failed and answer.value == pytest.approx(100)


def deep(frames, call):
    return deep(frames - 1, call) if frames else call()


def test_a_rouge_score_does_not_depend_on_the_callers_stack():
    prompt, prediction = row("rouge", words(520, 1)), words(520, 2)
    assert deep(700, lambda: score(prompt, prediction)) == score(prompt, prediction) != Score(0, failed=True)


def test_a_raised_recursion_limit_rescues_no_text():
    prompt, prediction, limit = row("rouge", words(600, 1)), words(600, 2), sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(limit + 4000)
        assert score(prompt, prediction) == Score(0, failed=True)
    finally:
        sys.setrecursionlimit(limit)


def test_a_missing_package_is_no_rouge_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge", None)
    with pytest.raises(ImportError):
        score(row("rouge", "x"), "x")


def test_a_failure_says_what_the_package_said():
    with pytest.raises(RougeFailure, match="ValueError: Collections must contain"):
        metrics.rouge("", "x")


def test_a_task_reports_the_rounded_mean():
    assert mean([score(row("count", "1"), text) for text in ("1", "1 2 3", "2")]) == 44.44


def test_naming_the_metrics_imports_nothing_heavy_and_chinese_prints_nothing():
    code = (
        "import sys; from headscope.benchmarks.longbench import metrics;"
        "assert not {'jieba', 'rouge', 'rapidfuzz', 'numpy'} & set(sys.modules);"
        "print(metrics.qa_f1_zh('北京', '北京'))"
    )
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("1.0\n", "", 0)
