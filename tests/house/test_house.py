"""The house rules that a script can check."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rooms_know_only_what_they_may():
    assert load_tool("check_layers").violations(ROOT) == []


def test_layer_check_can_fail(tmp_path):
    (tmp_path / "cpp" / "base").mkdir(parents=True)
    (tmp_path / "cpp" / "base" / "a.h").write_text('#include "model/model.h"\n')
    assert len(load_tool("check_layers").violations(tmp_path)) == 1


def test_python_modules_import_each_other_in_no_circle():
    assert load_tool("check_imports").circles(ROOT / "python" / "hrun") == []


def test_import_check_can_fail(tmp_path):
    """A circle through a function, an import for types and a relative one; `hrun` itself is no part of it."""
    package = tmp_path / "some"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("def f():\n    from some import b\n")
    (package / "b.py").write_text("if TYPE_CHECKING:\n    from some.c import C\n")
    (package / "c.py").write_text("from .a import f\nfrom some import a\n")
    found = load_tool("check_imports").circles(package)
    assert found == [["some.a", "some.b", "some.c"]]


def test_no_file_of_a_thousand_lines():
    suffixes = {".h", ".cpp", ".cu", ".py"}
    tops = ("cpp", "cuda", "python", "tools", "tests")
    for path in (p for top in tops for p in (ROOT / top).rglob("*") if p.suffix in suffixes):
        assert path.read_text(encoding="utf-8").count("\n") < 1000, path


def test_nothing_in_the_core_ends_the_process():
    forbidden = re.compile(r"\b(abort|exit|_exit|terminate|quick_exit)\s*\(|\bassert\s*\(")
    for path in (ROOT / "cpp").rglob("*"):
        if path.suffix in {".h", ".cpp"}:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                code = line.split("//")[0]
                assert not forbidden.search(code) or "static_assert" in code, (
                    f"{path}:{number}: {line}"
                )


def test_paths_named_in_the_docs_exist():
    for doc in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for match in re.findall(
            r"`((?:cpp|cuda|docs|python|tools|tests|models)/[\w./-]+)`",
            doc.read_text(encoding="utf-8"),
        ):
            assert (ROOT / match).exists(), f"{doc.name} names {match}"


def test_only_one_place_gives_up_the_gil():
    """The place is cpp/bindings/gil.h, which knows what to do where the interpreter is ending."""
    for path in (ROOT / "cpp").rglob("*"):
        if path.suffix in {".h", ".cpp"} and path.stem != "gil":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"gil_scoped|PyGILState|PyEval_(Save|Restore)Thread", text), path


def test_errors_come_from_one_place():
    """The place is hrun.errors, which alone takes the errors from the extension."""
    taken = re.compile(
        r"_core\.(?:\w*Error|Cancelled)\b|from hrun\._core import[^#\n]*(?:Error|Cancelled)"
    )
    for path in (ROOT / "python" / "hrun").rglob("*.py"):
        if path.name != "errors.py":
            text = re.sub(
                r"import \(([^)]*)\)",
                lambda m: "import " + " ".join(m[1].split()),
                path.read_text(encoding="utf-8"),
            )
            assert not taken.search(text), path


def test_decisions_are_numbered_once():
    numbers = re.findall(r"^\*\*D(\d+)\. ", (ROOT / "DESIGN.md").read_text(encoding="utf-8"), re.M)
    assert len(numbers) > 60 and len(set(numbers)) == len(numbers)


def test_the_pictures_are_of_the_figures():
    tool = load_tool("plot_measurements")
    for name, picture in tool.made().items():
        assert (tool.FOLDER / name).read_text(encoding="utf-8") == picture, (
            "tools/plot_measurements.py"
        )


def test_tests_lie_in_rooms():
    """A folder for each subject, which CONTRIBUTING names; names are unique, as pytest imports them without their folder."""
    named = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = list((ROOT / "tests").rglob("test_*.py"))
    for path in paths:
        room, *rest = path.relative_to(ROOT / "tests").parts
        assert len(rest) == 1 and f"`{room}`" in named, path
    assert len({path.name for path in paths}) == len(paths)


def test_markers_are_used():
    """Tests use every marker that pyproject.toml declares; --strict-markers refuses others."""
    declared = re.search(
        r"^markers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    names = re.findall(r'^  "(\w+):', declared[1], re.M)
    tests = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py"))
    assert len(names) >= 3
    for name in names:
        assert re.search(rf'pytest\.mark\.{name}\b|add_marker\("{name}"\)', tests), name
