"""Samples a second of every RULER task and, where a checkout of NVIDIA/RULER is given, of its own generator.

Same run, same tokenizer, length and number of samples, no chat template:

    python bench/ruler.py [--samples 500] [--files <folder>] [--official <checkout> --official-python <interpreter>]

Ours is timed in this process, with its search for a size and its reading of files. The official script is a process of
its own for each task: a run of one sample (start-up, files, search) is reported apart and subtracted, which leaves out
the official search but not ours. A task is skipped, by name, where a file that it needs is not there.
"""

import argparse
import json
import re
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from common import default_asset, environment
from headscope.benchmarks.prose import packaged_prose
from headscope.benchmarks.registry import find, names
from headscope.benchmarks.row import Request
from headscope.benchmarks.sampling import Sampler
from headscope.errors import HeadscopeError
from headscope.models.folder import read_tokenizer

SEED = 42

# What the official scripts read besides word lists; one that a plain clone has as a Git LFS pointer is not there.
OFFICIAL_FILES = {
    "essay": "PaulGrahamEssays.json",
    "squad": "squad.json",
    "hotpotqa": "hotpotqa.json",
    "common_words_extraction": "english_words.json",
}
POINTER = 1024  # bytes at most


def benchmark_files(folder: Path | None, scratch: Path) -> dict[str, Path]:
    """What tasks may read, by name: the packaged prose, and the files of `folder` in its place or beside it."""
    (scratch / "prose").write_text(packaged_prose(), encoding="utf-8")
    paths = [scratch / "prose", *(folder.iterdir() if folder else [])]
    return {path.stem: path for path in paths if path.is_file()}


def ours(options: argparse.Namespace, name: str, tokenizer: Any, files: dict[str, Path]) -> tuple[float, float]:
    """Seconds for all samples of a task, and their mean share of the length."""
    start = time.perf_counter()
    request = Request(name, options.length, SEED, {}, chat_template=False, tokenizer=tokenizer, files=files)
    sampler = Sampler(find("ruler", name), request)
    lengths = [row.length for row in sampler.rows("evaluation", options.samples)]
    return time.perf_counter() - start, mean(lengths) / options.length


def official_command(options: argparse.Namespace, name: str, samples: int) -> list[str]:
    """The call that RULER's prepare.py makes for a base model; empty if there is no such task or a file is missing."""
    scripts = options.official / "scripts"
    config = yaml.safe_load((scripts / "synthetic.yaml").read_text(encoding="utf-8")).get(name)
    if not config:
        return []
    kind, folder = config["task"], scripts / "data/synthetic"
    needed = [
        folder / "json" / OFFICIAL_FILES[key] for key in (kind, *config["args"].values()) if key in OFFICIAL_FILES
    ]
    if any(not file.is_file() or file.stat().st_size <= POINTER for file in needed):
        return []
    constants = runpy.run_path(str(folder / "constants.py"))["TASKS"][kind]
    arguments = {
        **{"save_dir": options.scratch, "save_name": name, "subset": "validation", "random_seed": SEED},
        **{"tokenizer_path": options.model, "tokenizer_type": "hf"},
        **{"max_seq_length": options.length, "num_samples": samples},
        "tokens_to_generate": constants["tokens_to_generate"],
        "template": constants["template"] + constants["answer_prefix"],
        **config["args"],
    }
    flags = (text for key, value in arguments.items() for text in (f"--{key}", str(value)))
    return [options.official_python, str(folder / f"{kind}.py"), *flags]


def official(options: argparse.Namespace, name: str, samples: int) -> tuple[float, float]:
    """Wall time of the script for some samples, start-up included, and their mean share of the length."""
    start = time.perf_counter()
    done = subprocess.run(official_command(options, name, samples), capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        error = re.split(r"\n(?=\S*Error)", done.stderr)[-1]
        raise ChildProcessError(" ".join(error.replace("*", "").split())[:160])
    lines = (options.scratch / name / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    return seconds, mean(json.loads(line)["length"] for line in lines) / options.length


def beside(options: argparse.Namespace, name: str, seconds: float) -> str:
    """The official generator's figures for a task and their ratio to our seconds, or why there are none."""
    if not official_command(options, name, 1):
        return "official: skipped, no such task or no data file for it"
    try:
        start_up, _ = official(options, name, 1)
        total, fill = official(options, name, options.samples)
    except ChildProcessError as error:
        return f"official: failed, {error}"
    rest = (total - start_up) * options.samples / (options.samples - 1)
    if rest <= 0:
        return f"official: {total:.1f} s, one sample {start_up:.1f} s: too few samples to tell from its start-up"
    return (
        f"official: {total:.1f} s, {start_up:.1f} s of it to start, then {options.samples / rest:.1f} samples/s, "
        f"fill {fill:.1%}; official / ours without its start: {rest / seconds:.2f}x"
    )


def report(options: argparse.Namespace, name: str, tokenizer: Any, files: dict[str, Path]) -> str:
    """One task's line."""
    if absent := sorted(set(find("ruler", name).needs(options.length)) - set(files)):
        return f"{name}: skipped, --files has no {', '.join(absent)}"
    try:
        seconds, fill = ours(options, name, tokenizer, files)
    except HeadscopeError as error:
        return f"{name}: skipped, {error}"
    line = f"{name}: {options.samples / seconds:.1f} samples/s, {seconds:.1f} s, fill {fill:.1%}"
    return f"{line}; {beside(options, name, seconds)}" if options.official else line


def main() -> None:
    """Print one line for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asset", type=Path, help="model folder under results/assets, for its tokenizer")
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=500, help="two or more")
    parser.add_argument("--tasks", nargs="+", default=names("ruler"))
    parser.add_argument("--files", type=Path, help="folder of essays, squad, hotpotqa and english_words")
    parser.add_argument("--official", type=Path, help="checkout of NVIDIA/RULER")
    parser.add_argument("--official-python", default=sys.executable, help="has what RULER imports")
    options = parser.parse_args()
    asset = options.asset or default_asset()
    options.model = asset / json.loads((asset / "manifest.json").read_text(encoding="utf-8"))["model"]
    tokenizer = read_tokenizer(options.model)
    print(f"{environment()}\n{options.samples} samples of {options.length} tokens, tokenizer of {asset.name}")
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        files = benchmark_files(options.files, options.scratch)
        for name in options.tasks:
            print(report(options, name, tokenizer, files), flush=True)


if __name__ == "__main__":
    main()
