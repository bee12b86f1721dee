"""The projector survives seeded crashes, and the simulation that says so finds faults planted on purpose."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


def run(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(RUN), *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_after_crashes_power_cuts_and_a_forgetful_broker_nothing_is_lost_and_views_equal_a_replay() -> None:
    code, told = run("--seeds", "40", "--jobs", "2")
    assert code == 0, told
    assert "40 seeds" in told


@pytest.mark.parametrize(
    "fault",
    [
        "no-file-fsync",
        "no-folder-fsync",
        "checkpoint-before-files",
        "store-not-synced",
        "marks-before-commit",
    ],
)
def test_a_fault_planted_into_the_product_is_found(fault: str) -> None:
    code, told = run("--seeds", "200", "--jobs", "1", "--break", fault)
    assert code == 1, told
    assert re.search(rf"rerun: .* --seed \d+ --verbose\s+--break\s+{fault}", told)


def test_a_seed_is_the_same_run_every_time() -> None:
    first, second = run("--seed", "3", "--verbose"), run("--seed", "3", "--verbose")
    assert first == second
    assert first[1].count("\n") > 100
