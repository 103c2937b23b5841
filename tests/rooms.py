"""The imports of the package, read from its syntax trees."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import hf_icl

PACKAGE = Path(hf_icl.__file__).parent


@dataclass(frozen=True)
class Import:
    """A module that another one imports.

    Attributes:
        origin: Where it is imported, as `hf_icl.task.task`.
        target: What is imported: a module of the package, or the name of another package.
        line: Where.
        inside: Name of the function that imports it; None at the top of the module.
    """

    origin: str
    target: str
    line: int
    inside: str | None


def name_module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def list_modules() -> dict[str, Path]:
    """Return all modules of the package and where they lie."""
    return {name_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def list_imports() -> tuple[Import, ...]:
    """Return every import in the package."""
    found = []
    for name, path in list_modules().items():
        found += _visit(ast.parse(path.read_text("utf-8")), name, None)
    return tuple(found)


def _visit(node: ast.AST, origin: str, inside: str | None) -> list[Import]:
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found += [Import(origin, _shorten(alias.name), child.lineno, inside) for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            targets = {name if name in list_modules() else child.module for name in names}
            found += [Import(origin, _shorten(target), child.lineno, inside) for target in sorted(targets)]
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        found += _visit(child, origin, child.name if is_function else inside)
    return found


def _shorten(module: str) -> str:
    return module if module.startswith("hf_icl") else module.partition(".")[0]


def room_of(module: str) -> str:
    """Return the room of a module: the folder under `hf_icl`,
    or the name of a file that lies there itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "hf_icl"


def list_needed(module: str) -> set[str]:
    """Return a module and all others of the package that importing it imports,
    packages' own files left out."""
    needed, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [
                one.target
                for one in list_imports()
                if one.origin == name and one.target.startswith("hf_icl.")
            ]
    return {name for name in needed if list_modules()[name].name != "__init__.py"}
