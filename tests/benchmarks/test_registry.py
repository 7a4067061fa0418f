"""Tasks are found by name, cheaply, and have RULER's parameters."""

import subprocess
import sys

import pytest

from headscope.benchmarks.ruler import module_of, names, task
from headscope.errors import ConfigError

# BENCHMARKS D1.1: haystack, key and value kind, keys / values / queries, tokens to generate.
ROWS = {
    "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
    "niah_single_2_prose": ("essay", "words", "numbers", 1, 1, 1),
    "niah_single_3_prose": ("essay", "words", "uuids", 1, 1, 1),
    "niah_multikey_1_prose": ("essay", "words", "numbers", 4, 1, 1),
    "niah_multikey_2": ("needles", "words", "numbers", 1, 1, 1),
    "niah_multikey_3": ("needles", "uuids", "uuids", 1, 1, 1),
    "niah_multivalue_prose": ("essay", "words", "numbers", 1, 4, 1),
    "niah_multiquery_prose": ("essay", "words", "numbers", 4, 1, 4),
}


def test_needle_tasks_have_the_official_parameters():
    found = {
        name: (t.haystack, t.key_kind, t.value_kind, t.keys, t.values, t.queries)
        for name, t in ((name, task(name)) for name in ROWS)
    }
    assert found == ROWS


def test_every_task_has_the_official_budget_and_metric():
    budget = {"niah": 128, "vt": 30, "fwe": 50}
    assert {*ROWS, "vt", "fwe"} == set(names())
    for name in names():
        assert task(name).max_new_tokens == budget[name.split("_")[0]]
        assert task(name).metric == "string_match_all"


def test_task_is_defined_in_the_module_that_its_name_says():
    assert module_of("niah_single_2_prose") == "headscope.benchmarks.ruler.niah"
    assert type(task("vt")).__module__ == module_of("vt")


def test_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="unknown RULER task 'niah_singel_1'; nearest: 'niah_single_1'"):
        task("niah_singel_1")


def test_naming_the_tasks_imports_no_heavy_library():
    code = (
        "import sys; from headscope.benchmarks.ruler import names; names(); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
