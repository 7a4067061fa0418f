"""The help of `headscope run`: groups with their choices, and every option with unit, range and default."""

from pathlib import Path

from headscope.pipeline.config.options import Option, options
from headscope.pipeline.config.overrides import groups
from headscope.pipeline.config.schema import MISSING


def options_help(root: Path) -> str:
    """Return the text that `headscope run --help` prints."""
    lines = [
        "usage: headscope run [-m] [option=value ...] [-- snakemake options]",
        "",
        "  headscope run experiment=smoke window.recent=64,128    a sweep: one graph, shared results",
        "  headscope run experiment=default -- -c4 -n             what would run",
        "  headscope run experiment=smoke --cfg job               the composed configuration",
        "",
        "Groups (group=choice):",
        *(f"  {name}: {', '.join(choices)}" for name, choices in groups(root).items()),
        "",
        "Options (option=value; a list as [a,b], a sweep as a,b):",
        *(f"  {_line(option)}" for option in options()),
    ]
    return "\n".join(lines)


def _line(option: Option) -> str:
    default = "" if option.default in (MISSING, [], {}) else f"; default {option.default}"
    path = option.path.replace("*", "<name>")
    return f"{path}: {option.metadata['help']} [{option.accepts}{default}]"
