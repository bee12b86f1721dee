"""The soak runs, short."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak import fuzz, kill_projector, kill_replicas


def test_whatever_killed_replicas_had_recorded_is_in_the_store_once(tmp_path: Path) -> None:
    outcome = kill_replicas.soak(tmp_path, times=4, seed=7)
    assert outcome.differences == []
    assert outcome.kills == 4
    assert outcome.noted > 100


@pytest.mark.parametrize("victim", kill_projector.VICTIMS)
def test_whatever_is_recorded_while_projector_or_broker_die_is_stored_once_and_seen_in_every_view(
    tmp_path: Path, victim: str
) -> None:
    outcome = kill_projector.soak(tmp_path, victim, times=4, seed=7)
    assert outcome.differences == []
    assert outcome.noted > 50


def test_every_mutilated_entry_is_stored_or_a_dead_letter_and_breaks_no_fold(tmp_path: Path) -> None:
    outcome = fuzz.fuzz(tmp_path, entries=2000, seed=7)
    assert outcome.differences == []
    assert outcome.stored > 500
    assert outcome.dead_letters > 500
