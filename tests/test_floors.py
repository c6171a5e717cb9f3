"""The house stands: every file imports only from the floors below it (docs/design.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "detr_jax"
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
FILES = {name.removesuffix(".__init__").replace("__init__", "detr_jax"): path for name, path in FILES.items()}

GROUND = {"structures", "boxes", "drawing", "files", "program", "sharding"}
MAY_IMPORT = {  # room or program -> what it may import besides itself
    **{name: GROUND for name in GROUND},
    "weights": GROUND,
    "data": GROUND,
    "models": GROUND,
    "evaluation": GROUND,
    "detector": GROUND | {"weights", "data", "models", "evaluation"},
    "training": GROUND | {"weights", "data", "models", "evaluation", "detector"},
    "train": GROUND | {"weights", "data", "models", "evaluation", "detector", "training"},
    "evaluate": GROUND | {"weights", "data", "models", "evaluation", "detector"},
    "predict": GROUND | {"weights", "data", "models", "evaluation", "detector"},
    "convert": GROUND | {"weights", "data", "models", "evaluation", "detector"},
    "dataset": GROUND | {"data"},
    "benchmarks": GROUND | {"weights", "data", "models", "evaluation", "detector", "training"},
    "benchmark": GROUND | {"benchmarks", "data"},
}


def own_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, as "room.module"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.removeprefix("detr_jax.") for name in found if name.startswith("detr_jax.")}
    return {name if name in FILES else name.rpartition(".")[0] for name in names}


IMPORTS = {name: own_imports(path) for name, path in FILES.items() if name != "detr_jax"}


def test_every_file_is_on_a_floor():
    assert {name.split(".")[0] for name in IMPORTS} == MAY_IMPORT.keys()


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_go_down(name):
    room = name.split(".")[0]
    for imported in IMPORTS[name]:
        assert imported.split(".")[0] in MAY_IMPORT[room] | {room}, f"{name} imports {imported}"


def test_no_cycles():
    done: set[str] = set()

    def visit(name: str, on_the_way: tuple[str, ...]):
        assert name not in on_the_way, " -> ".join((*on_the_way, name))
        if name not in done:
            for imported in IMPORTS[name]:
                visit(imported, (*on_the_way, name))
            done.add(name)

    for name in IMPORTS:
        visit(name, ())


@pytest.mark.parametrize("program", ["evaluate", "predict", "convert", "detector"])
def test_what_only_infers_never_reaches_training(program):
    reached, waiting = set(), {program}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= IMPORTS[name] - reached
    assert not [name for name in reached if name.startswith("training")]


@pytest.mark.parametrize("name", FILES)
def test_imports_stand_at_the_top(name):
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inner, f"line {inner[0].lineno}: import inside a function"


def test_no_torch_and_no_tensorflow():
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"torch", "tensorflow", "torchvision"}, path


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_idea(name):
    assert len(FILES[name].read_text().splitlines()) <= 350
    assert not {"utils", "util", "misc", "common", "helpers", "helper"} & set(name.split("."))


def test_importing_the_programs_touches_no_device():
    """An array made on import would start the backend before the hosts of a pod have found each other."""
    code = "import detr_jax.train; from jax._src import xla_bridge as bridge; exit(bridge.backends_are_initialized())"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
