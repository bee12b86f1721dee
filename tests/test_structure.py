"""The layers stay layers: one namespace in five folders, imports that run downwards, pinned public names."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest

import dspy_ledger

ROOT = Path(__file__).parents[1]
NAMESPACE = "dspy_ledger"
MAY_IMPORT = {
    "shared": {"shared"},
    "producer": {"producer", "shared"},
    "projector": {"projector", "shared"},
    "api": {"api", "shared"},
    "cli": {"cli", "producer", "projector", "api", "shared"},
}
WITHOUT_DSPY = ("shared", "projector", "api")
PUBLIC = [
    "DSPyModelBackend",
    "EvaluationMetadata",
    "ExecutionInfo",
    "ExecutionResult",
    "Ledger",
    "LedgerStats",
    "MediaType",
    "ModelDescription",
    "ModelManager",
    "ModelProcessor",
    "Pipeline",
    "PipelineData",
    "Predictor",
    "Processor",
    "ProgramManager",
    "ProgramMetadata",
    "ProgramRegistry",
    "create_text_processor",
    "instrument",
    "session",
    "track",
    "uninstrument",
]


def modules() -> dict[str, Path]:
    """Every module's name and file."""
    return {
        ".".join(path.relative_to(ROOT / folder).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in MAY_IMPORT
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


MODULES = modules()


def folder_of(module: str) -> str:
    """The folder that a module of ours lies in, told by its name."""
    first = module.split(".")[1]
    return first if first in MAY_IMPORT else "shared"


def imports(module: str) -> Iterator[str]:
    """Every module that a module imports, wherever in it: relative ones and constant names included."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            # "from dspy_ledger import wire" imports a module, "from dspy_ledger.wire import decode" a name.
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in MODULES:
            yield node.value  # for import_module, or for python -m


def imported_by(statement: str) -> set[str]:
    """The top-level packages, and modules of ours, that are loaded after a statement in a new process."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name if name.startswith(NAMESPACE) else name.split(".")[0] for name in json.loads(run.stdout)}


def declared(tree: ast.Module) -> ast.expr | None:
    """What ``__all__`` is assigned."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return node.value
    return None


def in_order(names: list[str]) -> list[str]:
    """Constants, then classes, then the rest: the order that the linter wants too."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


# --- one namespace ---


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_no_folder_makes_the_namespace_its_own(folder):
    assert not (ROOT / folder / NAMESPACE / "__init__.py").exists()
    assert [path.name for path in (ROOT / folder).iterdir() if path.name != "__pycache__"] == [NAMESPACE]


def test_namespace_is_made_of_all_five_folders():
    assert {Path(path) for path in dspy_ledger.__path__} == {
        ROOT / folder / NAMESPACE for folder in MAY_IMPORT
    }
    assert getattr(dspy_ledger, "__file__", None) is None


def test_only_shared_has_modules_at_the_top():
    for folder in set(MAY_IMPORT) - {"shared"}:
        found = {path.name for path in (ROOT / folder / NAMESPACE).iterdir() if path.name != "__pycache__"}
        assert found == {folder}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_types_are_shipped(folder):
    package = ROOT / folder / NAMESPACE
    assert (package / "py.typed" if folder == "shared" else package / folder / "py.typed").is_file()


# --- imports ---


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module):
    used = {name for name in imports(module) if name.startswith(f"{NAMESPACE}.")}
    upwards = {name for name in used if folder_of(name) not in MAY_IMPORT[folder_of(module)]}
    assert not upwards


@pytest.mark.parametrize("module", [name for name in MODULES if folder_of(name) in WITHOUT_DSPY])
def test_what_runs_without_dspy_does_not_import_it(module):
    assert not {name for name in imports(module) if name.split(".")[0] in ("dspy", "litellm")}


def test_importing_the_producer_loads_nothing_heavy():
    loaded = imported_by("import dspy_ledger.producer")
    assert "dspy_ledger.producer" in loaded
    assert not loaded & {"dspy", "litellm", "faststream", "fastapi", "redis"}


def test_connecting_a_ledger_loads_no_dspy():
    loaded = imported_by("from dspy_ledger.producer import Ledger, ModelManager")
    assert not loaded & {"dspy", "litellm", "faststream", "fastapi"}


def test_projector_and_api_load_neither_dspy_nor_one_another():
    assert not imported_by("import dspy_ledger.projector") & {"dspy", "litellm", "fastapi", "dspy_ledger.api"}
    assert not imported_by("import dspy_ledger.api") & {
        "dspy",
        "litellm",
        "faststream",
        "dspy_ledger.projector",
    }


def test_command_line_answers_for_help_without_loading_a_part():
    loaded = imported_by("import dspy_ledger.cli.main")
    assert not loaded & {"dspy", "faststream", "fastapi"}


# --- names ---


@pytest.mark.parametrize("module", MODULES)
def test_all_is_a_sorted_literal_of_names_that_exist(module):
    path = MODULES[module]
    tree = ast.parse(path.read_text("utf-8"))
    value = declared(tree)
    if value is None:  # allowed only where there is nothing but a docstring
        assert path.name == "__init__.py"
        assert len(tree.body) == 1
        return
    names = ast.literal_eval(value)
    assert names == in_order(list(dict.fromkeys(names)))
    loaded = import_module(module)
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_public_names_of_the_producer_are_these():
    producer = import_module("dspy_ledger.producer")
    assert producer.__all__ == PUBLIC
    assert dir(producer) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_lazy_names_are_what_their_modules_define(name):
    value = getattr(import_module("dspy_ledger.producer"), name)
    assert getattr(import_module(value.__module__), name) is value
    assert value.__doc__


def test_a_name_that_is_not_public_is_refused_as_any_module_would():
    with pytest.raises(AttributeError, match="has no attribute 'Recorder'"):
        getattr(import_module("dspy_ledger.producer"), "Recorder")  # noqa: B009  an expression of its own is B018


# --- words ---


@pytest.mark.parametrize("module", MODULES)
def test_first_line_of_a_module_is_a_sentence(module):
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text("utf-8")))
    assert docstring
    assert docstring.splitlines()[0].endswith(".")


def test_no_file_names_a_folder_of_the_machine_it_was_written_on():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    folders = [f"/{name}/".encode() for name in ("work", "root", "home", "Users")]
    files = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    found = {
        path.relative_to(ROOT).as_posix(): folder.decode()
        for path in files
        if path.is_file()  # not one that is just being deleted
        for folder in folders
        if folder in path.read_bytes()
    }
    assert found == {}
