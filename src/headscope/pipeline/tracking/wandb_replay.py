r"""Replays results into Weights & Biases, in a process of its own, so that nothing it does can harm a job.

    python -m headscope.pipeline.tracking.wandb_replay \
        <report> <experiment> <project> <offline|online> <results> <folders...>

Each run that is complete is a line of JSON in <report>. A run that takes longer than `LIMIT` ends the process.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import wandb

from headscope.pipeline.tracking.record import Record, read_record

INIT_TIMEOUT = float(os.environ.get("WANDB_INIT_TIMEOUT", "10"))  # seconds for the first answer of the server
LIMIT = 120  # seconds for one run; the upload of a few tables takes some


def main(report: Path, experiment: str, project: str, mode: str, results: Path, folders: list[Path]) -> int:
    """Replay folders in turn; return 1 if any failed.

    Offline, the next folder follows a failure. Online, the first failure ends the replay: others would fail as slowly.
    """
    failed = False
    for folder in folders:
        # The default action ends the process even while it waits inside the client.
        signal.alarm(LIMIT)
        try:
            run = replay(read_record(folder), folder, experiment, project, mode, results)
        except Exception as error:  # whatever it is, the caller makes it a warning
            reason = next(iter(str(error).splitlines()), "")
            print(f"{folder.name}: {type(error).__name__}: {reason}", file=sys.stderr)
            failed = True
            if mode == "online":
                break
            continue
        with report.open("a", encoding="utf-8") as lines:
            print(json.dumps({"folder": str(folder), "run": run}), file=lines)
    return int(failed)


def replay(record: Record, folder: Path, experiment: str, project: str, mode: Any, results: Path) -> str:
    """Make one run of one result; return the name of the run's folder under `<results>/wandb`."""
    # Two offline runs of one id would be appended to each other when they are uploaded.
    for old in (results / "wandb").glob(f"*run-*-{record.id}"):
        shutil.rmtree(old)
    run = wandb.init(
        project=project,
        group=experiment,
        job_type=record.stage,
        id=record.id,
        name=record.name,
        config=record.config,
        tags=[tag[:64] for tag in (*record.tags, experiment)],  # longer ones are refused
        dir=results,
        mode=mode,
        settings=_settings(),
    )
    run.log(
        {
            **record.metrics,
            **{name: wandb.Table(dataframe=table) for name, table in record.tables.items()},
            **{name: wandb.Image(str(path)) for name, path in record.pictures.items()},
        }
    )
    run.log_artifact(_artifact(record, folder))
    name = Path(run.dir).parent.name
    run.finish()
    return name


def _settings() -> wandb.Settings:
    """Return settings that record nothing of this machine or process: the run is about a job that ended long ago."""
    return wandb.Settings(
        init_timeout=INIT_TIMEOUT,
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
    )


def _artifact(record: Record, folder: Path) -> wandb.Artifact:
    """Make an artifact that refers to the folder's files by path, with their SHA-256; nothing is copied."""
    artifact = wandb.Artifact(
        f"{record.stage}-{record.name}"[-128:], type=record.stage, metadata={"sha256": record.files}
    )
    for name in record.files:
        artifact.add_reference((folder / name).resolve().as_uri(), name=name, checksum=False)
    return artifact


if __name__ == "__main__":
    report, experiment, project, mode, results, *folders = sys.argv[1:]
    sys.exit(main(Path(report), experiment, project, mode, Path(results), [Path(folder) for folder in folders]))
