"""The plan of the house: which room may import which, what stays light, and that files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sinkscope"

# What each room may import of ours. `errors` stands below all of them.
ALLOWED = {
    "attention": set(),
    "models": {"attention", "shapes"},  # shapes only to load the embedded model by name
    "shapes": set(),
    "prompts": {"shapes"},  # the grammar
    "metrics": {"shapes", "prompts"},
    "stats": set(),
    "identity": {"stats"},
    "study": {
        "attention",
        "models",
        "shapes",
        "prompts",
        "metrics",
        "stats",
        "identity",
        "report",
    },
    "recipes": {"attention", "models", "shapes", "prompts", "metrics", "stats", "identity", "study"},
    "report": {"identity", "stats"},
}
# One door goes up: a run asks for its own page.
REPORT_DOOR = {"_run.py"}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "sinkscope":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("sinkscope."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("sinkscope.")}
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for file in (SOURCE / room).rglob("*.py"):
        extra = imports(file) - ALLOWED[room] - {room, "errors", "_version", "__version__"}
        assert not extra, f"{file.relative_to(SOURCE)} imports {sorted(extra)}"


def test_only_the_run_asks_for_its_report() -> None:
    users = {file.name for file in (SOURCE / "study").rglob("*.py") if "report" in imports(file)}
    assert users <= REPORT_DOOR


@pytest.mark.parametrize(
    "module",
    [
        "sinkscope",
        "sinkscope.cli",
        "sinkscope.errors",
        "sinkscope.stats",
        "sinkscope.identity",
        "sinkscope.report",
    ],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_stay_small() -> None:
    long = {
        str(file.relative_to(SOURCE)): n
        for file in SOURCE.rglob("*.py")
        if (n := len(file.read_text().splitlines())) > 400
    }
    assert not long
