"""Every database that a projector's test opened is closed when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from projector.ledgers import opened


@pytest.fixture(autouse=True)
def _close_what_was_opened() -> Iterator[None]:
    yield
    opened.close()
