"""Stage `evaluation`: answers and scores of all criteria and targets on one cell, rows of several prompts together."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headscope.benchmarks.scoring import score
from headscope.heads.window import Window
from headscope.lab.evaluation import Answer, answer_prompts
from headscope.models.generation import stop_tokens
from headscope.models.loading import LoadedModel
from headscope.pipeline.progress import progress
from headscope.pipeline.stages.inputs import (
    Prompt,
    build_rows,
    criterion_identity,
    load_model,
    load_moments,
    load_probes,
    load_prompts,
    open_cells,
)
from headscope.pipeline.store.files import digest
from headscope.pipeline.store.parents import Parents

ROWS = pa.schema(
    {
        "prompt": pa.string(),
        "index": pa.int32(),
        "benchmark": pa.string(),
        "bucket": pa.string(),
        "task": pa.string(),
        "length": pa.int32(),
        "seed": pa.int64(),
        "truncated": pa.bool_(),
        "criterion": pa.string(),
        "target": pa.float64(),
        "text": pa.string(),
        "tokens": pa.list_(pa.int32()),
        "stop": pa.string(),
        "score": pa.float64(),
        "metric_failed": pa.bool_(),
        "sparsity": pa.float64(),
        "sparsity_group": pa.float64(),
        "kv_bytes": pa.float64(),
        "sparsity_layer": pa.list_(pa.float32()),
        "queries": pa.int32(),
    }
)
TOGETHER = 128
"""Rows that decode together, of as many whole prompts as that: more would hardly be read faster."""
SECONDS = pa.schema({"prompt": pa.string(), "seconds": pa.float64(), "rows": pa.int32(), "reused": pa.int32()})


@dataclass(frozen=True)
class Row:
    """One criterion at one target.

    Attributes:
        criterion: its name.
        target: the target sparsity; NaN for a criterion without targets.
        fitted: what calibration fitted for the target: a threshold and a map, or a ranking; a selector's budget.
        key: digest of all that makes the row's text, except the prompt and the cells' context.
    """

    criterion: str
    target: float
    fitted: Mapping[str, Any]
    key: str


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write rows.parquet (one row a prompt, criterion and target) and seconds.parquet."""
    evaluation = _Evaluation(spec, out, parents)
    prompts = [p for p in load_prompts(parents, evaluation.loaded) if p.row["split"] == "evaluation"]
    rows, seconds = [], []
    cells_of_prompts = evaluation.cells_of(prompts)
    for prompt in progress(prompts, f"evaluation {spec['task']} {spec['length']}"):
        cells, spent = next(cells_of_prompts)
        seconds.append(spent)
        for row in evaluation.rows:
            cell = cells[row.key]
            result = score(spec["kind"], prompt.row, cell["text"])
            scored = {"score": result.value, "metric_failed": result.failed}
            rows.append({**_named(spec, prompt), "criterion": row.criterion, "target": row.target, **scored, **cell})
    pq.write_table(pa.Table.from_pylist(rows, ROWS), out / "rows.parquet")
    pq.write_table(pa.Table.from_pylist(seconds, SECONDS), out / "seconds.parquet")


def _named(spec: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return the columns that all rows of a prompt share."""
    of_spec = {name: spec[name] for name in ("benchmark", "task", "length", "seed")}
    return {"prompt": prompt.id, **of_spec, **{name: prompt.row[name] for name in ("index", "bucket", "truncated")}}


class _Evaluation:
    """Finds the cells of a prompt's rows or computes those that are missing, together in one batch."""

    def __init__(self, spec: Mapping[str, Any], out: Path, parents: Parents):
        self.spec, self.window = spec, Window(**spec["window"])
        self.loaded: LoadedModel = load_model(spec, parents)
        self.moments, self.probes = load_moments(parents), load_probes(parents)
        criteria = spec["criteria"].items()
        self.rows = [row for name, criterion in criteria for row in self._rows(name, criterion, parents)]
        modules = "headscope.lab.evaluation", "headscope.models.generation"
        self.cells = open_cells("evaluation", spec, self.loaded, out, *modules)

    def _rows(self, name: str, criterion: Mapping[str, Any], parents: Parents) -> list[Row]:
        identity = criterion_identity(criterion, self.moments, self.probes)
        if "selector" in criterion:
            budgets = [(target, {"budget": target}) for target in self.spec["targets"]]
            return [Row(name, target, budget, digest({**identity, **budget})) for target, budget in budgets]
        if criterion["calibrated_on"] is None:
            return [Row(name, float("nan"), {}, digest(identity))]
        file = parents.one("calibration", criterion=name).folder / "calibration.json"
        fits = json.loads(file.read_text(encoding="utf-8"))["targets"]
        targets = [(target, fits[str(target)]) for target in self.spec["targets"]]
        return [Row(name, target, fitted, digest({**identity, "fitted": fitted})) for target, fitted in targets]

    def cells_of(self, prompts: Sequence[Prompt]) -> Iterator[tuple[dict[str, dict[str, Any]], dict[str, Any]]]:
        """Yield each prompt's cells by their rows' keys, and its share of the seconds that they took."""
        step = max(1, TOGETHER // len(self.rows))
        for first in range(0, len(prompts), step):
            yield from self._cells_of_batch(prompts[first : first + step])

    def _cells_of_batch(self, prompts: Sequence[Prompt]) -> Iterator[tuple[dict[str, dict[str, Any]], dict[str, Any]]]:
        start, cells = time.monotonic(), [self.cells.rows(prompt.id) for prompt in prompts]
        missing = [list({row.key: row for row in self.rows if row.key not in known}.values()) for known in cells]
        # Prompts that lack the same rows and stop alike decode together.
        alike: dict[Any, list[int]] = {}
        for at, (prompt, rows) in enumerate(zip(prompts, missing, strict=True)):
            alike.setdefault((*(row.key for row in rows), *self._limits(prompt)), []).append(at)
        for members in alike.values():
            rows = missing[members[0]]
            for at, computed in zip(members, self._compute([prompts[at] for at in members], rows), strict=True):
                self.cells.add_rows(prompts[at].id, computed)
                cells[at].update(computed)
        each = (time.monotonic() - start) / len(prompts)
        for prompt, rows, of_prompt in zip(prompts, missing, cells, strict=True):
            spent = {"prompt": prompt.id, "seconds": each}
            yield of_prompt, {**spent, "rows": len(rows), "reused": len(self.rows) - len(rows)}

    def _limits(self, prompt: Prompt) -> tuple[int, tuple[int, ...], int]:
        """Return the most tokens of an answer, its stop tokens and the fewest tokens."""
        columns, (model, tokenizer) = prompt.row, (self.loaded.model, self.loaded.tokenizer)
        eos = tuple(sorted(stop_tokens(model, tokenizer, columns["stop_text"])))
        return columns["max_new_tokens"], eos, columns["min_new_tokens"]

    def _compute(self, prompts: Sequence[Prompt], rows: list[Row]) -> list[dict[str, dict[str, Any]]]:
        """Decode the rows of all prompts together; rows of one criterion are neighbours."""
        if not rows:
            return [{} for _ in prompts]
        grouped: dict[str, list[Row]] = {}
        for row in rows:
            grouped.setdefault(row.criterion, []).append(row)
        criteria = [
            build_rows(self.spec["criteria"][name], [row.fitted for row in members], self.moments)
            for name, members in grouped.items()
        ]
        texts = [(prompt.encoded.ids, prompt.encoded.boundary) for prompt in prompts]
        probes, chunk, limits = (
            self.probes.fitted if self.probes else None,
            self.spec.get("chunk"),
            self._limits(prompts[0]),
        )
        answers = answer_prompts(self.loaded.model, texts, criteria, self.window, *limits, probes, chunk)
        ordered = [row for members in grouped.values() for row in members]
        return [
            {
                row.key: {"text": self._text(answer), **asdict(answer)}
                for row, answer in zip(ordered, of_prompt, strict=True)
            }
            for of_prompt in answers
        ]

    def _text(self, answer: Answer) -> str:
        text: str = self.loaded.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        return text
