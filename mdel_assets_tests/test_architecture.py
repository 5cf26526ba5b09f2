"""The house rules that a machine can hold."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mdel_assets"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_SOURCES = [*SOURCES, *sorted((ROOT / "mdel_assets_tests").rglob("*.py"))]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "lm_eval")
# What lies at the package's top, from the bottom up: later entries import earlier ones.
ORDER = (
    *("errors", "machine", "store", "hub", "charts", "merge_methods", "model_families"),
    *("experiment", "tracking"),
    *("line", "data", "training", "scoring", "merging", "forecasting", "evaluation"),
    *("generation", "tasks", "publishing", "reporting", "engines", "kinds", "home", "planning"),
    *("maintenance", "worker", "mapping"),
    *("defs", "web", "serving", "cli"),
    "definitions",
)

# Imports of types alone that lead up. A kind's functions take the lineage, which holds the kinds,
# and its price takes the sizes of models.
TYPES_FROM_ABOVE = {
    "mdel_assets.line.kind": {"mdel_assets.line.lineage", "mdel_assets.training.sizes"},
    "mdel_assets.line.replicates": {"mdel_assets.training.sizes"},
    "mdel_assets.data.prices": {"mdel_assets.training.sizes"},
}


def imported_modules(path: Path) -> set[str]:
    """Return the top-level names of all modules that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_only_the_dagster_side_imports_dagster():
    allowed = {PACKAGE / "definitions.py", PACKAGE / "cli.py"}
    offenders = [
        path.name
        for path in SOURCES
        if path.parent != PACKAGE / "defs" and path not in allowed
        if "dagster" in imported_modules(path)
    ]
    assert offenders == []


def test_loading_the_definitions_leaves_heavy_libraries_alone():
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from mdel_assets.definitions import defs\n"
        "defs().resolve_all_asset_specs()\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def module_of(path: Path) -> str:
    """Return a source file's module, without ``__init__``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_inside() -> dict[str, set[str]]:
    """Return which modules of the package each of them imports, be it for their types alone."""
    modules = {module_of(path): path for path in SOURCES}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mdel_assets")
            for alias in node.names
        }
        imported = {n if n in modules else n.rpartition(".")[0] for n in names} - {module}
        from_above = TYPES_FROM_ABOVE.get(module, set())
        # What is needed no more leaves the list.
        assert from_above <= imported, module
        found[module] = imported - from_above
    return found


def test_imports_run_downwards():
    offenders = []
    for module, imported in imports_inside().items():
        for other in imported:
            here, there = (name.split(".")[1:2] for name in (module, other))
            if here and there and ORDER.index(there[0]) > ORDER.index(here[0]):
                offenders.append((module, other))
    assert offenders == []


def test_no_modules_import_each_other_in_a_circle():
    order = graphlib.TopologicalSorter(imports_inside())
    # Raises `graphlib.CycleError`, which names the circle.
    assert list(order.static_order())


@pytest.mark.parametrize("path", ALL_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
        # A function that only holds the assets of a stage is as long as they are together.
        and not node.name.endswith("_assets")
    ]
    assert long == []


def test_no_drawer_for_odds_and_ends():
    assert not {"utils.py", "common.py", "helpers.py"} & {path.name for path in ALL_SOURCES}


def test_nothing_names_a_package_registry_or_a_machine():
    registries = re.compile("|".join(["py" + "pi\\.org", "python" + "hosted", "npm" + "js"]))
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt"} or not path.suffix:
            assert not registries.search(path.read_text("utf-8")), name
