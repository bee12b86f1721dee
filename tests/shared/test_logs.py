"""Logs are lines for people, or one JSON object each that holds everything a record says."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

from dspy_ledger.logs import JsonLines


def logged(message: str, *arguments: object, exc_info: object = None, **extra: object) -> dict:
    record = logging.getLogger("dspy_ledger.test").makeRecord(
        "dspy_ledger.test", logging.WARNING, "file.py", 1, message, arguments, exc_info, extra=extra
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_record_is_one_object_with_its_extra_fields():
    told = logged("stored %d events", 3, position=42, source="/producers/a")
    assert told.pop("time")[10] == "T"
    assert told == {
        "level": "warning",
        "logger": "dspy_ledger.test",
        "message": "stored 3 events",
        "position": 42,
        "source": "/producers/a",
    }


def test_what_is_no_json_and_no_unicode_is_written_all_the_same():
    told = logged("lone \ud800\nand two lines", path=object(), level="not the level")
    assert told["message"] == "lone \ud800\nand two lines"
    assert told["path"].startswith("<object")
    assert told["level"] == "warning"


def test_an_exception_is_told_with_its_traceback():
    try:
        int("why")
    except ValueError:
        told = logged("it failed", exc_info=sys.exc_info())
    assert told["exception"].startswith("Traceback")
    assert "ValueError: invalid literal" in told["exception"]


def test_commands_log_in_the_form_that_is_asked_for(tmp_path):
    code = (
        "from dspy_ledger.settings import load_settings; from dspy_ledger.logs import log_to_stderr;"
        "import logging; log_to_stderr(load_settings(_env_file=None)); logging.getLogger('x').info('said');"
        "logging.getLogger('x').debug('not said')"
    )

    def lines(**env: str) -> list[str]:
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return run.stderr.splitlines()

    [plain] = lines()
    assert plain.endswith(" INFO said")
    [line] = lines(DSPY_LEDGER_LOG_FORMAT="json")
    assert json.loads(line)["message"] == "said"
    assert lines(DSPY_LEDGER_LOG_FORMAT="json", DSPY_LEDGER_LOG_LEVEL="warning") == []
