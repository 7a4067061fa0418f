"""Files of predictions as people and tools get them wrong: fields of every type, odd encodings, half lines."""

import contextlib
import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from fuzzing import Kind
from hypothesis import strategies as st

from headscope import __main__ as cli
from headscope.errors import HeadscopeError

RULER = {"index": 0, "pred": "111", "input": "a text", "outputs": ["111"], "others": {}, "truncation": -1, "length": 9}
LONG = {"pred": "7", "answers": ["7"], "all_classes": None, "length": 5000}
CLASSES = {**LONG, "pred": "City", "answers": ["City"], "all_classes": ["City", "Date"]}
WORDS = {**LONG, "pred": "one long line", "answers": ["one long line"]}
PARAGRAPH = {**LONG, "pred": "7", "answers": ["Paragraph 7"]}
V2 = {
    **{"_id": "a", "domain": "d", "difficulty": "easy", "length": "short", "answer": "B", "judge": True},
    **{"response": "The correct answer is (B).", "pred": "B"},
}
RIGHT = {
    **dict.fromkeys(("vt", "niah_single_1", "qa_1"), RULER),
    **dict.fromkeys(("qasper", "qasper_e", "passage_count", "multifieldqa_zh", "triviaqa"), LONG),
    **dict.fromkeys(("trec", "trec_e", "lsht"), CLASSES),
    **dict.fromkeys(("gov_report", "samsum", "lcc", "dureader"), WORDS),
    **{"passage_retrieval_en": PARAGRAPH, "passage_retrieval_zh": {**PARAGRAPH, "answers": ["段落7"]}, "v2": V2},
}
"""A row of some tasks whose answer is right."""
MEANT = {"pred", "prediction", "response", "outputs", "answers", "references", "answer", "classes", "all_classes"}
"""Fields that a score depends on."""
FIELDS = [
    *sorted({name for row in RIGHT.values() for name in row} | MEANT),
    *(
        "id",
        "index",
        "bucket",
        "source",
        "task",
        "dataset",
        "kind",
        "metric",
        "format",
        "headscope_format",
        "x",
        "x\ny",
    ),
]

PLAIN = (
    *(None, True, False, 0, 7, -1, 1.5, 7.0, 1e300, float("nan"), float("inf"), 10**30, "", "7", " \n", "B", "short"),
    *("\ud800", "['7']", "a\nb", "\x00", "(" * 50, "vt", "qasper", "long", "0-4k", "City", "段落7", [], [[]], ["7"]),
    *(
        ["7", "8"],
        [["7", "8"]],
        [None, "7"],
        ["City", "City"],
        ["City", ""],
        ["", "7"],
        {},
        {"text": ["7"]},
        [{"a": 1}],
    ),
)
VALUES = st.sampled_from(PLAIN) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
DAMAGES = {
    "none": lambda data: data,
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data: data.decode().encode("utf-16"),
    "latin-1": lambda data: data + b'{"pred": "caf\xe9"}\n',
    "half a last line": lambda data: data[:-7],
    "half": lambda data: data[: len(data) // 2],
    "empty lines": lambda data: b"\n \n" + data.replace(b"\n", b"\n\r\n\t\n"),
    "carriage returns": lambda data: data.replace(b"\n", b"\r\n"),
    "empty": lambda data: b"",
    "zero bytes": lambda data: data + bytes(64),
    "a list": lambda data: b"[" + data.strip().replace(b"\n", b",\n") + b"]\n",
    "an indented object": lambda data: json.dumps(json.loads(data.splitlines()[0]), indent=1).encode(),
    "a number": lambda data: data + b"7\n",
    "huge number": lambda data: data + b'{"pred": ' + b"7" * 5000 + b"}\n",
    "deep": lambda data: data + b"[" * 5000 + b"\n",
    "a field twice": lambda data: data.replace(b'{"', b'{"pred": "other", "', 1),
    "a line twice": lambda data: data + data,
    "separators": lambda data: data.replace(b"111", "111\u2028".encode()),
}
"""What may befall the bytes of a file."""
KEEP = {"none", "bom", "empty lines", "carriage returns", "a line twice"}
"""Damages that change no score."""


class Predictions(NamedTuple):
    """Files to score.

    Attributes:
        task: names the file.
        rows: changed ones.
        changed: fields that are not those of the right row.
        damage: of the bytes.
        prompts: rows of the exported prompts; None: no prompts are named.
    """

    task: str
    rows: list[dict[str, Any]]
    changed: frozenset[str]
    damage: str
    prompts: list[dict[str, Any]] | None


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    """Change a few fields of right rows, and the file."""
    task = draw(st.sampled_from(sorted(RIGHT)))
    rows, changed = [], set()
    for number in range(draw(st.integers(1, 2))):
        changes = draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=2))
        missing = draw(st.sets(st.sampled_from(FIELDS), max_size=1))
        row = {**RIGHT[task], **({"_id": str(number)} if task == "v2" else {"index": number}), **changes}
        rows.append({name: value for name, value in row.items() if name not in missing})
        changed |= changes.keys() | missing
    prompts = None
    if draw(st.integers(0, 3)) == 0:
        references = {"outputs": RIGHT[task].get("outputs") or RIGHT[task].get("answers") or [RIGHT[task]["answer"]]}
        prompts = [
            {
                "index": number,
                "id": f"p{number}",
                "classes": RIGHT[task].get("all_classes"),
                "length": 5000,
                **references,
            }
            | draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=1))
            for number in range(2)
        ]
    damage = draw(st.sampled_from(["none"] * len(DAMAGES) + list(DAMAGES)))
    return Predictions(task, rows, frozenset(changed), damage, prompts)


def check_rows(files: Predictions) -> str:
    """Score the files by the command line; a right answer whose reference is untouched scores 100 or is refused."""
    with tempfile.TemporaryDirectory() as folder:
        file, table, prompts = Path(folder, "p", f"{files.task}.jsonl"), Path(folder, "table.csv"), Path(folder, "q")
        for place, rows, damage in ((file, files.rows, files.damage), (prompts / file.name, files.prompts, "none")):
            place.parent.mkdir()
            place.write_bytes(DAMAGES[damage]("".join(json.dumps(row) + "\n" for row in rows or ()).encode()))
        options = [] if files.prompts is None else ["--prompts", str(prompts)]
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            status = cli.main(["benchmark", "score", str(file), "--csv", str(table), *options])
        if status == 2:
            raise HeadscopeError(said.getvalue().removesuffix("\n"))
        assert status == 0
        [score, *_] = csv.DictReader(table.read_text().splitlines())
        if not MEANT & files.changed and files.damage in KEEP and files.prompts is None:
            assert float(score["score"]) == 100, score
            assert int(score["samples"]) == len(files.rows) * (1 + (files.damage == "a line twice")), score
        return f"score {score['score']}"


KINDS = [Kind("rows of predictions", predictions(), check_rows, ci=40, long=1200)]
