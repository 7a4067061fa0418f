"""A file of conf/ that is damaged or wrong is named in one line."""

import shutil
from pathlib import Path

import pytest

from headscope.errors import ConfigError
from headscope.pipeline.config import compose

ROOT = Path(__file__).resolve().parents[2]
WINDOW = "sink: 16\nrecent: 128\n"
WRONG = {
    "latin": (b"# caf\xe9\nsink: 16", "conf/window/paper.yaml is not UTF-8: byte 0xe9 in line 1"),
    "utf-16": (WINDOW.encode("utf-16"), "conf/window/paper.yaml is not UTF-8: byte 0xff in line 1"),
    "zero byte": (b"sink: \x00", "conf/window/paper.yaml is no YAML"),
    "tab": (b"\tsink: 16", "conf/window/paper.yaml is no YAML"),
    "open quote": (b"sink: 'x", "conf/window/paper.yaml is no YAML"),
    "anchor": (b"sink: *a", "conf/window/paper.yaml is no YAML"),
    "loop": (b"sink: &a [*a]", "conf/window/paper.yaml holds an anchor inside itself"),
    "list": (b"- sink", "conf/window/paper.yaml holds ['sink']; it must be a mapping"),
    "number": (b"5", "conf/window/paper.yaml holds 5"),
    "defaults": (b"defaults: 5\nsink: 16", "conf/window/paper.yaml has defaults: 5; it must be a list"),
    "defaults of numbers": (b"defaults: [5]\nsink: 16", "conf/window/paper.yaml has defaults: [5]"),
    "defaults of pairs": (b"defaults: [{a: b, c: d}]", "conf/window/paper.yaml has defaults"),
    "header": (b"# @package a b\nsink: 16", "conf/window/paper.yaml has the header '# @package a b'"),
    "digits": (b"sink: " + b"9" * 5000, "conf/window/paper.yaml is no YAML"),
    "empty": (b"", "option window.recent must be given"),
    "twice": (WINDOW.encode() + b"sink: 3", "found duplicate key sink"),
    "environment": (
        b"sink: ${oc.env:SINK}\nrecent: 128",
        "conf/window/paper.yaml: what '${oc.env:SINK}' reads may differ",
    ),
    "group": (b"sink: ${model}\nrecent: 128", "window.sink"),
    "infinite": (b"sink: .inf\nrecent: 128", "option window.sink"),
}


@pytest.fixture
def root(tmp_path: Path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    compose.fingerprint.cache_clear()
    yield tmp_path
    compose.fingerprint.cache_clear()


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_named_in_one_line(root: Path, case: str) -> None:
    content, words = WRONG[case]
    (root / "conf/window/paper.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        compose.compose(["experiment=smoke"], root)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    (root / "conf/window/broken.yaml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"conf/window/broken\.yaml cannot be read: No such file"):
        compose.compose(["experiment=smoke"], root)


def test_a_configuration_that_does_not_say_when_it_counts_is_refused(root: Path) -> None:
    file = root / "conf/config.yaml"
    file.write_text(file.read_text().replace("  - _self_\n", ""))
    with pytest.raises(ConfigError, match="In 'config': Defaults list is missing `_self_`"):
        compose.compose(["experiment=smoke"], root)
