"""Files of benchmarks with a wrong value anywhere in them, or with damaged bytes, as the prompts stage reads them."""

import json
import sys
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fuzzing import Kind
from hypothesis import strategies as st
from strategies_rows import DAMAGES, VALUES

from headscope.benchmarks import registry
from headscope.benchmarks.row import Request
from headscope.benchmarks.ruler.questions import hotpotqa, squad
from headscope.pipeline.store.files import canonical

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from benchmark_files import hotpotqa as hotpotqa_records
from benchmark_files import squad as squad_records
from longbench_files import PROMPTS, record
from small_tokenizer import small_tokenizer

V2_PROMPT = "Read $DOC$\n\nQuestion: $Q$\n(A) $C_A$\n(B) $C_B$\n(C) $C_C$\n(D) $C_D$\n\nAnswer:"


@cache
def right(kind: str) -> Any:
    """Return the content of a right file."""
    choices = {f"choice_{letter}": letter for letter in "ABCD"}
    v2 = {"domain": "d", "sub_domain": "s", "difficulty": "easy", "length": "short", "answer": "B", **choices}
    sample = {"input": "Some lines.\nA question?", "outputs": ["111"], "answer_prefix": " It is", "length": 30}
    return {
        "official": [{"index": number, **sample} for number in range(2)],
        "longbench_data": [record(number) for number in range(2)],
        "longbench_prompts": {"qasper": PROMPTS["qasper"]},
        "longbench_v2_data": [{"_id": str(i), "context": "words", "question": "Why?", **v2} for i in range(2)],
        "longbench_v2_prompt": V2_PROMPT,
        "squad": squad_records(1, 2),
        "hotpotqa": hotpotqa_records(2),
    }[kind]


KINDS_OF_FILE = ("official", "longbench_data", "longbench_prompts", "longbench_v2_data", "longbench_v2_prompt")
READERS = {"squad": squad, "hotpotqa": hotpotqa}
BY_LINE = ("official", "longbench_data")


class BenchmarkFile(NamedTuple):
    """One file.

    Attributes:
        kind: which.
        content: changed.
        damage: of its bytes.
    """

    kind: str
    content: Any
    damage: str


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a JSON value."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [above, *(place for key in keys for place in places(content[key], (*above, key)))]


@st.composite
def benchmark_files(draw: st.DrawFn) -> BenchmarkFile:
    """Change or drop one value of a right file, and maybe its bytes."""
    kind = draw(st.sampled_from((*KINDS_OF_FILE, *READERS)))
    content = deepcopy(right(kind))
    *above, key = draw(st.sampled_from(places(content)[1:] or [(None,)]))
    node = content
    for step in above:
        node = node[step]
    if key is None:
        content = draw(st.just(V2_PROMPT) | VALUES.filter(lambda value: isinstance(value, str)))
    elif draw(st.booleans()):
        node[key] = draw(VALUES)
    else:
        del node[key]
    damage = draw(st.sampled_from(["none"] * len(DAMAGES) + list(DAMAGES)))
    return BenchmarkFile(kind, content, damage)


def written(file: BenchmarkFile, path: Path) -> Path:
    """Write a file with its damage."""
    if file.kind in BY_LINE:
        text = "".join(json.dumps(row) + "\n" for row in file.content)
    else:
        text = file.content if isinstance(file.content, str) else json.dumps(file.content)
    try:
        data = DAMAGES[file.damage](text.encode("utf-8", "surrogatepass"))
    except (ValueError, IndexError):  # a damage that this content is too odd for
        data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    return path


def check_benchmark_file(file: BenchmarkFile) -> str:
    """Make prompts of the file; each has a question and something to be scored against."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = written(file, folder / file.kind)
        if file.kind in READERS:
            questions = READERS[file.kind](path.read_bytes()).questions
            for question in questions:
                assert question.answers and all(answer.strip() for answer in question.answers), question
            return f"{len(questions)} questions"
        files = {kind: written(BenchmarkFile(kind, right(kind), "none"), folder / kind) for kind in KINDS_OF_FILE}
        files[file.kind] = written(file, path)
        data = folder / "data"
        data.mkdir()
        files["longbench_data"] = files["longbench_data"].rename(data / "qasper.jsonl").parent
        task = "vt" if file.kind == "official" else "v2" if "v2" in file.kind else "qasper"
        samples = {"evaluation": 2 - (task == "vt"), "calibration": int(task == "vt")}
        source = files["official"] if task == "vt" else None
        request = Request(task, 4096, 0, samples, True, small_tokenizer(), files, source)
        rows = registry.rows("ruler" if task == "vt" else "longbench", request)
        for row in rows:
            assert row.references and all(isinstance(text, str) for text in row.references), row
            assert task != "vt" or all(text.strip() for text in row.references), row
            assert 0 <= row.prompt.question_offset < row.prompt.prefix_offset <= len(row.prompt.text), row
            json.dumps([row.prompt.text, row.references, row.classes], ensure_ascii=False).encode()
            canonical(dict(row.source))
        return f"{len(rows)} prompts"


KINDS = [Kind("benchmark files", benchmark_files(), check_benchmark_file, ci=20, long=400)]
