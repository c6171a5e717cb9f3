"""The house stands: who may import whom, and what may stand where (docs/lab/design.md)."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "detr_jax"
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
FILES = {name.removesuffix(".__init__").replace("__init__", "detr_jax"): path for name, path in FILES.items()}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

GROUND = {
    "structures",
    "boxes",
    "drawing",
    "images",
    "names",
    "files",
    "errors",
    "config",
    "config_check",
    "config_forms",
}
GROUND |= {"class_names", "words", "cli", "heap", "devices", "signals", "crashes", "hosts", "remote"}
GROUND |= {"invocation", "spelling", "config_files", "unknown_settings", "flag_errors", "help_page"}
INFERENCE = {"ops", "datasets", "weights", "evaluation", "models", "batches", "inference"}
MAY_IMPORT = {  # room or program -> the rooms that it may import besides itself and the ground
    **{name: set() for name in GROUND},
    "__main__": set(),
    "ops": set(),
    "datasets": set(),
    "weights": set(),
    "evaluation": set(),
    "models": {"ops"},
    "batches": {"datasets"},
    "inference": INFERENCE - {"inference"},
    "training": INFERENCE,
    "benchmarks": INFERENCE | {"training"},
    "train": INFERENCE | {"training"},
    "evaluate": INFERENCE,
    "predict": INFERENCE,
    "convert": INFERENCE,
    "analyze": {"datasets", "evaluation"},
    "dataset": {"batches", "datasets"},
    "benchmark": {"benchmarks", "datasets"},
    "doctor": INFERENCE | {"training", "train"},
}
COMMAND_LINE = {"cli", "flag_errors", "help_page"}
PROGRAMS = {"train", "evaluate", "predict", "analyze", "convert", "dataset", "benchmark", "doctor"}
ROOMS = {name.split(".")[0] for name in FILES if "." in name}
BELOW_PROGRAMS = [name for name in FILES if name not in PROGRAMS | COMMAND_LINE]
WORKAROUNDS = {"custom_vjp", "custom_jvp", "optimization_barrier", "platform_dependent", "pallas_call"}
SETTINGS = {"config", "model", "data", "loss", "optim", "train", "settings", "options"}


def own_imports(tree: ast.Module) -> set[str]:
    """Modules of the package that a file imports, as "room.module"."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.removeprefix("detr_jax.") for name in found if name.startswith("detr_jax.")}
    modules = {name if name in FILES else name.rpartition(".")[0] for name in names}
    return modules - {""}  # what detr_jax itself offers


IMPORTS = {name: own_imports(tree) for name, tree in TREES.items() if name != "detr_jax"}


def test_every_file_is_on_a_floor():
    assert {name.split(".")[0] for name in IMPORTS} == MAY_IMPORT.keys()


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_go_down(name):
    room = name.split(".")[0]
    for imported in IMPORTS[name]:
        assert imported.split(".")[0] in MAY_IMPORT[room] | GROUND | {room}, f"{name} imports {imported}"


def test_only_programs_import_the_command_line():
    for name in BELOW_PROGRAMS:
        assert "cli" not in IMPORTS.get(name, ()), name
        modules = {node.module for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom)}
        assert "absl" not in modules, name


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


@pytest.mark.parametrize("program", ["evaluate", "predict", "convert", "inference.detector"])
def test_what_only_infers_never_reaches_training(program):
    reached, waiting = set(), {program}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= IMPORTS[name] - reached
    assert not [name for name in reached if name.startswith("training")]


@pytest.mark.parametrize("name", FILES)
def test_imports_stand_at_the_top(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inner, f"line {inner[0].lineno}: import inside a function"


def test_no_torch_and_no_tensorflow():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"torch", "tensorflow", "torchvision"}, name


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_idea(name):
    assert len(FILES[name].read_text().splitlines()) <= 350
    assert not {"utils", "util", "misc", "common", "helpers", "helper"} & set(name.split("."))


@pytest.mark.parametrize("name", FILES)
def test_functions_are_short_and_take_few_parameters(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in arguments if argument.arg != "self"])
            assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
            assert count <= 8, f"{node.name} has {count} parameters"


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("ops.")])
def test_work_arounds_for_the_compiler_stand_in_ops(name):
    names = {node.attr for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Name)}
    assert not names & WORKAROUNDS
    if name.startswith("models."):
        assert not names & {"default_backend", "platform"}


@pytest.mark.parametrize("name", BELOW_PROGRAMS)
def test_no_setting_is_read_by_string(name):
    for node in ast.walk(TREES[name]):
        if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)):
            continue
        base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        assert not (isinstance(node.slice.value, str) and base in SETTINGS), f"line {node.lineno}"


def test_flags_are_named_by_the_command_line_alone():
    for name in BELOW_PROGRAMS:
        if not name.startswith("config"):
            assert "--config." not in FILES[name].read_text(), name


def test_no_two_rooms_have_a_class_or_a_public_function_of_one_name():
    """Within one room, solvers and readers may share the name of what they do; a program's verbs are its own."""
    seen: dict[str, str] = {}
    for name, tree in TREES.items():
        for node in tree.body if name not in PROGRAMS else ():
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                room = name.split(".")[0]
                other = seen.setdefault(node.name, room)
                assert other == room, f"{node.name} stands in {other} and in {room}"


def test_no_word_of_versions_that_were_never_released():
    for name, path in FILES.items():
        assert not re.search(r"\bLATER\b|layer_heads|earlier_heads|backwards? compat", path.read_text()), name


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_file_is_over_350_lines(path):
    assert len(path.read_text().splitlines()) <= 350


def test_tests_mirror_the_rooms():
    for path in sorted((REPOSITORY / "tests").glob("*/test_*.py")):
        room, module = path.parent.name, path.stem.removeprefix("test_")
        if room in ROOMS:
            assert any(module == known or module.startswith(f"{known}_") for known in modules_of(room)), path


def modules_of(room: str) -> list[str]:
    return [path.stem for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__"]


IMPORT_ALL = """
import importlib, os, sys
import cv2, jax
from absl import flags
before = dict(os.environ), set(flags.FLAGS), dict(jax.config.values), cv2.getNumThreads()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = dict(os.environ), set(flags.FLAGS), dict(jax.config.values), cv2.getNumThreads()
for what, old, new in zip(("environment", "flags", "jax.config", "threads of OpenCV"), before, after):
    assert old == new, (what, old, new)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "an import starts a device"
"""


def test_importing_changes_no_global_state():
    """Flags, JAX's settings and devices, OpenCV's threads, the environment: programs change these, imports do not."""
    libraries = ["orbax.checkpoint", "grain", "tensorflow_datasets", "huggingface_hub", "flax.nnx", "tensorboardX"]
    others = [name for name in FILES if name != "detr_jax"]
    names = ["detr_jax", *(f"detr_jax.{name}" for name in others)]
    preload = "import " + ", ".join(libraries) + "\n"  # what other packages do to themselves is their own
    done = subprocess.run(
        [sys.executable, "-c", preload + IMPORT_ALL, *names], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
