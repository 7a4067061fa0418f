"""The long run of the fuzz suite: `python tests/fuzz/long.py --inputs 10000 [--seed 0] [--kinds options ...]`.

It prints a table of Markdown, one line a kind, and each fault with its shortest input; status 1 if there is a fault.
Its output stands in results/reference/faults/fuzz.md.
"""

import argparse
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from fuzzing import run
from kinds import KINDS

PACKAGES = ("hypothesis", "hydra-core", "omegaconf", "pyyaml", "torch", "transformers", "safetensors")


def main() -> int:
    """Check all kinds; print how their inputs ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=[kind.name for kind in KINDS], help="these alone")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if not options.kinds or kind.name in options.kinds]
    whole = sum(kind.long for kind in kinds)
    _say_head(options.seed)
    faults = ""
    for kind in kinds:
        start = time.monotonic()
        ends = run(kind, max(1, round(options.inputs * kind.long / whole)), options.seed)
        counts = [ends.counts[name] for name in ("results", "refusals", "faults")]
        row = [kind.name, sum(counts), *counts, f"{time.monotonic() - start:.0f} s"]
        print(f"| {' | '.join(map(str, row))} |", flush=True)
        faults += f"\n{kind.name}:\n{ends}\n" if ends.faults else ""
    print(faults, end="")
    return int(bool(faults))


def _say_head(seed: int) -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    ).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"`python {shlex.join(sys.argv)}`, seed {seed}, at {commit}, Python {platform.python_version()}, {versions}.")
    print("A fault is a traceback, a refusal of several lines, or a result that is silently wrong.\n")
    print("| kind | inputs | results | refusals | faults | time |\n|---|---|---|---|---|---|", flush=True)


if __name__ == "__main__":
    sys.exit(main())
