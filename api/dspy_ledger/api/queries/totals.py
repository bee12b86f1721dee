"""Totals of executions, from the roll-up that the projector keeps; roll-ups have no past."""

from __future__ import annotations

from dspy_ledger.api.queries.paging import Item, items_of
from dspy_ledger.api.reading import Question

__all__ = ["matrix_totals", "program_totals", "version_totals"]

# total() and not sum(), which ends in an error beyond 64 bits.
_SUMS = """
coalesce(sum(executions), 0) AS executions,
coalesce(sum(errors), 0) AS errors,
iif(sum(input_known) > 0, CAST(total(input_tokens) AS INTEGER), NULL) AS input_tokens,
iif(sum(output_known) > 0, CAST(total(output_tokens) AS INTEGER), NULL) AS output_tokens,
iif(sum(cost_known) > 0, total(cost) / 1e12, NULL) AS cost_usd,
coalesce(sum(input_known), 0) AS input_known,
coalesce(sum(output_known), 0) AS output_known,
coalesce(sum(cost_known), 0) AS cost_known,
total(latency) / 1e3 / sum(executions) AS mean_latency_ms
"""


def program_totals(question: Question, program_id: str) -> Item | None:
    """All executions of a program; null when asked of the past."""
    if question.as_of is not None:
        return None
    rows = question.db.execute(f"SELECT {_SUMS} FROM totals WHERE program_id = ?", (program_id,))  # noqa: S608
    return items_of(rows)[0]


def version_totals(question: Question, program_id: str, content_hash: str) -> list[Item] | None:
    """The executions of one content, per model (null where none was named); null when asked of the past."""
    if question.as_of is not None:
        return None
    rows = question.db.execute(
        f"SELECT nullif(model_id, '') AS model_id, {_SUMS} FROM totals"  # noqa: S608
        " WHERE program_id = ? AND content_hash = ? GROUP BY totals.model_id ORDER BY totals.model_id",
        (program_id, content_hash),
    )
    return items_of(rows)


def matrix_totals(question: Question, program_id: str) -> dict[tuple[str | None, str | None], Item] | None:
    """The executions of a program by version and model; null when asked of the past.

    Executions of contents that are not registered are under the version null, those that named no model
    under the model null.
    """
    if question.as_of is not None:
        return None
    rows = question.db.execute(
        f"SELECT v.version, nullif(model_id, '') AS model_id, {_SUMS} FROM totals t"  # noqa: S608
        " LEFT JOIN versions v ON v.program_id = t.program_id AND v.content_hash = t.content_hash"
        " WHERE t.program_id = ? GROUP BY v.version, t.model_id",
        (program_id,),
    )
    items = items_of(rows)
    return {(item.pop("version"), item.pop("model_id")): item for item in items}
