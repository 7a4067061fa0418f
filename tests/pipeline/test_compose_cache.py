"""Compositions are kept on disk; what must renew them does, and what is read from the cache is checked again."""

import json
import shutil
from pathlib import Path

import pytest

from headscope.errors import ConfigError
from headscope.heads import registry
from headscope.heads.registry import KindOption
from headscope.pipeline.config import calibration_checks, checks, compose, criterion_checks, kind_options
from headscope.pipeline.config.composition import composed
from headscope.pipeline.config.options import options

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ["experiment=smoke"]


class Composes(Exception):
    """Stands for a composition by Hydra."""


def composes(*_: object) -> None:
    raise Composes


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A project folder with a composed and cached smoke experiment; composing once more fails the test."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    compose.fingerprint.cache_clear()
    monkeypatch.setattr(compose, "CACHE", Path("cache/compose"))  # below the folder, wherever other tests put theirs
    compose.compose(SMOKE, tmp_path)
    monkeypatch.setattr(compose, "composed", composes)
    yield tmp_path
    compose.fingerprint.cache_clear()


def composed_again(root: Path) -> bool:
    """Return True if another process would compose the smoke experiment anew."""
    compose.fingerprint.cache_clear()
    try:
        compose.compose(SMOKE, root)
    except Composes:
        return True
    return False


def test_nothing_new_renews_nothing(root: Path) -> None:
    assert not composed_again(root)


@pytest.mark.parametrize("file", ["window/paper.yaml", "criterion/static.yaml"])
def test_a_yaml_renews_what_is_composed_of_it(root: Path, file: str) -> None:
    path = root / "conf" / file
    path.write_text(path.read_text() + "# more\n")
    assert composed_again(root)


def test_a_new_yaml_renews(root: Path) -> None:
    shutil.copy2(root / "conf/criterion/qada.yaml", root / "conf/criterion/another.yaml")
    assert composed_again(root)


@pytest.mark.parametrize(
    "name", ["schema.py", "options.py", "overrides.py", "override_checks.py", "composition.py", "yaml_files.py"]
)
def test_code_that_composes_renews(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    [file] = [file for file in compose.COMPOSED_BY if file.name == name]
    edited = root / name
    edited.write_text(file.read_text() + "ADDED = 1\n")
    files = tuple(edited if file.name == name else file for file in compose.COMPOSED_BY)
    monkeypatch.setattr(compose, "COMPOSED_BY", files)
    assert composed_again(root)


def test_an_option_that_an_estimator_declares_renews(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {**kind_options.declared("estimators"), "width": {"clusters": KindOption("int", "new")}}
    monkeypatch.setattr(compose, "declared", lambda family: more if family == "estimators" else {})
    assert composed_again(root)


def test_another_hydra_renews(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "version", lambda name: "9.9")
    assert composed_again(root)


def refused(*_: object) -> None:
    raise ConfigError("refused")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (checks, "check_criteria"),
        (checks, "check_calibration"),
        (calibration_checks, "unique"),
        (criterion_checks, "known_kind"),
        (criterion_checks, "_check_options"),
    ],
)
def test_a_change_of_the_checks_and_of_the_names_holds_for_a_cached_composition(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    monkeypatch.setattr(module, name, refused)
    with pytest.raises(ConfigError, match="refused"):
        compose.compose(SMOKE, root)


def test_a_narrower_range_of_an_option_holds_for_a_cached_composition(root: Path) -> None:
    option = next(option for option in options() if option.path == "window.recent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(option.__dict__, "metadata", {**option.metadata, "low": 999})
        with pytest.raises(ConfigError, match="the nearest is 999"):
            compose.compose(SMOKE, root)


def test_a_default_that_a_kind_declares_is_given_to_a_cached_composition(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [file] = (root / compose.CACHE).glob("*.json")
    assert json.loads(file.read_text())["config"]["criterion"]["qada"]["estimator"]["clusters"] is None
    [(_, config)] = compose.compose(SMOKE, root)
    assert config["criterion"]["qada"]["estimator"] == registry.completed(
        {"name": "gaussian_prompt", "kind": "gaussian", "covariance": "full", "moments": "prompt"}
    )


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '{"config": {}}', "[" * 100_000, "\x00", "\udc80"])
def test_a_damaged_file_of_the_cache_is_composed_again(root: Path, content: str) -> None:
    [file] = (root / compose.CACHE).glob("*.json")
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert composed_again(root)


def test_a_value_that_was_changed_in_the_cache_is_composed_again(root: Path) -> None:
    [file] = (root / compose.CACHE).glob("*.json")
    file.write_text(file.read_text().replace('"recent": 128', '"recent": 129'))
    assert composed_again(root)


def test_a_file_of_another_composition_is_composed_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [file] = (root / compose.CACHE).glob("*.json")
    monkeypatch.setattr(compose, "composed", composed)
    compose.compose([*SMOKE, "seed=1"], root)
    [other] = set((root / compose.CACHE).glob("*.json")) - {file}
    shutil.copy2(other, file)
    monkeypatch.setattr(compose, "composed", composes)
    assert composed_again(root)


def test_a_cache_that_cannot_be_written_costs_time_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "composed", composed)
    expected = compose.compose(SMOKE, root)
    shutil.rmtree(root / compose.CACHE)
    (root / compose.CACHE).write_text("a file")
    assert compose.compose(SMOKE, root) == expected


def test_nothing_that_reads_the_environment_is_served_from_the_cache(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "composed", composed)
    for seed in "12":
        monkeypatch.setenv("SEED", seed)
        with pytest.raises(ConfigError, match="may differ between a plan and its jobs"):
            compose.compose([*SMOKE, "seed=${oc.env:SEED}"], root)
