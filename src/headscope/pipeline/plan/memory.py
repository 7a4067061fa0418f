"""What memory a job needs, from its slice and, once they are here, the sizes of its model's weights."""

import json
import math
import os
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from headscope.errors import ConfigError
from headscope.pipeline.plan.costs import BYTES, QUESTION, Job, parameters, recorded_pairs
from headscope.pipeline.plan.node import Node
from headscope.pipeline.plan.plan import Plan

PROCESS = 600  # MiB of Python with torch and transformers
CUDA = 2500  # MiB of a process that uses a GPU
TABLES = 1000  # MiB of a job without a model
PAIR = 100  # bytes of a recorded pair that such a job reads: tables are read one after the other, and copied
# MiB of a pass beside weights and caches: of rows over a prefix, whose scores are cut to a size, and of others.
PASS = {"evaluation": 1600, "margins": 1200, "assets": 1200}
OTHER_PASS = 400
TOGETHER = 128  # rows of whole prompts that decode together in an evaluation, as its stage says
DENSE_BYTES = {"cpu": 2**29, "cuda": 2**34}  # of the keys and values of dense answers that decode together, at most
# A model's numbers for each of the guess by its layers and widths: small models have large vocabularies, and a few
# have heads that are wider than their residual stream.
MOST, LEAST = 2.8, 0.4
STORED = 2  # bytes of a number in a model's files, which are mapped while they are read
MIB = 2**20


def memory_mb(results: Path, node: Node) -> int:
    """Return the most memory that a job should need, in MiB; `results` is the folder that may hold its model."""
    job = Job(node)
    if not job.expect:
        return TABLES
    numbers = _numbers(results, node) or MOST * parameters(job.expect)
    if node.stage == "assets":  # the model is converted, and checked in float32
        return PROCESS + PASS["assets"] + int(numbers * (2 * STORED + BYTES["float32"]) / MIB)
    if "dtype" not in job.spec:
        return TABLES + int(PAIR * recorded_pairs(job) / MIB)
    files = int(numbers * STORED / MIB)
    if job.spec["device"] == "cuda":
        return PROCESS + CUDA + files
    return PROCESS + files + _computing(job, numbers)


def gpu_mb(results: Path, node: Node) -> int:
    """Return the most memory of a GPU that a job should need, in MiB; 0 without one."""
    job = Job(node)
    if job.spec.get("device") != "cuda":
        return 0
    return _computing(job, _numbers(results, node) or MOST * parameters(job.expect))


def refuse_too_large(plan: Plan, unfinished: Collection[str]) -> None:
    """Refuse jobs on the processor whose weights alone are more than this machine's memory.

    Raises:
        ConfigError: naming the model, both sizes and a remedy.
    """
    total, results = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), plan.root / plan.results
    for node in plan:
        job = Job(node)
        if node.address in unfinished and job.spec.get("device") == "cpu":
            numbers = _numbers(results, node) or LEAST * parameters(job.expect)
            dtype, gib = job.spec["dtype"], numbers * BYTES[job.spec["dtype"]] / 2**30
            if gib * 2**30 > total:
                remedy = "model.dtype=bfloat16, " if BYTES[dtype] > 2 and gib * 2**30 * 2 / BYTES[dtype] < total else ""
                raise ConfigError(
                    f"option model.dtype: {node.address} needs {gib:.0f} GiB for its model's weights in {dtype}, and "
                    f"this machine has {total / 2**30:.0f} GiB; choose {remedy}a smaller model, model.device=cuda on a "
                    "machine with a GPU, or a machine with more memory"
                )


def _computing(job: Job, numbers: float) -> int:
    """Return the memory of weights, caches and a pass, in MiB, where the model computes."""
    weights = numbers * BYTES[job.spec["dtype"]]
    return PASS.get(job.node.stage, OTHER_PASS) + int((weights + _caches(job)) / MIB)


def _caches(job: Job) -> float:
    """Return the bytes of all keys and values that a job holds at once."""
    width, stage = BYTES[job.spec["dtype"]], job.node.stage
    numbers = 2 * job.expect["layers"] * job.expect["kv_heads"] * job.expect["head_dim"]
    prompt = float(numbers * width * (job.tokens + (job.answer if job.cell else 0)))
    if stage == "dense":  # one is read while others, as many as have room, wait to be answered
        return prompt + min(job.rows * prompt, max(prompt, DENSE_BYTES[job.spec["device"]]))
    exact = numbers * BYTES["float32"] * job.tokens if width < BYTES["float32"] else 0  # what rows attend to
    if stage == "evaluation":
        prompts = 1 if "chunk" in job.spec else max(1, min(job.prompts("evaluation"), TOGETHER // job.rows))
        own = numbers * width * job.rows * (QUESTION + job.answer)
        return float(prompts * (numbers * width * job.tokens + exact + own))
    return prompt + (exact if stage == "margins" else 0)


def _numbers(results: Path, node: Node) -> int | None:
    """Return how many numbers the weights of a job's model are, as its files say; None: they are not here yet."""
    models = [each for each in (node, *node.parents) if each.stage == "assets" and '"kind":"model"' in each.spec]
    assets = [results / model.address for model in models]
    return next((_stored(asset) for asset in assets if (asset / "manifest.json").is_file()), None)


@lru_cache(maxsize=64)
def _stored(asset: Path) -> int | None:
    """Count the numbers in the weights of a finished asset, from the headers of its files."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        manifest = json.loads((asset / "manifest.json").read_text(encoding="utf-8"))
        counts = [_numbers_in(file) for file in (asset / manifest["model"]).glob("*.safetensors")]
        return sum(counts) or None
    return None


def _numbers_in(file: Path) -> int:
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
