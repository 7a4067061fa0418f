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
# The same on a GPU; there each token of a prompt takes some more for each number of its width, and prompts that decode
# as one are copied. On four models of .1 to 1.5B parameters and 1,024 to 16,384 tokens, jobs needed .45 to .99 of it.
GPU_PASS, OTHER_GPU_PASS = {"evaluation": 2200, "margins": 1700}, 750
TOKEN = 90  # bytes
GPU_PROCESS, UNUSED = 600, 1.06  # MiB of CUDA itself, and what torch's allocator holds for each byte in use
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
    stage, numbers = node.stage, _numbers(results, node) or MOST * parameters(job.expect)
    width = job.expect["heads"] * job.expect["head_dim"]
    passes = GPU_PASS.get(stage, OTHER_GPU_PASS) + TOKEN * width * job.tokens / MIB
    copies = _prefixes(job) if stage == "evaluation" else 0
    return GPU_PROCESS + int(UNUSED * (_weights(job, numbers) + (_caches(job) + copies) / MIB + passes))


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
    """Return the memory of weights, caches and a pass, in MiB, on a processor."""
    return PASS.get(job.node.stage, OTHER_PASS) + int(_weights(job, numbers) + _caches(job) / MIB)


def _weights(job: Job, numbers: float) -> float:
    """Return the MiB of the weights where the model computes."""
    return numbers * BYTES[job.spec["dtype"]] / MIB


def _token(job: Job) -> int:
    """Return the bytes of all keys and values of a token."""
    return int(2 * job.expect["layers"] * job.expect["kv_heads"] * job.expect["head_dim"] * BYTES[job.spec["dtype"]])


def _prompts_together(job: Job) -> int:
    """Return how many prompts decode together in an evaluation."""
    return 1 if "chunk" in job.spec else max(1, min(job.prompts("evaluation"), TOGETHER // job.rows))


def _caches(job: Job) -> float:
    """Return the bytes of all keys and values that a job holds at once."""
    stage, token = job.node.stage, _token(job)
    prompt = float(token * (job.tokens + (job.answer if job.cell else 0)))
    if stage == "dense":  # one is read while others, as many as have room, wait to be answered
        return prompt + min(job.rows * prompt, max(prompt, DENSE_BYTES[job.spec["device"]]))
    if stage == "evaluation":
        return _prefixes(job) + float(_prompts_together(job) * token * job.rows * (QUESTION + job.answer))
    return prompt + (_exact(job) if stage == "margins" else 0)


def _exact(job: Job) -> int:
    """Return the bytes of the float32 keys and values, beside those of half precision, that rows attend to."""
    width = BYTES[job.spec["dtype"]]
    return _token(job) * BYTES["float32"] // width * job.tokens if width < BYTES["float32"] else 0


def _prefixes(job: Job) -> int:
    """Return the bytes of the keys and values of the prompts that decode together in an evaluation."""
    return _prompts_together(job) * (_token(job) * job.tokens + _exact(job))


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
