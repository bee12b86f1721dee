"""What an LLM server imports: record programs, executions and evaluations.

Names are loaded when they are first used, so that importing this costs next to nothing and DSPy is only
imported by what needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_ledger.producer.context import session
    from dspy_ledger.producer.execution import ExecutionInfo
    from dspy_ledger.producer.instrumentation import instrument, track, uninstrument
    from dspy_ledger.producer.ledger import Ledger, LedgerStats
    from dspy_ledger.producer.models import ModelDescription, ModelManager
    from dspy_ledger.producer.pipeline import (
        DSPyModelBackend,
        MediaType,
        ModelProcessor,
        Pipeline,
        PipelineData,
        Processor,
        create_text_processor,
    )
    from dspy_ledger.producer.predictor import Predictor
    from dspy_ledger.producer.programs import EvaluationMetadata, ProgramManager
    from dspy_ledger.producer.registry import ProgramMetadata, ProgramRegistry
    from dspy_ledger.producer.running import ExecutionResult

__all__ = [
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

_MODULES = {
    "context": ("session",),
    "execution": ("ExecutionInfo",),
    "instrumentation": ("instrument", "track", "uninstrument"),
    "ledger": ("Ledger", "LedgerStats"),
    "models": ("ModelDescription", "ModelManager"),
    "pipeline": (
        *("DSPyModelBackend", "MediaType", "ModelProcessor", "Pipeline", "PipelineData", "Processor"),
        "create_text_processor",
    ),
    "predictor": ("Predictor",),
    "programs": ("EvaluationMetadata", "ProgramManager"),
    "registry": ("ProgramMetadata", "ProgramRegistry"),
    "running": ("ExecutionResult",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
