"""Stage `dense`: the dense model's greedy answers, which later stages feed to the model as they are."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headscope.models.generation import Unanswered, batches, greedy_answers, stop_tokens
from headscope.models.loading import LoadedModel
from headscope.pipeline.progress import progress
from headscope.pipeline.stages.inputs import Prompt, load_model, load_prompts, open_cells
from headscope.pipeline.store.parents import Parents

SCHEMA = pa.schema(
    {"id": pa.string(), "split": pa.string(), "tokens": pa.list_(pa.int32()), "text": pa.string(), "stop": pa.string()}
)


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write answers.parquet: one row a prompt, tokens without the stop token."""
    loaded = load_model(spec, parents)
    cells = open_cells("dense", spec, loaded, out, "headscope.models.generation")
    prompts = load_prompts(parents, loaded)
    answers = {prompt.id: rows["answer"] for prompt in prompts if (rows := cells.rows(prompt.id))}
    missing = [prompt for prompt in prompts if prompt.id not in answers]
    unanswered = [_unanswered(loaded, prompt) for prompt in missing]
    for batch in progress([*batches(loaded.model, unanswered)], f"dense {spec['task']} {spec['length']}"):
        finished = greedy_answers(loaded.model, [unanswered[index] for index in batch])
        for index, (tokens, stop) in zip(batch, finished, strict=True):
            text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
            answer = answers[missing[index].id] = {"tokens": tokens, "text": text, "stop": stop}
            cells.add_rows(missing[index].id, {"answer": answer})
    table = [{"id": prompt.id, "split": prompt.row["split"], **answers[prompt.id]} for prompt in prompts]
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), out / "answers.parquet")


def _unanswered(loaded: LoadedModel, prompt: Prompt) -> Unanswered:
    row, eos = prompt.row, stop_tokens(loaded.model, loaded.tokenizer, prompt.row["stop_text"])
    return Unanswered(prompt.encoded.ids, row["max_new_tokens"], eos, row["min_new_tokens"])
