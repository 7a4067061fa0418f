"""What the table of `bench/speed.py` says about where adaptive attention begins to pay: prints it as Markdown.

    python bench/break_even.py [results/reference/speed/speed.csv]

`overhead`: microseconds more than dense attention where every pair is long, the price of deciding for nothing.
`break-even`: the least share of local pairs that is as fast as dense attention, on the line between the two measured
sparsities around it. `shortest`: the fewest tokens, of those measured, that are faster than dense at a sparsity.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

AT = 0.75
"""Sparsity of `shortest`."""
Point = tuple[float, float]
"""Sparsity, and the time as a share of dense attention's."""


def break_even(points: Sequence[Point]) -> float | None:
    """Sparsity at which the time is that of dense attention; None: at none of those measured."""
    points = sorted(points)
    if points and points[0][1] <= 1:
        return points[0][0]
    for (low, slow), (high, fast) in pairwise(points):
        if fast <= 1:
            return low + (high - low) * (slow - 1) / (slow - fast)
    return None


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """A line for each kernel, shape, batch, skew and length, and the shortest length that pays."""
    settings: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["summary"] == "gaussian" and row["recent"] == "128":
            settings[tuple(row[name] for name in ("kernel", "shape", "batch", "tokens"))].append(row)
    lines = [
        "| kernel | shape | batch | tokens | overhead, us | break-even, uniform / skewed |",
        "|---|---|---|---|---|---|",
    ]
    for key, found in settings.items():
        dense = [row for row in found if not float(row["sparsity"])]
        shares = [_break_even(dense, found, skew) for skew in ("uniform", "skewed")]
        overhead = " / ".join(f"{1e3 * (float(row['ms']) - float(row['dense_ms'])):.0f}" for row in dense)
        lines.append(f"| {' | '.join(key)} | {overhead} | {' / '.join(shares)} |")
    return [*lines, "", *_shortest(settings)]


def _break_even(dense: list[dict[str, str]], rows: list[dict[str, str]], skew: str) -> str:
    used = dense + [row for row in rows if row["skew"] == skew and row not in dense]
    found = break_even([(float(row["sparsity"]), 1 / float(row["ratio"])) for row in used])
    return "none" if found is None else f"{found:.2f}"


def _shortest(settings: dict[tuple[str, ...], list[dict[str, str]]]) -> list[str]:
    """The fewest tokens that are faster than dense attention at AT, for each kernel, shape and batch."""
    faster: dict[str, list[int]] = defaultdict(list)
    for (kernel, shape, batch, tokens), rows in settings.items():
        at = [float(row["ratio"]) for row in rows if float(row["sparsity"]) == AT and row["skew"] == "uniform"]
        faster[f"{kernel}, {shape}, batch {batch}"] += [int(tokens)] if at and min(at) > 1 else []
    found = {name: f"from {min(tokens)} tokens on" if tokens else "at no length" for name, tokens in faster.items()}
    return [f"- {name}: faster at {AT} local {where}" for name, where in found.items()]


def main() -> None:
    """Read the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path, default=Path("results/reference/speed/speed.csv"))
    with open(parser.parse_args().table, newline="", encoding="utf-8") as file:
        print("\n".join(table(list(csv.DictReader(file)))))


if __name__ == "__main__":
    main()
