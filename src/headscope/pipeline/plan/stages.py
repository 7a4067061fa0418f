"""The table of stages: what each kind of job reads, writes and needs. Rules, commands and checks take it from here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One kind of job.

    Attributes:
        name: of its module in headscope.pipeline.stages, its rule and its folder of results.
        reads: stages whose results its jobs may read.
        outputs: files that Snakemake looks after; `{figure}` stands for that value of the job's slice.
        message: what its jobs do, for people.
        runtime: longest time of a job, in minutes.
        gpu: a job takes a GPU if its slice says `device: cuda`.
        local: jobs run on the machine that runs Snakemake, which has the internet, and not on a cluster.
        batched: jobs on one model and length, or figures of one set, share a process.
    """

    name: str
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    message: str
    runtime: int
    gpu: bool = False
    local: bool = False
    batched: bool = True

    def files(self, spec: Mapping[str, Any]) -> list[str]:
        """Name the files that Snakemake expects of a job with this slice."""
        return [*(name.format_map(spec) for name in self.outputs), "provenance.json"]


def _row(name: str, reads: str, outputs: str, message: str, runtime: int, **flags: bool) -> Stage:
    return Stage(name, tuple(reads.split()), tuple(outputs.split()), message, runtime, **flags)


_MEASURED = "oracle margins calibration evaluation"
_ALL = f"assets prompts moments dense probes {_MEASURED} figures"

_TABLE = (
    # name, reads, outputs, message, runtime
    _row("assets", "", "manifest.json", "fetch and check", 120, local=True, batched=False),
    _row("prompts", "assets", "dataset/dataset_info.json", "write prompts", 60),
    _row("moments", "assets", "moments.safetensors", "key moments of a text", 60, gpu=True),
    _row("dense", "assets prompts", "answers.parquet", "dense answers", 720, gpu=True),
    _row("probes", "assets prompts dense", "probes.safetensors", "probes", 60, gpu=True),
    _row("oracle", "assets prompts moments dense", "masses.parquet score_quantiles.parquet",
         "exact and estimated masses", 720, gpu=True),
    _row("margins", "assets prompts moments dense probes", "margins.parquet", "margins", 720, gpu=True),
    _row("calibration", "oracle margins", "calibration.json", "calibrate", 120),
    _row("evaluation", "assets prompts moments probes calibration", "rows.parquet seconds.parquet",
         "evaluate", 1440, gpu=True),
    _row("figures", _MEASURED, "{figure}.png {figure}.pdf {figure}.csv", "draw", 60),
    _row("track", _ALL, "tracked.json", "track", 120, local=True, batched=False),
)  # fmt: skip

STAGES = {stage.name: stage for stage in _TABLE}
"""Every stage by its name; stages come after those that they read."""
RESULT_STAGES = tuple(name for name in STAGES if name != "track")
"""Stages that make results: tracking only replays them."""
