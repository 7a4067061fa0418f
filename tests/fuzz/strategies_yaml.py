"""Files of conf/ and of the cache of compositions, damaged or wrong: a plan, or one line that names file or option."""

import json
import shutil
from pathlib import Path

import hypothesis.strategies as st
from fuzzing import Kind
from strategies_options import FOLDER, ROOT, anything

from headscope.errors import HeadscopeError
from headscope.pipeline.config import compose
from headscope.pipeline.plan import plan

WORDS = ["experiment=smoke", "+outliers@criterion.qada.outliers=recent"]
PROJECT = Path(shutil.copytree(ROOT / "conf", Path(FOLDER.name) / "project/conf")).parent
FILES = [
    "config", "experiment/smoke", "model/tiny", "assets/default", "benchmark/ruler", "window/paper",
    "calibration/paper", "criterion/qada", "criterion/dense", "figure/roc", "tracking/disabled",
    "estimator/gaussian_prompt", "outliers/recent",
]  # fmt: skip
TEXTS = {name: (PROJECT / "conf" / f"{name}.yaml").read_bytes() for name in FILES}

whole = st.sampled_from(
    ["", " ", "5", "[]", "- a", "null", "---\n---", "a: &a [*a]", "a: &a {b: *a}", "{",
     "!!python/object/apply:os.getcwd []",
     "a: !!binary x", "? [a]\n: b", "1: a", "null: a", "true: 1", "name: *none", "%YAML 9.9\n---\na: 1", "a: !x 1",
     "x: &a [1]\nchunk: *a", "<<: {chunk: 7}", "<<: 5", "'': 1", "a.b: 1", "window.recent: 3", "window: {recent: 64}"]
).map(str.encode)  # fmt: skip
defaults = st.sampled_from(
    ["5", "null", "[]", "{a: b}", "[5]", "[null]", "[[a]]", "[nope]", "[a: b]", "[{a: {b: c}}]", "[{}]",
     "[_self_, _self_]",
     "[override /model: 3]", "[override /model: smollm2_135m]", "[override model: tiny]", "[/model: tiny]", "x",
     "[config]",
     "[experiment: smoke]", "[optional a: b]", "[override /nope: a]", "['${oc.env:HOME}']", "[model: '${oc.env:HOME}']",
     "[override /criterion: [dense, dense]]", "[override /criterion: dense]", "[{a: b, c: d}]",
     "[/window@model: paper]",
     "[estimator@_here_: gaussian_prompt]", "[override /model: null]", "[model: [tiny]]", "[override /model@x: tiny]"]
).map("defaults: {}".format)  # fmt: skip
odd_bytes = st.sampled_from(
    [b"\xff", b"\x00", b"\t", b"\xef\xbb\xbf", "é".encode("latin-1"), b"\x1b", b"\r", b"'", b"{", b"*"]
)
values = st.one_of(
    anything,
    st.sampled_from(
        ["1e999", ".nan", ".inf", "2020-01-01", "1:30", "yes", "~", "0o17", "!!str 5", "|", ">-", "&a b", "*a"]
    ),
)
packages = st.sampled_from(["_global_", "_group_", "foo", "model", "_here_", "", "a b", "window.recent"])


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a file of conf/ and its new content."""
    name = draw(st.sampled_from(FILES))
    text = TEXTS[name]
    lines = text.decode().splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    match draw(
        st.sampled_from(["value"] * 4 + ["defaults"] * 2 + ["line", "bytes", "cut", "whole", "package", "encoding"])
    ):
        case "whole":
            return name, draw(whole)
        case "bytes":
            place = draw(st.integers(0, len(text)))
            return name, text[:place] + draw(odd_bytes) + text[place:]
        case "cut":
            return name, text[: draw(st.integers(0, len(text)))]
        case "encoding":
            return name, text.decode().encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig"])))
        case "package":
            return name, f"# @package {draw(packages)}\n".encode() + text
        case "defaults":
            kept = [line for line in lines if not line.startswith(("defaults:", "  - "))]
            return name, "\n".join([draw(defaults), *kept]).encode()
        case "line":
            lines[at : at + 1] = draw(st.sampled_from([[], [lines[at]] * 2, [" " + lines[at]], [draw(anything)]]))
        case _:
            lines[at] = f"{lines[at].split(':')[0]}: {draw(values)}"
    return name, "\n".join(lines).encode("utf-8", "surrogatepass")


def check_file(file: tuple[str, bytes]) -> None:
    """Plan with a file of conf/ as drawn.

    Raises:
        AssertionError: the refusal names neither the file nor an option.
    """
    path = PROJECT / "conf" / f"{file[0]}.yaml"
    path.write_bytes(file[1])
    compose.fingerprint.cache_clear()
    try:
        plan.build(WORDS, PROJECT)
    except HeadscopeError as error:
        named = [file[0], "option", "criterion", "benchmark", "figure"]
        assert any(word in str(error) for word in named), f"no place in: {error}"
        raise
    finally:
        path.write_bytes(TEXTS[file[0]])


compose.fingerprint.cache_clear()
KEYS = [node.key for node in plan.build(WORDS, PROJECT)]
[CACHED] = Path(compose.CACHE).glob("*.json")
CONTENT = CACHED.read_bytes()


def other_values(content: bytes) -> st.SearchStrategy[bytes]:
    """Put another value in the place of one of a JSON file's."""

    def replaced(value: object, place: int, other: object) -> object:
        at = [-1]

        def walk(item: object) -> object:
            at[0] += 1
            if at[0] == place:
                return other
            if isinstance(item, dict):
                return {name: walk(each) for name, each in item.items()}
            return [walk(each) for each in item] if isinstance(item, list) else item

        return walk(value)

    others = st.sampled_from([None, 5, "x", [], {}, True, 1e300, "../x", {"window": 3}])
    return st.builds(
        lambda place, other: json.dumps(replaced(json.loads(content), place, other)).encode(),
        st.integers(0, 200),
        others,
    )


cached = st.one_of(
    st.integers(0, len(CONTENT)).map(lambda end: CONTENT[:end]),
    st.binary(max_size=20),
    st.builds(lambda at, odd: CONTENT[:at] + odd + CONTENT[at + 1 :], st.integers(0, len(CONTENT)), odd_bytes),
    st.sampled_from([b"null", b"{}", b"[]", b"5", b'{"format": 99}', b"[" * 10_000, b'{"config": {}}', b"NaN"]),
    other_values(CONTENT),
)


def check_cached(content: bytes) -> None:
    """Plan with a file of the cache as drawn.

    Raises:
        AssertionError: the plan is another one, or none.
    """
    compose.fingerprint.cache_clear()
    CACHED.write_bytes(content)
    try:
        keys = [node.key for node in plan.build(WORDS, PROJECT)]
    except HeadscopeError as error:
        raise AssertionError(f"a damaged cache refuses a run: {error}") from error
    assert keys == KEYS, "another plan"


KINDS = [
    Kind("yaml", files(), check_file, ci=25, long=1100),
    Kind("cache of compositions", cached, check_cached, ci=10, long=300),
]
