"""Small files of LongBench's form, in our own words, and requests that read them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from small_tokenizer import small_tokenizer

from headscope.benchmarks.longbench.subsets import SUBSETS
from headscope.benchmarks.prose import packaged_prose
from headscope.benchmarks.row import Request

TOKENIZER = small_tokenizer()
PROSE = packaged_prose()
ASKED = "Read this.\n\n{context}\n\nQuestion: {input}\nAnswer:"
OTHERS = {
    "few-shot": "Some examples.\n\n{context}\n{input}",
    "summary": "Read this.\n{context}\n\nSummary:",
    "lcc": "Complete this. \n{context}Next line:\n",
    "repobench-p": "Complete this. \n{context}{input}Next line:\n",
}
PROMPTS = {subset.name: OTHERS.get(subset.name, OTHERS.get(subset.group, ASKED)) for subset in SUBSETS}


def record(number: int, **changes: Any) -> dict[str, Any]:
    start = 997 * number % (len(PROSE) - 9000)
    row = {
        "input": f"What does document {number} say?",
        "context": PROSE[start : start + 600],
        "answers": [f"answer {number}", "another"],
        "length": 100 + number,
        "dataset": "made here",
        "language": "en",
        "all_classes": [f"class {number}", "other"],
        "_id": f"id{number}",
    }
    return row | changes


def records(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [record(number, **changes) for number in range(count)]


def lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def data_folder(path: Path, subset: str, rows: Iterable[dict[str, Any]]) -> Path:
    path.mkdir(exist_ok=True)
    (path / f"{subset}.jsonl").write_text(lines(rows), encoding="utf-8")
    return path


def data_zip(path: Path, subset: str, rows: Iterable[dict[str, Any]]) -> Path:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr(f"data/{subset}.jsonl", lines(rows))
    return path


def prompt_file(path: Path, **changes: str) -> Path:
    path.write_text(json.dumps(PROMPTS | changes), encoding="utf-8")
    return path


def request(task: str, files: dict[str, Path], length: int = 4096, **changes: Any) -> Request:
    options = {"seed": 42, "evaluation": 500, "calibration": 0, "chat_template": True, "tokenizer": TOKENIZER} | changes
    samples = {"evaluation": options.pop("evaluation"), "calibration": options.pop("calibration")}
    return Request(task=task, length=length, samples=samples, files=files, **options)


def subset_request(folder: Path, task: str, rows: Iterable[dict[str, Any]], length: int = 4096, **more: Any) -> Request:
    files = {
        "longbench_data": data_folder(folder / "data", task, rows),
        "longbench_prompts": prompt_file(folder / "dataset2prompt.json"),
    }
    return request(task, files, length, **more)
