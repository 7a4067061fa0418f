"""`headscope docs [--check]`: writes docs/criteria.md and docs/options.md from `conf/` and the schema."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from headscope.errors import ConfigError
from headscope.heads.criteria import mean_decision_bytes
from headscope.heads.reading import pair_bytes
from headscope.pipeline.config.compose import compose, find_root
from headscope.pipeline.config.options import leaves, options
from headscope.pipeline.config.overrides import groups
from headscope.pipeline.config.schema import MISSING, Criterion
from headscope.pipeline.store.files import atomic_file

WINDOW = 16 + 128
COLUMNS = ("kind", "calibrated_on", "estimator", "outliers", "selector")
CRITERIA = """\
<!-- Written by `headscope docs` from conf/criterion, conf/estimator, conf/outliers and conf/selector. Edit those. -->
# Criteria, estimators, outlier rules and selectors

Choose criteria with `criterion=[dense,qada,lost_output]`; [concepts.md](concepts.md) explains the words.
The last columns count what a query reads beyond its window of 16 + 128 keys, in windows: outliers and summaries
of one KV head, for 16-bit models with a head_dim of 64 and 128. The bulk itself is left out: `oracle` and
`oracle_output` read every key in order to decide, `dense` reads every key anyway.
"""
OPTIONS = """\
<!-- Written by `headscope docs` from src/headscope/pipeline/config/schema.py and conf/config.yaml. Edit those. -->
# Options

Every option of `headscope run`, given as `name=value`. `<name>` is the name of a criterion, figure, benchmark or file.
The last column is the value in plain `headscope run`; a dash: nothing, or what the YAML of that name says.
"""


def main(arguments: Sequence[str]) -> int:
    """Write both pages, or with `--check` return 1 if one of them is stale.

    Raises:
        ConfigError: an argument is unknown.
    """
    if list(arguments) not in ([], ["--check"]):
        raise ConfigError(f"headscope docs: unknown {' '.join(arguments)!r}; give --check or nothing")
    root = find_root()
    for name, page in PAGES.items():
        file, text = root / name, page(root)
        if arguments and (not file.is_file() or file.read_text("utf-8") != text):
            print(f"{name} is stale; run `headscope docs`", file=sys.stderr)
            return 1
        if not arguments:
            with atomic_file(file) as path:
                path.write_text(text, encoding="utf-8")
    return 0


def _criteria_page(root: Path) -> str:
    names = groups(root)["criterion"]
    [(_, config)] = compose(["experiment=smoke", "calibration.rule=kv_bytes", f"criterion=[{','.join(names)}]"], root)
    rows = [_criterion_row(root, name, config["criterion"][name]) for name in names]
    text = CRITERIA + _table(["criterion", "what it does", *COLUMNS, "other options", "64", "128"], rows)
    for group, title in (("estimator", "Estimators"), ("outliers", "Outlier rules"), ("selector", "Selectors")):
        settings = {
            file: yaml.safe_load(file.read_text("utf-8")) for file in sorted((root / "conf" / group).glob("*.yaml"))
        }
        rows = [[f"`{file.stem}`", _first_comment(file), _plain(values)] for file, values in settings.items()]
        text += f"\n## {title}\n" + _table([group, "what it does", "settings"], rows)
    return text


def _criterion_row(root: Path, name: str, criterion: Mapping[str, Any]) -> list[str]:
    defaults, columns = vars(Criterion()), [criterion[column] for column in COLUMNS]
    columns[COLUMNS.index("estimator")] = criterion["estimator"] and criterion["estimator"]["name"]
    others = {k: value for k, value in criterion.items() if k not in COLUMNS and value != defaults.get(k)}
    costs = [f"{in_windows(criterion, size):.2f}" for size in (64, 128)]
    comment = _first_comment(root / f"conf/criterion/{name}.yaml")
    return [f"`{name}`", comment, *map(_plain, (*columns, others)), *costs]


def in_windows(criterion: Mapping[str, Any], head_dim: int) -> float:
    """Return the bytes that a decision reads of outliers and summaries over those of a window of WINDOW keys."""
    return mean_decision_bytes(criterion, head_dim) / pair_bytes(WINDOW, head_dim)


def _options_page(root: Path) -> str:
    [(_, config)] = compose([], root)
    values, text = dict(leaves(config)), OPTIONS
    sections: dict[str, list[list[str]]] = {}
    for option in options():
        head, _, tail = option.path.partition(".")
        value = _plain(values.get(option.path, option.default))
        row = [f"`{option.path.replace('*', '<name>')}`", option.metadata["help"], option.accepts, value]
        sections.setdefault(head if tail else "experiment", []).append(row)
    for section, rows in sections.items():
        text += f"\n## {section}\n" + _table(["option", "meaning", "accepts", "value"], rows)
    return text


def _first_comment(file: Path) -> str:
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("# @package")]
    return " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))


def _plain(value: Any) -> str:
    """Write a value as YAML does, on one line; nothing is a dash."""
    if isinstance(value, dict):
        value = [f"{key}: {_plain(item)}" for key, item in value.items() if key not in ("name", "defaults")]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, MISSING) else str(value).lower() if isinstance(value, bool) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table; what Markdown would take for a column or for HTML is escaped."""
    lines = ([cell.replace("|", r"\|") for cell in row] for row in (head, ["---"] * len(head), *rows))
    cells = ([cell if cell.startswith("`") else cell.replace("<", r"\<") for cell in line] for line in lines)
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in cells)


PAGES = {"docs/criteria.md": _criteria_page, "docs/options.md": _options_page}
