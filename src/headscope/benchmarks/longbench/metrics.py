"""LongBench's metrics: nine of version 1, each 0-1 for one answer and one reference, and version 2's choice.

Source: THUDM/LongBench @ 2e00731, LongBench/metrics.py and eval.py; version 2: pred.py. Published scores depend on the
oddities of that code, which are kept here, each beside a word on it. The packages that read Chinese, measure ROUGE and
compare code are imported where they are used: whoever names a task imports this module too.
"""

import re
import string
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from logging import WARNING
from typing import Any

from headscope.benchmarks.scoring import Score
from headscope.errors import AssetError

# 〈, 〉 and 《 are not in the official list, though 》 is: they count as words of a Chinese text.
CHINESE_PUNCTUATION = (
    "！＂＃＄％＆＇（）＊＋，－／：；＜＝＞？＠［＼］＾＿｀｛｜｝～｟｠｡｢｣､"
    "、。〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏"
)
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
WITHOUT_CHINESE_PUNCTUATION = str.maketrans("", "", string.punctuation + CHINESE_PUNCTUATION)

FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")  # subsets whose answer is one line
FRAMES = 1000  # Python's default recursion limit, under which the official scores were taken


class RougeFailure(Exception):
    """The package `rouge` gave no score for a pair of texts; LongBench counts it as 0."""


def qa_f1(prediction: str, reference: str) -> float:
    """Return F1 of the words, whatever their order, without case, punctuation and articles."""
    return _f1(_english_words(prediction), _english_words(reference))


def qa_f1_zh(prediction: str, reference: str) -> float:
    """Return F1 of the words that jieba finds, whatever their order, without case, punctuation and white space."""
    return _f1(_chinese_words(prediction), _chinese_words(reference))


def rouge(prediction: str, reference: str) -> float:
    """Return ROUGE-L's f by the package `rouge`, which takes a full stop as the only end of a sentence.

    Raises:
        RougeFailure: a text is empty or only full stops, or a pair of sentences is too long for the package: it walks
            back through both at once, one stack frame a step, and gives up after some 990 steps. A pair of 520 words
            each mostly passes, of 600 mostly fails.
    """
    from rouge import Rouge

    measure = Rouge(metrics=["rouge-l"])  # the official call takes ROUGE-1 and 2 too; both fail where ROUGE-L does
    try:
        # In the caller's thread the frames left, and with them the score, would depend on who called from how deep.
        with ThreadPoolExecutor(1) as thread:
            spare = sys.getrecursionlimit() - FRAMES
            [scores] = thread.submit(_below, spare, measure.get_scores, [prediction], [reference]).result()
    except Exception as error:
        raise RougeFailure(f"{type(error).__name__}: {error}") from error
    return float(scores["rouge-l"]["f"])


def rouge_zh(prediction: str, reference: str) -> float:
    """Return ROUGE-L's f of the words that jieba finds.

    Raises:
        RougeFailure: as for `rouge`; more often, since a Chinese full stop ends no sentence there.
    """
    return rouge(" ".join(_jieba().cut(prediction)), " ".join(_jieba().cut(reference)))


def classification(prediction: str, reference: str, classes: Sequence[str]) -> float:
    """Return 1 / the number of classes named in the prediction if the reference is among them, else 0.

    Classes whose name is a part of the reference's should not count, but some do: see the comment. So the order of
    `classes` matters, and each row is scored with its own (the official code takes the last row's for all).
    """
    named = [name for name in classes if name in prediction]
    position = 0
    while position < len(named):
        if named[position] != reference and named[position] in reference:
            # The official loop removes from the list it runs over: the next class moves up and is never looked at.
            del named[position]
        position += 1
    return 1 / len(named) if reference in named else 0.0


def retrieval(prediction: str, reference: str) -> float:
    """Return the share of the answer's numbers that are the paragraph's, as strings.

    Raises:
        AssetError: the reference names no paragraph.
    """
    return _number_share(prediction, _paragraph(r"Paragraph (\d+)", reference))


def retrieval_zh(prediction: str, reference: str) -> float:
    """Do as `retrieval`, for a reference in Chinese."""
    return _number_share(prediction, _paragraph(r"段落(\d+)", reference))


def count(prediction: str, reference: str) -> float:
    """Return the share of the answer's numbers that equal the reference as strings: 07 is not 7."""
    return _number_share(prediction, reference)


def code_sim(prediction: str, reference: str) -> float:
    """Return the similarity of the answer's first line of code and the reference, in hundredths.

    A line with a backtick, # or // is no code. This is fuzzywuzzy's ratio over python-Levenshtein; without that
    package fuzzywuzzy falls back to difflib and gives other scores (tide, diet: 25 in place of 50; LongBench #96).
    """
    from rapidfuzz.distance import Indel

    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not re.search("`|#|//", line)), "")
    # Two empty texts are equal to fuzzywuzzy and to rapidfuzz; one empty text is like no other.
    return round(100 * Indel.normalized_similarity(line, reference)) / 100


def choice(prediction: str, reference: str) -> float:
    """Return 1 if the letter that version 2 reads out of the answer is the reference, else 0."""
    plain = prediction.replace("*", "")
    match = re.search(r"The correct answer is \(([A-D])\)", plain) or re.search(r"The correct answer is ([A-D])", plain)
    return float(match is not None and match[1] == reference)


NAMED = (qa_f1, qa_f1_zh, rouge, rouge_zh, classification, retrieval, retrieval_zh, count, code_sim, choice)
METRICS: dict[str, Callable[..., float]] = {metric.__name__: metric for metric in NAMED}


def score(row: Mapping[str, Any], prediction: str) -> Score:
    """Score a raw prediction: the best over the references, 0-100, not rounded.

    Args:
        row: `task` (a subset's name, with `_e` for LongBench-E), `metric`, `references`, and `classes` for
            classification.
        prediction: the answer as it was generated.

    Returns:
        The score; failed if ROUGE failed for any reference: even the score by another one may then be too low.

    Raises:
        AssetError: a reference is not what its metric expects.
    """
    if row["task"].removesuffix("_e") in FIRST_LINE:
        prediction = prediction.lstrip("\n").split("\n")[0]
    metric = METRICS[row["metric"]]
    classes = (row["classes"],) if metric is classification else ()
    best, failed = 0.0, False
    for reference in row["references"]:
        try:
            best = max(best, metric(prediction, reference, *classes))
        except RougeFailure:
            failed = True
    return Score(100 * best, failed)


def _english_words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(WITHOUT_PUNCTUATION)).split()


def _chinese_words(text: str) -> list[str]:
    words = (word.lower().translate(WITHOUT_CHINESE_PUNCTUATION) for word in _jieba().cut(text))
    return [joined for word in words if (joined := "".join(word.split()))]


def _f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    same = (Counter(prediction) & Counter(reference)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction), same / len(reference)
    return 2 * precision * recall / (precision + recall)


def _number_share(prediction: str, truth: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(truth) / len(numbers) if numbers else 0.0


def _paragraph(pattern: str, reference: str) -> str:
    match = re.search(pattern, reference)
    if match is None:
        raise AssetError(f"reference {reference!r} names no paragraph by {pattern!r}; fetch the benchmark file again")
    return match[1]


def _below(frames: int, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call with `frames` more on the stack, so that a raised recursion limit leaves no more than the default one."""
    return _below(frames - 1, call, *arguments) if frames > 0 else call(*arguments)


@cache
def _jieba() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old escapes and pkg_resources
        import jieba
    jieba.setLogLevel(WARNING)  # else it tells on stderr how it loads its dictionary
    return jieba
