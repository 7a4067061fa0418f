"""The house rules: imports point one way, functions and files are short, every folder says what it holds."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))
FOLDERS = sorted({file.parent for file in FILES} - {SOURCE})
LONGEST_FILE, LONGEST_FUNCTION = 300, 60

LIBRARY = ("heads", "kernels", "models", "lab", "inference")  # each may import those before it
MAY_IMPORT = {
    **{room: {"errors", "source", *LIBRARY[: place + 1]} for place, room in enumerate(LIBRARY)},
    "benchmarks": {"errors", "benchmarks"},
    "figures": {"errors", "heads", "figures"},
    "pipeline": {"errors", "source", *LIBRARY, "benchmarks", "figures", "pipeline"},
}
EXCEPTIONS = {"headscope.inference.criterion_file imports headscope"}  # the version, which the file records


def module_of(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def packages_of(module: str) -> set[str]:
    """The packages above a module, whose own files run before it."""
    parts = module.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}


def import_statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements, in functions too, except those that only type checkers see."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        children = node.orelse
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    for child in children:
        yield from import_statements(child)


@cache
def named_by(module: str) -> frozenset[str]:
    """The modules of headscope that a module's import statements name."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for statement in import_statements(ast.parse(file.read_bytes())):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
            continue
        above = package.split(".")[: len(package.split(".")) + 1 - statement.level] if statement.level else []
        base = ".".join([*above, *filter(None, [statement.module])])
        members = {f"{base}.{alias.name}" for alias in statement.names}
        names |= {name if name in MODULES else base for name in members}
    return frozenset(names & MODULES.keys())


@cache
def imported_by(module: str) -> frozenset[str]:
    """The modules that must run before a module: those it names and their packages, but not its own packages."""
    above = {package for name in named_by(module) for package in packages_of(name)}
    return named_by(module) | (above - packages_of(module) - {module})


def reachable(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(imported_by(module))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imported_by(name)
    return seen


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def test_no_module_imports_itself_in_a_circle() -> None:
    assert [module for module in MODULES if module in reachable(module)] == []


def test_every_folder_of_the_package_is_a_known_room() -> None:
    assert {folder.name for folder in FOLDERS if folder.parent.name == "headscope"} == MAY_IMPORT.keys()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    wrong = {
        f"{module} imports {name}"
        for module in MODULES
        if room_of(module) == room
        for name in named_by(module)
        if room_of(name) not in MAY_IMPORT[room]
    }
    assert wrong - EXCEPTIONS == set()


def test_files_are_short() -> None:
    lines = {str(file.relative_to(SOURCE)): len(file.read_text().splitlines()) for file in FILES}
    assert {file: count for file, count in lines.items() if count > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = node.end_lineno - node.lineno + 1
                if count > LONGEST_FUNCTION:
                    long[f"{file.relative_to(SOURCE)}:{node.name}"] = count
    assert long == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(SOURCE)))
def test_a_folder_says_in_one_paragraph_what_it_holds(folder: Path) -> None:
    file = folder / "__init__.py"
    assert file.is_file()
    docstring = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    blocks = [block for block in docstring.split("\n\n") if not block.startswith("Shapes: ")]
    assert len(blocks) in (1, 2)  # a first line and the paragraph, or both in one
    assert len(" ".join(blocks)) >= 60
