"""Averages of benchmarks: each by its own rule, and only over tasks whose prompts are all answered once."""

from collections.abc import Iterator, Sequence
from importlib import import_module

from headscope.errors import ConfigError
from headscope.pipeline.commands.benchmark_score import TaskScore


def summary(scores: Sequence[TaskScore]) -> Iterator[str]:
    """Yield for each folder and benchmark its double answers, how many prompts are answered, and its own average."""
    groups: dict[tuple[str, str], list[TaskScore]] = {}
    for score in scores:
        if not score.bucket:
            groups.setdefault((score.folder, score.kind), []).append(score)
    for (folder, kind), tasks in groups.items():
        for line in (*_doubles(tasks), f"{kind}: {_answered(tasks)}", *_average(kind, tasks)):
            yield f"{folder}: {line}" if folder else line


def _doubles(tasks: Sequence[TaskScore]) -> Iterator[str]:
    for task in tasks:
        if task.double:
            more = f"{task.samples - task.answered} of {task.samples} answers"
            yield f"{task.task}: double: {more} are to prompts that have one already, the first in {task.double}"


def _answered(tasks: Sequence[TaskScore]) -> str:
    answered, prompts = sum(task.answered for task in tasks), [task.prompts for task in tasks]
    known = [number for number in prompts if number is not None]
    if len(known) < len(tasks):
        return f"{answered} prompts answered; --prompts FOLDER tells of how many"
    return f"{answered} of {sum(known)} prompts answered"


def _average(kind: str, tasks: Sequence[TaskScore]) -> Iterator[str]:
    """Yield the benchmark's average or why there is none; nothing where no task counts in it."""
    overall = import_module(f"headscope.benchmarks.{kind}.overall")
    tasks = [task for task in tasks if task.task in overall.TASKS_OF_MEAN]
    uncounted = {task.answered for task in tasks if task.prompts is None}
    if not tasks:
        return
    if incomplete := [task.task for task in tasks if not task.complete]:
        yield f"{overall.NAME}: not given, for answers are missing or double in {', '.join(incomplete)}"
    elif len(uncounted) > 1:
        numbers = f"{min(uncounted)} to {max(uncounted)}"
        yield f"{overall.NAME}: not given, for its tasks have {numbers} answers each, so that some may be missing"
    else:
        try:
            name, value = overall.average({task.task: task.score for task in tasks})
            yield f"{name}: {value:.2f}"
        except ConfigError as error:
            yield str(error)
