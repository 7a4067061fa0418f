"""GSM8K-style and MMLU-style many-shot prompts: worked examples fill the context, one more question is asked.

After the two harder benchmarks of arXiv 2502.09647, which publishes no code: the wording here is ours. The part of a
task's name before the first underscore names the module here that defines it.
"""


def module_of(task: str) -> str:
    """Return the module that defines a task."""
    return f"{__name__}.{task.split('_')[0]}"
