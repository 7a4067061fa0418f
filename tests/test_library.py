"""The library as a user of `pip install headscope` meets it: its names, its imports and the examples of the pages."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import pytest

import headscope
from headscope.models.tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).parents[1]
ROOMS = {"errors", "source", "heads", "kernels", "models", "lab", "inference"}
PACKAGES = {"headscope", "torch", "transformers", "tokenizers", "safetensors", "numpy", "yaml"}


def modules_after(code: str) -> set[str]:
    """What Python has imported after running some code."""
    run = f"import sys; {code}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_imports_no_library() -> None:
    assert not {"torch", "transformers", "numpy"} & modules_after("import headscope; dir(headscope)")


def test_the_librarys_names_need_no_package_of_the_workflow() -> None:
    loaded = modules_after("; ".join(["import headscope", *(f"headscope.{name}" for name in headscope.__all__)]))
    own = {name for name in loaded if name.startswith("headscope.")}
    assert "headscope.inference.plain_decode" in own and {name.split(".")[1] for name in own} <= ROOMS
    for name in own:  # transformers itself imports some of these packages where they are installed
        code = ast.parse(Path(find_spec(name).origin).read_text())
        imports = [node.module or "" for node in code.body if isinstance(node, ast.ImportFrom)]
        imports += [alias.name for node in code.body if isinstance(node, ast.Import) for alias in node.names]
        assert {found.split(".")[0] for found in imports} <= PACKAGES | sys.stdlib_module_names, name


def test_unknown_names_are_attribute_errors() -> None:
    assert set(headscope.__all__) <= set(dir(headscope))
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        headscope.unknown  # noqa: B018


@pytest.mark.parametrize("page", ["README.md", "docs/library.md"])
def test_the_examples_of_the_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    [code] = re.findall(r"<!-- library-example -->\n```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    code, hub = re.subn(r'^name = "\S+"', 'name = "model"', code, flags=re.MULTILINE)
    code, long = re.subn(r"\[:6000\]", "[:1200]", code)
    assert (hub, long) == (1, 1)
    sizes = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "hidden": 64, "vocab": 400, "positions": 4096}
    monkeypatch.chdir(tmp_path)
    tiny_llama(**sizes, seed=0).save_pretrained("model")
    tiny_tokenizer([topics["assignment"]], sizes["vocab"]).save_pretrained("model")
    exec(compile(code, page, "exec"), {"__name__": "example"})
    assert Path("lost_output.safetensors").is_file() == (".save(" in code)
    said = dict(re.findall(r"(head|group|queries)=([\d.]+)", capsys.readouterr().out))
    assert 0 < float(said["group"]) < float(said["head"]) < 1 and int(said["queries"]) > 2
