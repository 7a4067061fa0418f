"""Overrides in Hydra's grammar, right and wrong: each ends in a plan in which it has effect, or in one line."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from fuzzing import Kind

import headscope
from headscope.pipeline.config import compose
from headscope.pipeline.config.options import Option, find, options
from headscope.pipeline.config.overrides import groups
from headscope.pipeline.plan import plan

ROOT = Path(headscope.__file__).resolve().parents[2]
FOLDER = tempfile.TemporaryDirectory(prefix="headscope-fuzz-")
compose.CACHE = Path(FOLDER.name)  # an absolute path: the project's own cache stays as it is

GROUPS = groups(ROOT)
NAMES = {"criterion": ["qada", "oracle", "dense"], "benchmark": ["ruler"], "figure": ["roc", "summary"]}
ODD = [
    "",
    "_",
    "..",
    "~",
    "%",
    "é",
    "數",
    "\u202e",
    "\x00",
    "\x1b[0m",
    "\n",
    "\t",
    "a b",
    "'",
    '"',
    "{",
    "]",
    "$",
    "#",
    "\\",
]


def paths(option: Option) -> st.SearchStrategy[str]:
    """Return strategies for the path of an option, its free name mostly one of the experiment's."""
    names = NAMES.get(option.path.split(".")[0], ["squad", "prose"])
    return st.sampled_from([option.path.replace("*", name) for name in [*names, *names, "other"]])


def typos(word: str) -> st.SearchStrategy[str]:
    """Change one place of a word."""
    at = st.integers(0, len(word))
    return st.builds(lambda at, odd: word[:at] + odd + word[at + 1 :], at, st.sampled_from(["", "x", ".", *ODD]))


plain = st.one_of(
    st.sampled_from(
        ["0", "1", "64", "-1", "-0", "0.5", "1.", ".5", "1e3", "1e400", "1_000", "0x10", "007", "nan", "inf"]
    ),
    st.sampled_from(["-inf", "null", "NULL", "true", "False", "on", "???", "a", "a/b", "../a", "a--b", "12345e7"]),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(str),
    st.sampled_from(["9" * 5000, "a" * 300, "a" * 70_000, "[" * 200, "{a:" * 50]),
    st.sampled_from(ODD),
    st.text(max_size=8),
)
quoted = st.builds("{0}{1}{0}".format, st.sampled_from(["'", '"']), plain)
interpolations = st.sampled_from(
    ["${name}", "${model}", "${model.source}", "${seed}", "${none}", "${oc.env:HOME}", "${oc.env:NO_SUCH}", "${now:%Y}",
     "${", "${}", "${name", "a${name}b", "${oc.create:{}}", "${hydra:runtime.cwd}", "${results}", "${.type}",
     "${oc.decode:'1'}", "${${name}}", "\\${name}", "${criterion}", "${calibration.targets}", "${points}"]
)  # fmt: skip
atoms = st.one_of(plain, quoted, interpolations)
lists = st.lists(atoms, max_size=3).map(lambda items: f"[{','.join(items)}]")
mappings = st.dictionaries(
    st.sampled_from(["a", "type", "kind", "tasks", "1", "''"]), st.one_of(atoms, lists), max_size=2
)
dicts = mappings.map(lambda items: "{" + ",".join(f"{key}:{value}" for key, value in items.items()) + "}")
few = st.lists(atoms, min_size=1, max_size=3).map(",".join)
calls = st.builds(
    "{}({})".format,
    st.sampled_from(
        ["choice", "sort", "shuffle", "glob", "tag", "int", "float", "str", "bool", "json_str", "extend_list"]
    ),
    st.one_of(few, lists, st.sampled_from(["", "*", "a,choice(1,2)", "3,1,reverse=true", "[1,2],[3]", "1,2,key=3"])),
)
ends = st.sampled_from(["0", "1", "3", "-1", "0.5", "5", "a", "nan", "inf"])
ranges = st.builds("{}({})".format, st.sampled_from(["range", "interval"]), st.lists(ends, max_size=4).map(",".join))
anything = st.one_of(atoms, lists, dicts, few, calls, ranges, typos("choice(range(0,3))"))


def right(option: Option) -> st.SearchStrategy[str]:
    """Return values that an option takes, alone, in a list or as a sweep."""
    low, high, choices = (option.metadata[name] for name in ("low", "high", "choices"))
    if choices:
        one = st.sampled_from(choices)
    elif option.kind is int:
        one = st.integers(int(low or 0), int(min(high or 2**20, 2**20))).map(str)
    elif option.kind is float:
        one = st.floats(low, high or 100.0).map(str)
    else:
        one = st.sampled_from(["true", "false"] if option.kind is bool else ["vt", "fwe", "mine", "a_b", "results/b"])
    many = st.lists(one, min_size=1, max_size=2).map(lambda items: f"[{','.join(items)}]")
    return st.one_of(
        many if option.many else one, st.lists(many if option.many else one, min_size=1, max_size=2).map(",".join)
    )


@st.composite
def overrides(draw: st.DrawFn) -> str:
    """Draw one override: an option or a group, mostly spelt right, with a value that mostly fits it."""
    mostly = draw(st.sampled_from([True, True, False]))
    prefix = (
        draw(st.sampled_from([*[""] * 9, "+", "++", "~"])) if mostly else draw(st.sampled_from(["", "~", "+++", " "]))
    )
    match draw(st.sampled_from(["option"] * 6 + ["group"] * 3 + ["head", "typo", "text"])):
        case "option":
            option = draw(st.sampled_from(options()))
            key, value = draw(paths(option)), draw(right(option) if mostly else anything)
        case "group":
            key = draw(st.sampled_from(list(GROUPS)))
            choice = st.sampled_from(GROUPS[key])
            choices = st.one_of(choice, choice.map("[{}]".format), choice.flatmap(typos))
            value = draw(choices if mostly else anything)
            places = ["", "", "", "@", "@_global_", "@model", f"@criterion.qada.{key}", f"@:{key}"]
            key += draw(st.sampled_from(places))
        case "head":
            key = draw(paths(draw(st.sampled_from(options())))).rpartition(".")[0]
            value = draw(dicts if mostly else anything)
        case "typo":
            key, value = draw(paths(draw(st.sampled_from(options()))).flatmap(typos)), draw(anything)
        case _:
            key = draw(st.one_of(st.text(max_size=10), st.sampled_from(["hydra.run.dir", "a.b.c"])))
            value = draw(anything)
    return prefix + key + ("=" if mostly else draw(st.sampled_from(["=", "=", "=", "", " = ", "=="]))) + value


def check(words: list[str]) -> None:
    """Plan an experiment with overrides; each must have effect.

    Raises:
        AssertionError: an override was accepted and has none.
    """
    planned = plan.build(["experiment=smoke", *words], ROOT)
    planned.check()
    points = planned.points
    assert points and all(point.figures for point in points), "a plan without jobs"
    for path, option, values in settings(words):
        for point in points:
            actual: Any = point.config
            for name in path.split("."):
                actual = actual[name] if isinstance(actual, dict) else getattr(actual, name)
            assert any(same(option, value, actual) for value in values), f"{path} has no effect: {actual!r}"


def settings(words: list[str]) -> Iterator[tuple[str, Option, list[str]]]:
    """Yield the options that overrides set, the last of each, and the texts of the values; null may mean a default."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    last = {each.key_or_group: each for each in OverridesParser.create().parse_overrides(words)}
    for path, override in last.items():
        option = find(path)
        if option and option.kind is not dict and path != "seed" and not override.is_delete():
            values = [*override.sweep_iterator()] if override.is_sweep_override() else [override.value()]
            texts = [override.input_line.partition("=")[2]] if option.kind is str else values
            known = [value for value in texts if value is not None and "${" not in str(value)]
            if len(known) == len(values) == len(texts):
                yield path, option, known


def same(option: Option, value: Any, actual: Any) -> bool:
    """Return True if an option has a value that was written."""
    if option.many:
        return len(value) == len(actual) if isinstance(value, list) else str(value).count(",") + 1 == len(actual)
    if option.kind is str:
        return str(value).strip().strip("'\"") == actual or "\\" in str(value) or "(" in str(value)
    if option.kind is bool:
        return (str(value).lower() in ("true", "yes", "on", "y", "1")) == actual
    return str(value).lower() == str(actual).lower() or float(value) == float(actual)


KINDS = [Kind("options", st.lists(overrides(), min_size=1, max_size=2), check, ci=115, long=4600)]
