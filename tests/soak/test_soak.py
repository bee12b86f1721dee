"""The soak runs, short."""

from __future__ import annotations

from pathlib import Path

from soak import kill_replicas


def test_whatever_killed_replicas_had_recorded_is_in_the_store_once(tmp_path: Path) -> None:
    outcome = kill_replicas.soak(tmp_path, times=4, seed=7)
    assert outcome.differences == []
    assert outcome.kills == 4
    assert outcome.noted > 100
