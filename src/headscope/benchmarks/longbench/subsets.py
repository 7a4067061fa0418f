"""The 21 subsets of LongBench and the 13 of LongBench-E, by their official names."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from headscope.benchmarks.jsonl import refuse_half_characters
from headscope.benchmarks.longbench.data import Record, example_of, read_records
from headscope.benchmarks.longbench.example import Example, LongTask
from headscope.benchmarks.longbench.splits import choose
from headscope.benchmarks.longbench.template import Template, format_style
from headscope.benchmarks.row import Request
from headscope.benchmarks.task import Split
from headscope.errors import AssetError

Group = Literal["single-doc", "multi-doc", "summary", "few-shot", "synthetic", "code"]
BUCKETS = ("0-4k", "4-8k", "8k+")


@dataclass(frozen=True)
class Subset(LongTask):
    """One row of the paper's table of data sets.

    Attributes:
        name: official, the key of its prompt; with `_e` in LongBench-E it names the data file alone.
        group: the published average is the mean over groups of their means.
        metric: name of the metric.
        max_new_tokens: tokens that an answer may take.
        samples: rows of the official file; LongBench-E: for each of BUCKETS.
        mean_length: of the contexts, in words or Chinese characters; LongBench-E's is not published.
        language: "zh" subsets are left out of English-only evaluations.
        extended: part of LongBench-E, reported by buckets of length.
        min_new_tokens, stop_text: samsum's answers must not be empty, and are one line: models go on with the next
            dialogue.
    """

    name: str
    group: Group
    metric: str
    max_new_tokens: int
    samples: int | tuple[int, int, int]
    mean_length: int | None
    language: Literal["en", "zh"] = "en"
    extended: bool = False
    min_new_tokens: int = 0
    stop_text: str = ""

    @property
    def chat(self) -> bool:
        """Few-shot and code tasks continue a text, which a chat template would break."""
        return self.group not in ("few-shot", "code")

    def bucket_of(self, words: int) -> str:
        """Return the group that LongBench-E reports a context of so many words in; elsewhere there are none."""
        return BUCKETS[(words >= 4000) + (words >= 8000)] if self.extended else ""

    def needs(self, length: int) -> list[str]:
        """The data of all subsets, and their prompts."""
        return ["longbench_data", "longbench_prompts"]

    def examples(self, request: Request) -> dict[Split, list[Example]]:
        """Return the examples of each split, in the file's order; errors as in the base class."""
        template = read_template(request.files["longbench_prompts"], self.name)
        records = read_records(request.files["longbench_data"], self.name + "_e" * self.extended)
        splits = choose([record.id for record in records], request)
        return {split: [self._example(records[i], template) for i in indices] for split, indices in splits.items()}

    def _example(self, record: Record, template: Template) -> Example:
        if self.metric == "classification" and not record.classes:
            raise AssetError(f"row {record.id} of {self.name} has no 'all_classes' to choose from; repair the row")
        # The input of repobench-p is the code to go on with.
        question = "input" if template.names == ["context", "input"] and self.group != "code" else ""
        return example_of(record, template, question, self.bucket_of(record.length))


def read_template(path: Path, name: str) -> Template:
    """Return a subset's prompt from the official `dataset2prompt.json`.

    Raises:
        AssetError: the file is missing or damaged, or has no such prompt.
    """
    try:
        text = json.loads(path.read_bytes())[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path} holds no prompt for {name} ({error!r}); give dataset2prompt.json") from error
    refuse_half_characters(text, f"the prompt for {name} in {path}")
    return format_style(text, {"context", "input"}, f"the prompt for {name} in {path}")


SUBSETS = (
    Subset("narrativeqa", "single-doc", "qa_f1", 128, 200, 18_409),
    Subset("qasper", "single-doc", "qa_f1", 128, 200, 3_619),
    Subset("multifieldqa_en", "single-doc", "qa_f1", 64, 150, 4_559),
    Subset("multifieldqa_zh", "single-doc", "qa_f1_zh", 64, 200, 6_701, "zh"),
    Subset("hotpotqa", "multi-doc", "qa_f1", 32, 200, 9_151),
    Subset("2wikimqa", "multi-doc", "qa_f1", 32, 200, 4_887),
    Subset("musique", "multi-doc", "qa_f1", 32, 200, 11_214),
    Subset("dureader", "multi-doc", "rouge_zh", 128, 200, 15_768, "zh"),
    Subset("gov_report", "summary", "rouge", 512, 200, 8_734),
    Subset("qmsum", "summary", "rouge", 512, 200, 10_614),
    Subset("multi_news", "summary", "rouge", 512, 200, 2_113),
    Subset("vcsum", "summary", "rouge_zh", 512, 200, 15_380, "zh"),
    Subset("trec", "few-shot", "classification", 64, 200, 5_177),
    Subset("triviaqa", "few-shot", "qa_f1", 32, 200, 8_209),
    Subset("samsum", "few-shot", "rouge", 128, 200, 6_258, min_new_tokens=1, stop_text="\n"),
    Subset("lsht", "few-shot", "classification", 64, 200, 22_337, "zh"),
    Subset("passage_count", "synthetic", "count", 32, 200, 11_141),
    Subset("passage_retrieval_en", "synthetic", "retrieval", 32, 200, 9_289),
    Subset("passage_retrieval_zh", "synthetic", "retrieval_zh", 32, 200, 6_745, "zh"),
    Subset("lcc", "code", "code_sim", 64, 500, 1_235),
    Subset("repobench-p", "code", "code_sim", 64, 500, 4_206),
)

EXTENDED_SAMPLES = {
    **{name: (100, 100, 100) for name in ("hotpotqa", "2wikimqa", "gov_report", "trec", "triviaqa", "samsum")},
    **{name: (100, 100, 100) for name in ("passage_count", "passage_retrieval_en", "lcc", "repobench-p")},
    "qasper": (100, 100, 24),
    "multifieldqa_en": (67, 70, 13),
    "multi_news": (100, 100, 94),
}

TASKS = {subset.name: subset for subset in SUBSETS} | {
    f"{subset.name}_e": replace(subset, samples=EXTENDED_SAMPLES[subset.name], mean_length=None, extended=True)
    for subset in SUBSETS
    if subset.name in EXTENDED_SAMPLES
}
