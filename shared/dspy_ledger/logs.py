"""What commands log: lines for people, or one JSON object a line for machines, on stderr."""

from __future__ import annotations

import json
import logging
import time

from dspy_ledger.settings import Settings

__all__ = ["JsonLines", "log_to_stderr"]

_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}
"""What every record has; the rest was given as ``extra``. Uvicorn adds a coloured copy of its message."""


class JsonLines(logging.Formatter):
    """A record as one object: time, level, logger, message, its extra fields, and exception if it has one.

    ``time`` is UTC with microseconds, as everywhere in the ledger.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        spelled = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told = {
            "time": f"{spelled}.{int(record.created % 1 * 1e6):06d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _OWN | told.keys()}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)  # writes any text, also what is no Unicode


def log_to_stderr(settings: Settings) -> None:
    """Log what the settings ask for, unless something was set up to log before."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonLines()
        if settings.log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
