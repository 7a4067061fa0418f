"""pyproject.toml, constraints.txt, environment.yml, README.md and .ci/run say the same."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
UNPINNED = {"headscope", "pip", "triton"}  # itself, the tool that reads the constraints, and what torch pins


def requirements(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


DIRECT = requirements([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])
CONSTRAINTS = requirements((ROOT / "constraints.txt").read_text().splitlines())
PINS = {canonicalize_name(pin.name): pin for pin in CONSTRAINTS}
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
PIP = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))


def readme_command(name: str) -> str:
    """The code block behind a marker of the README."""
    found = re.search(rf"<!-- {name} -->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, f"README.md has no <!-- {name} -->"
    return found[1].strip()


@pytest.mark.parametrize("requirement", [r for r in DIRECT if r.name not in UNPINNED], ids=lambda r: r.name)
def test_every_direct_dependency_has_an_admissible_tested_version(requirement: Requirement) -> None:
    (pin,) = PINS[canonicalize_name(requirement.name)].specifier
    assert pin.operator == "=="
    assert requirement.specifier.contains(pin.version)


def test_constraints_are_exact_and_name_no_package_twice() -> None:
    assert len(PINS) == len(CONSTRAINTS)
    assert all([pin.operator for pin in requirement.specifier] == ["=="] for requirement in CONSTRAINTS)


def test_constraints_fit_any_build_of_torch_on_any_machine() -> None:
    assert not any(requirement.url for requirement in CONSTRAINTS)
    assert not any(pin.version.find("+") >= 0 for requirement in CONSTRAINTS for pin in requirement.specifier)
    assert not any(re.match(r"nvidia-|cuda-|triton", name) for name in PINS)


def test_the_library_needs_no_workflow_package() -> None:
    core = {requirement.name for requirement in requirements(PROJECT["dependencies"])}
    assert core == {"torch", "transformers", "tokenizers", "safetensors", "numpy", "pyyaml"}


def test_every_import_is_declared() -> None:
    known = {name: {canonicalize_name(d) for d in found} for name, found in packages_distributions().items()}
    declared = {canonicalize_name(requirement.name) for requirement in DIRECT}
    declared |= {"headscope", "packaging"}  # packaging: pytest's own requirement
    own = {path.stem for folder in ("tests", "bench") for path in (ROOT / folder).rglob("*.py")}
    for folder in ("src", "tests", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            for module in top_level_imports(path) - set(sys.stdlib_module_names) - own:
                assert known.get(module, set()) & declared, f"{path} imports {module}, which pyproject.toml lacks"


def top_level_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_conda_environment_has_an_admissible_python_and_pip() -> None:
    assert all(re.fullmatch(r"[a-z0-9_.-]+(=[0-9][0-9a-z.*]*)?", spec) for spec in CONDA)
    python = dict(spec.split("=") for spec in CONDA if "=" in spec)["python"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert "pip" in CONDA
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]


def test_the_conda_environment_installs_this_package_with_its_constraints() -> None:
    assert PIP[0] == "-c constraints.txt"
    found = re.fullmatch(r"-e \.\[([\w,]+)\]", PIP[1])
    assert found and set(found[1].split(",")) <= set(EXTRAS)


def test_the_conda_environment_names_no_package_twice() -> None:
    names = [spec.split("=")[0] for spec in CONDA]
    from_pip = {canonicalize_name(requirement.name) for requirement in DIRECT} - {"pip"}
    assert len(names) == len(set(names)) and not set(names) & from_pip


def test_the_readme_installs_known_extras_with_the_constraints() -> None:
    for name in ("run-command", "test-command"):
        found = re.search(r'pip install -c constraints\.txt -e "\.\[(\w+)\]"', readme_command(name))
        assert found and found[1] in EXTRAS


def test_ci_runs_exactly_the_readmes_test_command(tmp_path: Path) -> None:
    for file in (".ci/run", "README.md"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text())
    stub = tmp_path / "bin" / "bash"  # takes the place of the shell that runs the command
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\nprintf "%s" "$4" > command; exit 3\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["/bin/bash", tmp_path / ".ci" / "run"], env=environment, cwd="/", capture_output=True)
    assert done.returncode == 3
    assert (tmp_path / "command").read_text() == readme_command("test-command")


def test_ci_fails_where_the_readme_has_no_test_command(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text())
    (tmp_path / "README.md").write_text("nothing here\n")
    done = subprocess.run(["bash", tmp_path / ".ci" / "run"], capture_output=True, text=True)
    assert done.returncode == 1 and "test-command" in done.stderr


def test_the_slurm_profile_differs_from_the_default_one_only_in_where_jobs_run() -> None:
    default, slurm = (
        yaml.safe_load((ROOT / f"workflow/profiles/{name}/config.yaml").read_text()) for name in ("default", "slurm")
    )
    assert slurm.pop("executor") == "slurm" and default.pop("resources") == ["gpu=4"]
    where = {"cores", "jobs", "latency-wait", "slurm-status-command", "slurm-init-seconds-before-status-checks"}
    assert {k: v for k, v in slurm.items() if k not in where} == {k: v for k, v in default.items() if k not in where}


def test_the_licence_is_apache_2_and_the_notice_ships() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_a_wheel_holds_the_criteria_that_the_library_reads(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    for name in ("pyproject.toml", "README.md", *PROJECT["license-files"]):
        shutil.copy2(ROOT / name, tmp_path)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    [wheel] = (tmp_path / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as file:
        held = {name.removeprefix("headscope/") for name in file.namelist() if name.endswith(".yaml")}
    groups = ("criterion", "estimator", "outliers", "selector")
    assert held == {str(path.relative_to(ROOT)) for group in groups for path in (ROOT / "conf" / group).glob("*.yaml")}
