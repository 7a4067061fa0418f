"""GSM8K-style (arXiv 2110.14168): grade-school word problems, answered by reasoning aloud that ends in a number."""

import re

from headscope.benchmarks.reasoning.records import place, records
from headscope.benchmarks.reasoning.shots import Item, ManyShot
from headscope.errors import AssetError

CALCULATION = re.compile(r"<<.*?>>")
MARK = "####"


def problems(contents: bytes, name: str) -> dict[int, Item]:
    """Return the problems of an official file, with fields `question` and `answer`, by line.

    The reasoning becomes one paragraph, without the marks of the calculator that it was written with.

    Raises:
        AssetError: the file is damaged, or an answer names no result; the message names file and line.
    """
    items = {}
    for line, row in records(contents, name, {"question": str, "answer": str}).items():
        reasoning, mark, result = row["answer"].rpartition(MARK)
        if not mark or not result.strip():
            raise AssetError(f"{place(name, line)}: the answer does not end in '{MARK} <number>'; fetch the file again")
        words = CALCULATION.sub("", reasoning).split()
        answer = " ".join([*words, f"The answer is {result.strip()}."])
        items[line] = Item(f"Question: {row['question'].strip()}", answer, result.strip())
    return items


TASKS = {"gsm8k": ManyShot(("gsm8k_train", "gsm8k_test"), problems, metric="last_number", max_new_tokens=256)}
