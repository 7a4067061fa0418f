"""Digest of the code that makes a result: its syntax trees, so comments, docstrings and layout do not count.

Import statements are read and nothing is imported, so a plan takes milliseconds and needs no torch.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from headscope.errors import ConfigError
from headscope.source import ROOT, source_file, source_path

# Their text reaches a terminal and no result: a better message renews nothing.
IGNORED = frozenset({ROOT, "headscope.errors", "headscope.pipeline.progress"})
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def code_digest(*modules: str) -> str:
    """Digest the syntax trees of `modules` and of all that they import of `headscope` or of their own package.

    Raises:
        ConfigError: a module has no source file.
    """
    trees = [[name, _read(name)[0]] for name in sorted(closure(*modules))]
    return hashlib.sha256(repr(trees).encode()).hexdigest()[:10]


def closure(*modules: str) -> set[str]:
    """Return `modules`, all that they import of `headscope` or of their own package, and the packages above."""
    modules_seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if not name or name in modules_seen or name in IGNORED:
            continue
        modules_seen.add(name)
        waiting += [*_read(name)[1], name.rpartition(".")[0]]
    return modules_seen


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """Return the digest of one module's tree, and the modules of `headscope` or its own package that it names."""
    file, path = source_file(module), source_path(module)
    if file is None:
        if path is not None and path.is_dir():
            return "", ()  # a package without a file of its own
        raise ConfigError(f"module {module} has no source file")
    tree = ast.parse(file.read_bytes(), filename=str(file))
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    statements: list[ast.AST] = []
    plain = _plain(tree, statements)
    imports = tuple(sorted({name for statement in statements for name in _imported(statement, package)}))
    return hashlib.sha256(repr(plain).encode()).hexdigest(), imports


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """Yield the modules of `headscope` or of the package itself that an import statement names."""
    own = (ROOT, package.split(".")[0])
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in own)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base]).rstrip(".")
        if base.split(".")[0] in own:
            yield base
            yield from (name for alias in node.names if source_file(name := f"{base}.{alias.name}"))


def _plain(node: ast.AST, imports: list[ast.AST]) -> list[Any]:
    """Turn a tree into lists, and gather its import statements.

    Docstrings are left out, and empty fields: new Pythons add empty fields to old trees. So is whether a name is read
    or written, which its place tells.
    """
    kind = type(node)
    if kind in (ast.Import, ast.ImportFrom):
        imports.append(node)
    plain: list[Any] = [kind.__name__]
    for name in kind._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.expr_context) or value is None or value == []:
            continue
        if isinstance(value, ast.AST):
            value = _plain(value, imports)
        elif isinstance(value, list):
            start = name == "body" and isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None
            value = [_plain(item, imports) if isinstance(item, ast.AST) else item for item in value[start:]]
        plain.append((name, value))
    return plain
