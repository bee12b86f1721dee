"""REST over the read models, and read-only over the event store where the event itself is asked for."""

from dspy_ledger.api.app import create_app
from dspy_ledger.api.server import run_api

__all__ = ["create_app", "run_api"]
