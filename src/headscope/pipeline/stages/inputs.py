"""Inputs of the stages that run a model, read from their parents: model, prompts, answers, moments, probes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from headscope.benchmarks.encoding import Encoded, encode
from headscope.heads.criteria import build as build_criterion
from headscope.heads.estimators import Estimator, build
from headscope.heads.moments import KeyMoments
from headscope.heads.outliers import OutlierRule
from headscope.heads.selectors import build as build_selector
from headscope.lab.probes import ModelProbes
from headscope.lab.rows import Rows
from headscope.models.check import Finding, refuse
from headscope.models.loading import LoadedModel, load
from headscope.models.rotary import refuse_changing_factors
from headscope.pipeline.assets.model_check import findings_of, findings_on
from headscope.pipeline.plan.code import code_digest
from headscope.pipeline.plan.node import asks_probes, criterion_modules
from headscope.pipeline.store.cells import Cells
from headscope.pipeline.store.files import canonical, results_root, sha256_file
from headscope.pipeline.store.parents import Parents


@dataclass(frozen=True)
class Prompt:
    """One row of a prompts node, encoded.

    Attributes:
        row: the dataset's columns.
        encoded: token ids, boundary and start of the answer prefix.
    """

    row: Mapping[str, Any]
    encoded: Encoded

    @property
    def id(self) -> str:
        """Return the digest of text, question and generation budget."""
        return str(self.row["id"])


def load_model(spec: Mapping[str, Any], parents: Parents, probes: bool = False) -> LoadedModel:
    """Load the model with the dtype, device and RoPE of the slice.

    Args:
        spec: the slice.
        parents: with the model's assets.
        probes: whether queries are to be turned and heads weighed.

    Raises:
        UnsupportedModelError: a comparison with the model's own attention failed, here or where it was fetched.
    """
    asset = parents.one("assets", kind="model").folder
    how = {name: spec[name] for name in ("dtype", "device", "device_map", "rope")}
    loaded, findings = _loaded(asset.absolute(), (asset / "manifest.json").read_text("utf-8"), canonical(how))
    refuse(loaded.model, findings, probes)
    return loaded


@lru_cache(maxsize=1)
def _loaded(asset: Path, manifest: str, how: str) -> tuple[LoadedModel, list[Finding]]:
    """Load a model, which stays for the next jobs of this process, and return what its checks found."""
    options = json.loads(how)
    loaded = load(asset, **options)
    findings = None if options["rope"] else findings_of(json.loads(manifest))
    return loaded, findings_on(loaded.model) if findings is None else findings


def load_prompts(parents: Parents, loaded: LoadedModel) -> list[Prompt]:
    """Read and encode every prompt of the prompts parent, evaluation and calibration.

    Raises:
        LengthError: the model's RoPE changes between a context's end and its answer's.
    """
    # One shard of Arrow's stream format; the library that wrote it takes half a second to import.
    shard = parents.one("prompts").folder / "dataset" / "data-00000-of-00001.arrow"
    with pa.ipc.open_stream(shard.read_bytes()) as stream:
        rows = stream.read_all().to_pylist()
    prompts = [
        Prompt(row, encode(loaded.tokenizer, row["text"], row["question_offset"], row["prefix_offset"])) for row in rows
    ]
    for prompt in prompts:
        end = len(prompt.encoded.ids) + prompt.row["max_new_tokens"]
        refuse_changing_factors(loaded.model, prompt.encoded.boundary, end)
    return prompts


def open_cells(kind: str, spec: Mapping[str, Any], loaded: LoadedModel, out: Path, *modules: str) -> Cells:
    """Open a stage's cells, whose context is the model, how it computes, where criteria decide, and the code.

    The code is that of `modules`, and of what loads models and encodes prompts, which every cell depends on.
    """
    context = {
        "model": loaded.sha256,
        **{name: spec[name] for name in ("dtype", "device", "rope", "versions", "window", "chunk") if name in spec},
        "code": code_digest("headscope.models.loading", "headscope.benchmarks.encoding", *modules),
    }
    return Cells(results_root(out), kind, context)


def load_answers(parents: Parents) -> dict[str, dict[str, Any]]:
    """Read the dense parent's answers, by the prompt's id."""
    table = pq.read_table(parents.one("dense").folder / "answers.parquet")
    return {row["id"]: row for row in table.to_pylist()}


def fed_tokens(answer: Mapping[str, Any]) -> list[int]:
    """Return the tokens of an answer that the model read: at the length limit, all but the last."""
    tokens: list[int] = answer["tokens"]
    return tokens if answer["stop"] == "eos" else tokens[:-1]


@dataclass(frozen=True)
class TextMoments:
    """Key moments of another text.

    Attributes:
        by_layer: moments by layer index.
        sha256: of the file they came from, part of every cell they made.
    """

    by_layer: Mapping[int, KeyMoments]
    sha256: str


def load_moments(parents: Parents) -> dict[str, TextMoments]:
    """Read the moments parents, by the name of their text."""
    by_text = {}
    for parent in parents.all("moments"):
        file = parent.folder / "moments.safetensors"
        data = load_file(file)
        layers = zip(data["layers"].tolist(), data["count"].tolist(), data["mean"], data["covariance"], strict=True)
        by_layer = {layer: KeyMoments(count, mean, covariance) for layer, count, mean, covariance in layers}
        by_text[parent.spec["text"]] = TextMoments(by_layer, sha256_file(file))
    return by_text


def build_estimators(specs: Iterable[Mapping[str, Any]], moments: Mapping[str, TextMoments]) -> dict[str, Estimator]:
    """Make the estimators of a slice, by name."""
    fitted = {name: text.by_layer for name, text in moments.items()}
    return {spec["name"]: build(spec, fitted) for spec in specs}


def estimator_identity(spec: Mapping[str, Any], moments: Mapping[str, TextMoments]) -> dict[str, Any]:
    """Name all that makes an estimator's numbers: its parameters and the bytes of its moments; not its name."""
    source = moments.get(spec.get("moments", "prompt"))
    parameters = {name: value for name, value in spec.items() if name != "name"}
    return {**parameters, "fitted": source and source.sha256}


@dataclass(frozen=True)
class LoadedProbes:
    """Probes of all calibration prompts.

    Attributes:
        fitted: the probes of every parent, one after the other, and the mean of the heads' weights.
        sha256: of the files they came from, part of every cell they made.
    """

    fitted: ModelProbes
    sha256: list[str]


def load_probes(parents: Parents) -> LoadedProbes | None:
    """Read and join the probes of all parents whose tasks could be drawn; None without parents that are probes.

    Raises:
        LengthError: no such task could be drawn.
    """
    files = [parent.folder / "probes.safetensors" for parent in parents.drawn("probes", "probes")]
    if not files:
        return None
    tensors = [load_file(file) for file in files]
    layers = tensors[0]["layers"].tolist()
    queries = {layer: torch.cat([data["queries"][i] for data in tensors], 1) for i, layer in enumerate(layers)}
    weight = {layer: torch.stack([data["weight"][i] for data in tensors]).mean(0) for i, layer in enumerate(layers)}
    return LoadedProbes(ModelProbes(queries, weight), [sha256_file(file) for file in files])


def build_rows(
    criterion: Mapping[str, Any], targets: Sequence[Mapping[str, Any]], moments: Mapping[str, TextMoments]
) -> Rows:
    """Make the rows of a slice's criterion, one for each of what calibration found, or of the budgets."""
    estimator = criterion["estimator"]
    built = None if estimator is None else build_estimators([estimator], moments)[estimator["name"]]
    rows = Rows(build_criterion(criterion, targets, built), OutlierRule(**(criterion["outliers"] or {})))
    if "selector" not in criterion:
        return rows
    budget = torch.tensor([target["budget"] for target in targets], dtype=torch.float64)
    return replace(rows, selector=build_selector(criterion["selector"]), budget=budget)


def criterion_identity(
    spec: Mapping[str, Any], moments: Mapping[str, TextMoments], probes: LoadedProbes | None
) -> dict[str, Any]:
    """Name all that makes a criterion's numbers: kind, estimator, outliers, their inputs' bytes, and the code."""
    estimator = spec["estimator"] and estimator_identity(spec["estimator"], moments)
    # A head's weight is part of what calibration fitted.
    used = probes.sha256 if probes is not None and (spec["outliers"] or asks_probes(spec)) else None
    identity = {"kind": spec["kind"], "estimator": estimator, "outliers": spec["outliers"], "probes": used}
    identity |= {name: spec[name] for name in ("unit", "summaries", "selector") if name in spec}
    return {**identity, "code": code_digest(*criterion_modules(spec))}
