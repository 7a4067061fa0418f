"""Stage `diagnostics`: errors of the Gaussian model of the bulk, on the dense answers to the evaluation prompts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headscope.heads.window import Window
from headscope.lab.diagnosis import LayerDiagnosis, diagnose
from headscope.pipeline.progress import progress
from headscope.pipeline.stages.inputs import fed_tokens, load_answers, load_model, load_prompts
from headscope.pipeline.store.parents import Parents

Row = dict[str, Any]
MEASURES = ("bias", "rmse", "lost_share", "score_std", "skewness", "kurtosis", "top_1", "top_8", "top_64")
FITS = pa.schema(
    {
        "prompt": pa.string(),
        "layer": pa.int16(),
        "head": pa.int16(),
        "sink": pa.int32(),
        "recent": pa.int32(),
        "queries": pa.int32(),
        **dict.fromkeys(MEASURES, pa.float32()),
    }
)
SPECTRA = pa.schema(
    {
        "prompt": pa.string(),
        "layer": pa.int16(),
        "kv_head": pa.int16(),
        "eigenvalues": pa.list_(pa.float32()),
        "effective_rank": pa.float32(),
        "slow_share": pa.float32(),
        "quantiles": pa.list_(pa.list_(pa.float32())),
    }
)


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write fits.parquet (a row a prompt, layer, head and window) and spectra.parquet (a row a KV head).

    A window without a bulk has no row. `quantiles` of a KV head are those of its query heads, in their order.

    Args:
        spec: task, length, window, sinks and recents to vary it by, dtype, device, device_map, rope.
        out: the node's empty folder.
        parents: the model's assets, prompts and dense answers.
    """
    loaded, windows = load_model(spec, parents), grid(spec)
    answers = load_answers(parents)
    prompts = [prompt for prompt in load_prompts(parents, loaded) if prompt.row["split"] == "evaluation"]
    with pq.ParquetWriter(out / "fits.parquet", FITS) as fits, pq.ParquetWriter(out / "spectra.parquet", SPECTRA) as kv:
        for prompt in progress(prompts, f"diagnostics {spec['task']} {spec['length']}"):
            fed = fed_tokens(answers[prompt.id])
            layers = diagnose(loaded.model, [*prompt.encoded.ids, *fed], prompt.encoded.boundary, windows)
            fits.write_table(pa.Table.from_pylist(list(_fits(prompt.id, layers)), FITS))
            kv.write_table(pa.Table.from_pylist(list(_spectra(prompt.id, layers)), SPECTRA))


def grid(spec: Mapping[str, Any]) -> list[Window]:
    """Return the configuration's window, then windows that differ from it in sink or in recent."""
    own = Window(**spec["window"])
    varied = [Window(sink, own.recent) for sink in spec["sinks"]] + [Window(own.sink, last) for last in spec["recents"]]
    return list(dict.fromkeys([own, *varied]))


def _fits(prompt: str, layers: Mapping[int, LayerDiagnosis]) -> Iterator[Row]:
    for layer, diagnosis in layers.items():
        for window, measures in diagnosis.fits.items():
            columns = {name: values.tolist() for name, values in measures.items()}
            place = {"prompt": prompt, "layer": layer, "sink": window.sink, "recent": window.recent}
            for head in range(len(diagnosis.quantiles) if columns else 0):
                values = {name: column[head] for name, column in columns.items()}
                yield {**place, "head": head, "queries": diagnosis.queries[window], **values}


def _spectra(prompt: str, layers: Mapping[int, LayerDiagnosis]) -> Iterator[Row]:
    for layer, diagnosis in layers.items():
        for kv_head, quantiles in enumerate(diagnosis.quantiles.chunk(len(diagnosis.eigenvalues))):
            columns = {name: getattr(diagnosis, name)[kv_head].tolist() for name in ("eigenvalues", "effective_rank")}
            columns |= {"slow_share": float(diagnosis.slow_share[kv_head]), "quantiles": quantiles.tolist()}
            yield {"prompt": prompt, "layer": layer, "kv_head": kv_head, **columns}
