"""The long run of the fault suite: `python tests/faults/long.py [--faults 200] [--seed 0] [--workers 2] [--stand-ins]`.

It disturbs a small experiment on a random model, recovers by the words of docs/troubleshooting.md, and compares the
final tables with those of an undisturbed run. It prints a table of Markdown and each fault; status 1 if one is not
recovered. Its output stands in results/reference/faults/faults.md.
"""

import argparse
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from random import Random

from kinds import KINDS, Kind
from projects import OPTIONS, Small, recover


def main() -> int:
    """Disturb, recover, compare; print how each kind ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of faults to do again")
    parser.add_argument("--stand-ins", action="store_true", help="stages without a model")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        finished = Small(Path(temporary) / "finished", options.stand_ins)
        again = Small(Path(temporary) / "again", options.stand_ins)
        assert again.tables() == finished.tables(), "two undisturbed runs differ"
        numbers = options.only or range(options.faults)
        with ThreadPoolExecutor(options.workers) as pool:
            ends = list(pool.map(lambda number: one(number, options.seed, options.stand_ins, finished), numbers))
    _say(ends, time.monotonic() - start)
    return int(any(end != "equal" for *_, end in ends))


def one(number: int, seed: int, stand_ins: bool, finished: Small) -> tuple[Kind, str, str]:
    """Do one fault in a copy of a finished project; return its kind, what was done, and the end."""
    kinds = [kind for kind in KINDS if not (kind.cells and stand_ins)]
    kind, random = kinds[number % len(kinds)], Random(f"{seed} {number}")
    done, end = "", ""
    project = Small(finished.root.parent / str(number), stand_ins, finished)
    try:
        done = kind.fault(project, random)
        end = recover(project, kind.recovery, finished.tables())
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    shutil.rmtree(project.root, ignore_errors=True)
    print(f"{number}: {kind.name}: {done}: {end[:1000]}", file=sys.stderr, flush=True)
    return kind, done, end


def _say(ends: list[tuple[Kind, str, str]], seconds: float) -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}" for name in ("snakemake", "torch", "transformers"))
    where = f"Python {platform.python_version()}, {versions}, {seconds:.0f} s"
    print(f"`python {shlex.join(sys.argv)}` at {commit}, {where}\n")
    print(f"The experiment: `headscope run {' '.join(OPTIONS)}`\n")
    print("| kind | recovery | faults | equal |\n|---|---|---|---|")
    for kind in KINDS:
        counts = Counter(end == "equal" for other, _, end in ends if other is kind)
        print(f"| {kind.name} | {kind.recovery} | {counts.total()} | {counts[True]} |")
    equal = sum(end == "equal" for *_, end in ends)
    print(f"| all {len(KINDS)} kinds | | {len(ends)} | {equal} |\n")
    for kind, done, end in ends:
        print(f"- {kind.name}: {done}: {end}")


if __name__ == "__main__":
    sys.exit(main())
