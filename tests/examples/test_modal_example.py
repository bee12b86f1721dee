"""The Modal example can't run here; that it fits the rest of the code is read off its source."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path, PurePosixPath

from dspy_ledger.producer import ProgramManager
from dspy_ledger.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = (EXAMPLES / "modal_app.py").read_text("utf-8")
TREE = ast.parse(SOURCE)


def calls(attribute: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(TREE)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == attribute
    ]


def image_environment() -> dict[str, str]:
    """What ``.env({…})`` sets."""
    (env,) = calls("env")
    return ast.literal_eval(env.args[0])


def test_it_compiles():
    compile(SOURCE, "modal_app.py", "exec")


def test_every_name_it_imports_from_dspy_ledger_exists():
    imports = [
        node
        for node in ast.walk(TREE)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dspy_ledger")
    ]
    assert "dspy_ledger.producer" in {node.module for node in imports}
    for node in imports:
        module = import_module(node.module)
        assert {alias.name for alias in node.names} <= set(module.__all__), node.module


def test_it_calls_load_program_as_it_is_declared():
    (call,) = calls("load_program")
    signature = inspect.signature(ProgramManager.load_program)
    signature.bind(None, *call.args, **{keyword.arg: keyword.value for keyword in call.keywords})


def test_it_extends_the_fastapi_example():
    used = {
        node.attr
        for node in ast.walk(TREE)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "fastapi_server"
    }
    server = ast.parse((EXAMPLES / "fastapi_server.py").read_text("utf-8"))
    defined = {node.name for node in server.body if hasattr(node, "name")} | {
        node.targets[0].id for node in server.body if isinstance(node, ast.Assign)
    }
    assert used == {"app", "lifespan"}
    assert used <= defined


def test_its_variables_are_settings():
    used = set(re.findall(r"\bDSPY_LEDGER_([A-Z_]+)", SOURCE))
    assert {name.lower() for name in used} <= set(Settings.model_fields)


def test_only_the_programs_lie_on_the_volume():
    environment = {name: PurePosixPath(path) for name, path in image_environment().items()}
    (function,) = calls("function")
    (volumes,) = (keyword.value for keyword in function.keywords if keyword.arg == "volumes")
    (mounted,) = (ast.literal_eval(key) for key in volumes.keys)
    assert environment["DSPY_LEDGER_PROGRAMS_DIR"].is_relative_to(mounted)
    assert not environment["DSPY_LEDGER_WAL_DIR"].is_relative_to(mounted)
    assert "DSPY_LEDGER_DATA_DIR" not in environment


def test_the_files_it_adds_exist():
    names = {ast.literal_eval(call.args[0]) for call in calls("with_name")}
    modules = {f"{ast.literal_eval(call.args[0])}.py" for call in calls("add_local_python_source")}
    assert names | modules == {"models.yaml", "fastapi_server.py"}
    assert all((EXAMPLES / name).is_file() for name in names | modules)
