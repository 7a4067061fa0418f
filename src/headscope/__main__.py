"""The command line: `headscope <command or stage>`; `python -m headscope` is the same."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from headscope.errors import ConfigError, HeadscopeError
from headscope.pipeline.lifeline import leave

COMMANDS = {
    "run": "run an experiment to its figures and report",
    "batch": "run the jobs of a file in one process, as the workflow does",
    "warm": "fork the processes of a run's jobs, as headscope run does",
    "check": "compare a model with what headscope takes it for, as a table",
    "plan": "list an experiment's jobs, done and missing",
    "verify": "hash all results again and compare them with their provenance and the plan",
    "diff": "compare two experiments or two result folders",
    "benchmark": "export prompts as jsonl, or score a jsonl of predictions",
    "gc": "list or delete results that no experiment needs",
    "docs": "write docs/criteria.md and docs/options.md from conf/ and the schema",
}

FLAGS = {"plan": (), "verify": ("--delete",), "diff": (), "gc": ("--delete",), "docs": ("--check",)}
"""Commands that take options in Hydra's grammar, and the flags of each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error that a user can act on is one line on stderr and exit code 2.

    The library installs without the packages of the workflow, which most commands need.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except HeadscopeError as error:
        print(f"headscope: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "headscope":
            raise
        print(
            f"headscope: {error.name} is not installed; install the workflow: pip install -e '.[workflow]'",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    command, rest = words[0], words[1:]
    if command == "batch" and (status := _handed_over(words)) is not None:
        return status
    if command in COMMANDS:
        module = import_module(f"headscope.pipeline.commands.{command}")
        if command in FLAGS and {"-h", "--help"} & set(rest):
            print(module.__doc__)
            return 0
        return int(module.main(_checked(command, rest) if command in FLAGS else rest))
    from headscope.pipeline.commands import stage
    from headscope.pipeline.config.options import nearest
    from headscope.pipeline.plan.stages import STAGES

    if command not in STAGES:
        raise ConfigError(f"unknown command {command!r}; did you mean {nearest(command, [*COMMANDS, *STAGES])!r}?")
    return stage.main(command, rest)


def _handed_over(words: list[str]) -> int | None:
    """Let the warm process of a run do it, which has imported what takes seconds; None if there is none."""
    if not (address := os.environ.get("HEADSCOPE_WARM")):
        return None
    from headscope.pipeline.warm.client import hand_over

    return hand_over(address, words)


def _checked(command: str, words: list[str]) -> list[str]:
    """Return a command's words without `-m`: here sweeps need no flag.

    Raises:
        ConfigError: a flag is unknown.
    """
    words = [word for word in words if word not in ("-m", "--multirun")]
    for word in words:
        if word.startswith("-") and word not in FLAGS[command]:
            known = " and ".join(["--help", *FLAGS[command]])
            raise ConfigError(f"unknown option {word} of {command}, which knows {known}")
    return words


def _usage() -> str:
    from headscope.pipeline.plan.stages import STAGES

    commands = [f"  {name:<11} {text}" for name, text in COMMANDS.items()]
    stages = [f"  {name:<11} {stage.message}" for name, stage in STAGES.items()]
    by_hand = "or one stage by hand: headscope <stage> <spec> <out> <parents...>"
    return "\n".join(["usage: headscope <command> [options]", "", *commands, "", by_hand, "", *stages])


if __name__ == "__main__":
    leave(main())
