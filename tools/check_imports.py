"""Check that the modules of python/hrun import each other in no circle.

Every import counts: at the top, in a function, and those for type checkers alone.
Usage: python tools/check_imports.py [folder of the package]; prints each circle, exit status 1 if there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path


def graph(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    files = {}
    for path in package.rglob("*.py"):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    known = files.keys() | {f"{package.name}.{p.stem}" for p in package.glob("*.pyi")}
    return {name: set(_imports(name, path, known)) - {name} for name, path in files.items()}


def _imports(name: str, path: Path, known: set[str]) -> Iterator[str]:
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                if whole in known or base in known:
                    yield whole if whole in known else base


def circles(package: Path) -> list[list[str]]:
    """The groups of modules that reach each other, each sorted (Tarjan's strongly connected components)."""
    arrows = graph(package)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in sorted(arrows.get(module, ())):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(arrows):
        if module not in number:
            visit(module)
    return found


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1] / "python/hrun"
    problems = circles(Path(sys.argv[1]) if len(sys.argv) > 1 else root)
    print("\n".join("circle: " + ", ".join(group) for group in problems) or "imports: no circle")
    sys.exit(1 if problems else 0)
