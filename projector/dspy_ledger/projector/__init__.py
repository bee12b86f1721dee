"""The projector: ingests the stream into the event store and keeps every view up to it."""

from dspy_ledger.projector.catalog import Catalog, Content, Program, Registered
from dspy_ledger.projector.directory import Directory
from dspy_ledger.projector.following import Chore, Followers, Handover
from dspy_ledger.projector.ingest import Decoded, Ingest, decode_entries
from dspy_ledger.projector.intake import Intake
from dspy_ledger.projector.lease import WriterLease
from dspy_ledger.projector.live import Live
from dspy_ledger.projector.patience import Halted, Patience
from dspy_ledger.projector.projection import Checkpoint, Projection, advance, catch_up, project
from dspy_ledger.projector.registry import Registry
from dspy_ledger.projector.sql import SqlViews
from dspy_ledger.projector.trimming import Trimming
from dspy_ledger.projector.watch import Watch
from dspy_ledger.projector.worker import Worker, run_worker

__all__ = [
    "Catalog",
    "Checkpoint",
    "Chore",
    "Content",
    "Decoded",
    "Directory",
    "Followers",
    "Halted",
    "Handover",
    "Ingest",
    "Intake",
    "Live",
    "Patience",
    "Program",
    "Projection",
    "Registered",
    "Registry",
    "SqlViews",
    "Trimming",
    "Watch",
    "Worker",
    "WriterLease",
    "advance",
    "catch_up",
    "decode_entries",
    "project",
    "run_worker",
]
