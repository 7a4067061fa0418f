"""2,000 random answers a metric, scored by our functions and by the benchmarks' own files.

HEADSCOPE_OFFICIAL_METRICS names a folder with NVIDIA/RULER's scripts/eval/synthetic/constants.py as
`ruler_constants.py` and THUDM/LongBench's LongBench/metrics.py as `longbench_metrics.py`. The latter needs fuzzywuzzy
and python-Levenshtein beside our own dependencies.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from logging import WARNING
from pathlib import Path
from random import Random

import pytest

from headscope.benchmarks.ruler.metrics import postprocess
from headscope.benchmarks.scoring import Score, mean, score

FOLDER = os.environ.get("HEADSCOPE_OFFICIAL_METRICS")
CASES = 2000

ENGLISH = ("the", "The", "a", "an", "and", "theme", "cat", "Cat", "sat", "on", "mat", "x-y", "don't", "3", "İ", "naïve")
JOINTS = (" ", " ", " ", "  ", "\n", ", ", ". ", ".", "! ", "-", "\t", '"')
CHINESE = (
    *(
        "北京",
        "中国的首都",
        "会议讨论了预算",
        "会议",
        "总结",
        "段落",
        "我们",
        "是",
        "的",
        "《红楼梦》",
        "Python3",
        "１２",
    ),
    *("，", "。", "！", " ", "\n", "12", "(", "”", "…", "—", ".", "The", "\u3000"),
)
DIGITS = (
    "1",
    "2",
    "12",
    "012",
    "Paragraph 2",
    "paragraph 12",
    "段落1",
    "段落12",
    "1.2",
    "-",
    " ",
    "\n",
    "二",
    "２",
    "and",
)
CODE = (
    "return",
    " ",
    "    ",
    "x",
    "y1",
    "=",
    "(",
    ")",
    "self.",
    "\n",
    "\n",
    "#",
    "//",
    "`",
    "```",
    "é",
    "的",
    "😀",
    "",
)
CLASSES = (
    "a",
    "ab",
    "abc",
    "b",
    "bc",
    "Person",
    "Group of Person",
    "Individual",
    "Title of a Person",
    "体育",
    "体育新闻",
)

Cases = Iterator[tuple[str, str]]


def load(name: str):
    """An official file as a module; skips the test where it is not at hand."""
    if FOLDER is None:
        pytest.skip("set HEADSCOPE_OFFICIAL_METRICS to a folder with ruler_constants.py and longbench_metrics.py")
    path = Path(FOLDER) / f"{name}.py"
    if not path.is_file():
        pytest.skip(f"no {path}, the official file under this name")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def longbench():
    pytest.importorskip("fuzzywuzzy", reason="LongBench's own file imports fuzzywuzzy")
    module = load("longbench_metrics")
    module.jieba.setLogLevel(WARNING)
    return module


@pytest.fixture(scope="module")
def ruler():
    return load("ruler_constants")


def text(rng: Random, pieces: Sequence[str], most: int = 12, joints: Sequence[str] = ("",)) -> str:
    return "".join(rng.choice(pieces) + rng.choice(joints) for _ in range(rng.randrange(most)))


def shuffled(rng: Random, original: str) -> str:
    """A text with some of its characters swapped, dropped or doubled, so that pairs are alike."""
    parts = list(original)
    for _ in range(rng.randrange(4)):
        if parts:
            place = rng.randrange(len(parts))
            parts[place : place + 2] = rng.choice([[], parts[place : place + 2][::-1], parts[place : place + 1] * 2])
    return "".join(parts)


def pairs(rng: Random, make: Callable[[], str]) -> Cases:
    """Pairs of texts: apart, alike, equal, and with an empty side."""
    for number in range(CASES):
        reference = make()
        other = {0: "", 1: reference, 2: shuffled(rng, reference), 3: shuffled(rng, reference)}
        yield other.get(number % 10, make()), "" if number % 50 == 49 else reference


def long_pairs(rng: Random, joint: str = " ") -> Cases:
    """Texts without a full stop around the length at which `rouge` fails; a joint that is a word counts."""
    for words in (300, 450, 520, 600, 700):
        number = words if joint == " " else words // 2
        yield tuple(joint.join(f"w{rng.randrange(100)}" for _ in range(number)) for _ in range(2))


def row(metric: str, reference: str, classes: Sequence[str] = ()) -> dict:
    return {"task": "", "metric": metric, "references": [reference], "classes": classes}


def agree(official: Callable[[str, str], float], metric: str, cases: Cases) -> list[Score]:
    """Compare all cases, exactly; returns our scores."""
    scores = []
    for prediction, reference in cases:
        ours = score("longbench", row(metric, reference), prediction)
        theirs = official(prediction, reference)
        assert ours.value == 100 * theirs, (prediction, reference)
        scores.append(ours)
    assert len({answer.value for answer in scores}) > 1
    return scores


def shallow(call: Callable[[str, str], float]) -> Callable[[str, str], float]:
    """Call as the official script does, from a stack that is all but empty: pytest's is some 40 frames deep."""

    def called(*texts: str) -> float:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(call, *texts).result()

    return called


def test_english_word_f1_is_the_official_one(longbench):
    rng = Random("qa_f1")
    agree(longbench.qa_f1_score, "qa_f1", pairs(rng, lambda: text(rng, ENGLISH, 8, JOINTS)))


def test_chinese_word_f1_is_the_official_one(longbench):
    rng = Random("qa_f1_zh")
    agree(longbench.qa_f1_zh_score, "qa_f1_zh", pairs(rng, lambda: text(rng, CHINESE)))


def test_every_punctuation_mark_is_dropped_where_the_official_code_drops_it(longbench):
    marks = [chr(code) for code in (*range(0x20, 0x7F), *range(0x2000, 0x2070), *range(0x3000, 0x3040))]
    marks += [chr(code) for code in (*range(0xFE30, 0xFE50), *range(0xFF00, 0xFFF0))]
    agree(longbench.qa_f1_zh_score, "qa_f1_zh", ((f"会议{mark}", "会议") for mark in (*marks, "\n", "是的")))


def test_rouge_is_the_official_one_and_says_where_it_failed(longbench):
    rng = Random("rouge")
    cases = [*pairs(rng, lambda: text(rng, ENGLISH, 12, JOINTS)), *long_pairs(rng)]
    scores = agree(shallow(longbench.rouge_score), "rouge", cases)
    assert [answer.failed for answer in scores[-5:]] == [False, False, False, True, True]
    assert all(answer.failed for answer, case in zip(scores, cases, strict=True) if "" in case)


def test_chinese_rouge_is_the_official_one_and_says_where_it_failed(longbench):
    rng = Random("rouge_zh")
    cases = [*pairs(rng, lambda: text(rng, CHINESE)), *long_pairs(rng, "，")]
    scores = agree(shallow(longbench.rouge_zh_score), "rouge_zh", cases)
    assert scores[-1].failed and not scores[-5].failed


def test_classification_is_the_official_one_for_every_order_of_the_classes(longbench):
    rng = Random("classification")
    scores = []
    for _ in range(CASES):
        classes = rng.choices(CLASSES, k=rng.randrange(1, 9))
        reference = rng.choice(classes if rng.random() < 0.9 else CLASSES)
        prediction = text(rng, (*classes, reference), 4, (" ", ""))
        scores.append(score("longbench", row("classification", reference, classes), prediction).value)
        assert scores[-1] == 100 * longbench.classification_score(prediction, reference, all_classes=classes)
    assert {0, 50, 100} < set(scores)


def test_retrieval_is_the_official_one(longbench):
    rng = Random("retrieval")
    for metric, name in (("retrieval", "Paragraph"), ("retrieval_zh", "段落")):
        official = getattr(longbench, f"{metric}_score")
        space = " " if metric == "retrieval" else ""
        cases = (
            (text(rng, DIGITS, joints=(" ", "")), f"{name}{space}{rng.choice(['1', '2', '12'])}") for _ in range(CASES)
        )
        agree(official, metric, cases)


def test_count_is_the_official_one(longbench):
    rng = Random("count")
    agree(longbench.count_score, "count", ((text(rng, DIGITS), rng.choice(["1", "2", "12"])) for _ in range(CASES)))


def test_code_similarity_is_the_official_one_with_python_levenshtein(longbench):
    if longbench.fuzz.SequenceMatcher.__module__ != "fuzzywuzzy.StringMatcher":
        pytest.skip("fuzzywuzzy fell back to difflib, which gives other scores; install python-Levenshtein")
    rng = Random("code_sim")
    agree(longbench.code_sim_score, "code_sim", pairs(rng, lambda: text(rng, CODE)))


@pytest.mark.parametrize("metric", ["string_match_all", "string_match_part"])
def test_ruler_scores_are_the_official_ones(ruler, metric):
    rng, scores, predictions, references = Random(metric), [], [], []
    official = getattr(ruler, metric)
    for _ in range(CASES):
        references.append([text(rng, "abAB1é", 4) for _ in range(rng.randrange(1, 5))])
        predictions.append(text(rng, [*"abAB1é \n\x00\t\x1f", *references[-1]]))
        scores.append(score("ruler", {"metric": metric, "references": references[-1]}, predictions[-1]))
        assert mean(scores[-1:]) == official([postprocess(predictions[-1])], references[-1:])
    assert mean(scores) == official([postprocess(prediction) for prediction in predictions], references)
    assert 0 < mean(scores) < 100
