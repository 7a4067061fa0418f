"""`headscope benchmark export <folder> [option=value ...]` and `headscope benchmark score <predictions>`.

export writes the prompts of an experiment as one JSON object a line, for any tool; score scores any tool's answers.
"""

import argparse
import csv
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from headscope.errors import AssetError, ConfigError, LengthError
from headscope.pipeline.commands.benchmark_averages import summary
from headscope.pipeline.commands.benchmark_files import FORMAT, FORMAT_FIELD
from headscope.pipeline.commands.benchmark_score import TaskScore, score_files
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.unfinished import unfinished
from headscope.pipeline.scheduler import snakemake
from headscope.pipeline.store.files import atomic_file


def main(arguments: Sequence[str]) -> int:
    """Export prompts or score predictions."""
    parser = argparse.ArgumentParser(prog="headscope benchmark", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    export = actions.add_parser("export", help="write an experiment's prompts as jsonl, loadable by `datasets` too")
    export.add_argument("folder", type=Path, help="folder to make")
    export.add_argument("options", nargs="*", help="the experiment, e.g. experiment=default seed=1")
    score = actions.add_parser("score", help="score a file <task>.jsonl of predictions, or a folder of them")
    score.add_argument("predictions", type=Path)
    score.add_argument("--prompts", type=Path, help="exported folder, for rows that hold no references")
    score.add_argument("--csv", type=Path, help="write the table there too")
    values = parser.parse_args(arguments)
    if values.action == "export":
        return _export(values.folder, values.options)
    return _score(values.predictions, values.prompts, values.csv)


def _export(folder: Path, options: Sequence[str]) -> int:
    from headscope.pipeline.commands.benchmark_export import export

    plan = planning.build(options)
    plan.check()
    if folder.exists():
        raise ConfigError(f"{folder} exists; name a folder that does not")
    reasons = unfinished(plan)
    missing = [node for node in plan.nodes["prompts"].values() if node.address in reasons]
    if missing:
        targets = [plan.files(node)[-1] for node in missing]
        code = subprocess.run(snakemake(options, ["--", *targets]), cwd=plan.root).returncode
        if code:
            return code
    left_out = plan.left_out()
    if len(left_out) == len(plan.nodes["prompts"]):
        raise LengthError(f"nothing to export: {'; '.join(each.reason for each in left_out)}")
    for each in left_out:
        print(f"left out {each.reason}")
    files = export(plan, folder)
    print(f"{len(files)} files under {folder}; in Python: datasets.load_dataset({str(folder)!r}, name)")
    return 0


def _score(predictions: Path, prompts: Path | None, table: Path | None) -> int:
    for path in (predictions, prompts):
        if path is not None and not os.path.exists(path):  # Path.exists raises where a name is too long
            raise AssetError(f"{path} does not exist")
    scores = score_files(predictions, prompts)
    width = max(4, *(len(score.task) for score in scores)) + 2
    columns = f"{'score':>7}{'samples':>9}{'empty':>7}{'failed':>8}{'answered':>16}"
    print(f"{'task':<{width}}{'bucket':<10}{columns}  folder")
    for score in scores:
        answered = f"{score.answered} of {score.prompts or '?'}" if not score.bucket else ""
        counts = f"{score.samples:>9}{score.nulls:>7}{score.failed:>8}{answered:>16}"
        print(f"{score.task:<{width}}{score.bucket:<10}{score.score:>7.2f}{counts}  {score.folder}")
    for line in summary(scores):
        print(line)
    if failed := sum(score.failed for score in scores if not score.bucket):
        print(f"the official metric failed on {failed} answers, which score 0")
    if table is not None:
        with atomic_file(table) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [FORMAT_FIELD, *(field.name for field in fields(TaskScore))])
            writer.writeheader()
            writer.writerows({FORMAT_FIELD: FORMAT, **asdict(score)} for score in scores)
    return 0
