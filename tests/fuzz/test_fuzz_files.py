"""Rows, benchmark files, models, criterion files and chat templates end in a result or in one line."""

import pytest
import strategies_benchmark_files
import strategies_criteria
import strategies_folders
import strategies_gguf
import strategies_rows
import strategies_templates
from fuzzing import Kind, run

MODULES = (
    *(strategies_rows, strategies_benchmark_files, strategies_folders, strategies_gguf, strategies_criteria),
    strategies_templates,
)


@pytest.mark.parametrize("kind", [kind for module in MODULES for kind in module.KINDS], ids=lambda kind: kind.name)
def test_every_file_ends_in_a_result_or_in_one_line(kind: Kind) -> None:
    ends = run(kind, kind.ci)
    assert not ends.faults, str(ends)
    assert ends.counts["results"] and ends.counts["refusals"]
