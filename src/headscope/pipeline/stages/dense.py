"""Stage `dense`: the dense model's greedy answers, which later stages feed to the model as they are."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headscope.models.generation import greedy_answer, stop_tokens
from headscope.models.loading import LoadedModel
from headscope.pipeline.progress import progress
from headscope.pipeline.stages.inputs import Prompt, load_model, load_prompts, open_cells
from headscope.pipeline.store.cells import Cells
from headscope.pipeline.store.parents import Parents

SCHEMA = pa.schema(
    {"id": pa.string(), "split": pa.string(), "tokens": pa.list_(pa.int32()), "text": pa.string(), "stop": pa.string()}
)


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write answers.parquet: one row a prompt, tokens without the stop token."""
    loaded = load_model(spec, parents)
    cells = open_cells("dense", spec, loaded, out, "headscope.models.generation")
    prompts = load_prompts(parents, loaded)
    rows = [_answer(loaded, prompt, cells) for prompt in progress(prompts, f"dense {spec['task']} {spec['length']}")]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), out / "answers.parquet")


def _answer(loaded: LoadedModel, prompt: Prompt, cells: Cells) -> dict[str, Any]:
    answer = cells.rows(prompt.id).get("answer")
    if answer is None:
        row, eos = prompt.row, stop_tokens(loaded.model, loaded.tokenizer, prompt.row["stop_text"])
        limits = row["max_new_tokens"], eos, row["min_new_tokens"]
        tokens, stop = greedy_answer(loaded.model, prompt.encoded.ids, *limits)
        text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        answer = {"tokens": tokens, "text": text, "stop": stop}
        cells.add_rows(prompt.id, {"answer": answer})
    return {"id": prompt.id, "split": prompt.row["split"], **answer}
