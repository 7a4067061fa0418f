"""Tasks are found by name, cheaply, and have RULER's parameters."""

import subprocess
import sys
from math import pi

import pytest

from headscope.benchmarks.registry import find, module_of, names
from headscope.benchmarks.ruler.cwe import ANSWERS
from headscope.errors import ConfigError

# BENCHMARKS D1.1: haystack, key and value kind, keys / values / queries, tokens to generate.
ROWS = {
    "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
    "niah_single_2": ("essay", "words", "numbers", 1, 1, 1),
    "niah_single_3": ("essay", "words", "uuids", 1, 1, 1),
    "niah_multikey_1": ("essay", "words", "numbers", 4, 1, 1),
    "niah_multikey_2": ("needles", "words", "numbers", 1, 1, 1),
    "niah_multikey_3": ("needles", "uuids", "uuids", 1, 1, 1),
    "niah_multivalue": ("essay", "words", "numbers", 1, 4, 1),
    "niah_multiquery": ("essay", "words", "numbers", 4, 1, 4),
}


def test_needle_tasks_have_the_official_parameters():
    parameters = {
        name: (t.haystack, t.key_kind, t.value_kind, t.keys, t.values, t.queries)
        for name, t in ((name, find("ruler", name)) for name in ROWS)
    }
    assert parameters == ROWS


def test_other_tasks_have_the_official_parameters():
    assert find("ruler", "vt").variables == 5  # one chain of four hops
    cwe = find("ruler", "cwe")
    assert (cwe.repeats.common, cwe.repeats.other, ANSWERS) == (30, 3, 10)
    assert find("ruler", "fwe").counts(1000)[:3] == [int(1000 * rank**-2.0 * 6 / pi**2) for rank in (1, 2, 3)]
    assert [find("ruler", name).file for name in ("qa_1", "qa_2")] == ["squad", "hotpotqa"]


def test_the_thirteen_tasks_are_there_and_every_task_has_the_official_budget_and_metric():
    budget = {"niah": 128, "vt": 30, "fwe": 50, "cwe": 120, "qa": 32}
    official = {*ROWS, "vt", "cwe", "fwe", "qa_1", "qa_2"}
    assert len(official) == 13
    assert {*official, "qa_generated"} == {name.removesuffix("_prose") for name in names("ruler")}
    for name in names("ruler"):
        group = name.split("_")[0]
        assert find("ruler", name).max_new_tokens == budget[group]
        assert find("ruler", name).metric == ("string_match_part" if group == "qa" else "string_match_all")


def test_task_is_defined_in_the_module_that_its_name_says():
    assert module_of("ruler", "niah_single_2_prose") == "headscope.benchmarks.ruler.niah"
    assert type(find("ruler", "vt")).__module__ == module_of("ruler", "vt")


def test_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="unknown ruler task 'niah_singel_1'; nearest: 'niah_single_1'"):
        find("ruler", "niah_singel_1")


def test_naming_the_tasks_imports_no_heavy_library():
    code = (
        "import sys; from headscope.benchmarks.registry import names; names('ruler'); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
