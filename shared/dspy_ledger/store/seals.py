"""The seal of a stored event: a checksum of the columns that its payload does not vouch for."""

from __future__ import annotations

from zlib import crc32

__all__ = ["seal"]


def seal(position: int, stream_id: str | None, recorded_at: str, digest: str) -> int:
    """CRC-32 that notices when a bit flips; no protection against somebody who means it."""
    return crc32(f"{position} {stream_id} {recorded_at} {digest}".encode())
