"""MMLU-style (arXiv 2009.03300): multiple choice from 57 subjects, all mixed; an answer is one letter."""

from headscope.benchmarks.reasoning.records import place, records
from headscope.benchmarks.reasoning.shots import Item, ManyShot
from headscope.errors import AssetError

INSTRUCTION = "The following are multiple choice questions (with answers).\n\n"
LETTERS = "ABCD"


def choices_of_four(contents: bytes, name: str) -> dict[int, Item]:
    """Return the questions of a hub file, with fields `question`, `choices` and `answer` (0 to 3), by line.

    Raises:
        AssetError: the file is damaged, or a row has not four choices; the message names file and line.
    """
    items = {}
    for line, row in records(contents, name, {"question": str, "choices": list, "answer": int}).items():
        choices, answer = row["choices"], row["answer"]
        if len(choices) != len(LETTERS) or not 0 <= answer < len(LETTERS):
            raise AssetError(
                f"{place(name, line)} has {len(choices)} choices and answer {answer}, not four choices and an answer "
                "from 0 to 3; fetch the file again"
            )
        options = (f"\n{letter}. {str(choice).strip()}" for letter, choice in zip(LETTERS, choices, strict=True))
        question = row["question"].strip() + "".join(options)
        items[line] = Item(question, LETTERS[answer], LETTERS[answer])
    return items


TASKS = {
    "mmlu": ManyShot(
        ("mmlu_validation", "mmlu_test"),
        choices_of_four,
        metric="choice_letter",
        max_new_tokens=8,
        instruction=INSTRUCTION,
    )
}
