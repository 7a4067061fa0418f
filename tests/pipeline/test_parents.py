import pytest
import yaml

from headscope.errors import AssetError, ConfigError
from headscope.pipeline.store.parents import Parents


def node(root, stage, name, **spec):
    folder = root / stage / f"{name}--0123456789"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return folder


def test_parents_are_found_by_stage_and_spec(tmp_path):
    model = node(tmp_path, "assets", "tiny", kind="model")
    text = node(tmp_path, "assets", "prose", kind="text")
    tables = [node(tmp_path, "oracle", task, task=task) for task in ("vt", "fwe")]
    parents = Parents([model, text, *tables])
    assert parents.one("assets", kind="model").folder == model
    assert [parent.folder for parent in parents.all("oracle")] == tables
    assert parents.one("oracle", task="fwe").spec == {"task": "fwe"}


def test_none_or_several_parents_are_refused(tmp_path):
    parents = Parents([node(tmp_path, "oracle", task, task=task) for task in ("vt", "fwe")])
    with pytest.raises(ConfigError, match="found 2"):
        parents.one("oracle")
    with pytest.raises(ConfigError, match="task='cwe'"):
        parents.one("oracle", task="cwe")


def test_an_unfinished_folder_is_named(tmp_path):
    folder = tmp_path / "oracle" / "vt--0123456789"
    folder.mkdir(parents=True)
    with pytest.raises(AssetError, match=r"vt--0123456789.*spec\.yaml"):
        Parents([folder]).one("oracle", task="vt")
