"""What was worked out of a view and stays true for as long as the view is in force."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

__all__ = ["Kept"]

T = TypeVar("T")

_MOST: Final = 16


class Kept:
    """The answers that were used last, each under a key that names all that it depends on."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, Any] = {}  # the one used last stands last

    def get(self, key: Hashable, make: Callable[[], T], fits: Callable[[T], bool] = lambda _: True) -> T:
        """The answer under a key; made, and kept when it ``fits``, unless it is there."""
        answer = self._answers.pop(key) if key in self._answers else make()
        if fits(answer):
            self._answers[key] = answer
            self._trim()
        return answer

    def take(self, *beginning: Hashable, fits: Callable[[Any], bool]) -> Any:
        """The last answer that fits and whose key begins so, kept no more: it may be changed. Or None."""
        for key in reversed(self._answers):
            if isinstance(key, tuple) and key[: len(beginning)] == beginning and fits(self._answers[key]):
                return self._answers.pop(key)
        return None

    def take_over(self, other: Kept) -> bool:
        """Keep what another has besides, which is asked no more; whether there was any."""
        more = {key: answer for key, answer in other._answers.items() if key not in self._answers}
        self._answers |= more
        self._trim()
        return bool(more)

    def _trim(self) -> None:
        while len(self._answers) > _MOST:
            del self._answers[next(iter(self._answers))]
