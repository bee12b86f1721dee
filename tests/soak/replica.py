"""A busy replica, to be killed: threads that record, and note what was recorded once record() has returned.

    python tests/soak/replica.py NOTES SEED [REST]      (settings from the environment)

REST: the longest rest of a thread between two bursts, in seconds; with 0.03, the default, a replica records
about as fast as it can. Each note is one line of a file, written after the return: what was written outlives
kill -9.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time

from dspy_ledger.producer import Ledger
from dspy_ledger.producer.proposals import Proposal
from dspy_ledger.timestamps import utc_now

THREADS = 4


def execution(program: str, chance: random.Random) -> dict[str, object]:
    return {
        "execution_id": f"{chance.getrandbits(64):x}",
        "program_id": program,
        "status": "ok",
        "started_at": utc_now(),
        "latency_ms": chance.uniform(1, 1000),
        "usage": {"input_tokens": chance.randrange(2000), "output_tokens": chance.randrange(500)},
    }


def proposal(program: str, chance: random.Random) -> Proposal:
    data = {
        "program_id": program,
        "name": program,
        "version": "1.0.0",
        "content_hash": f"c1:{chance.randrange(5)}",
        "kind": "signature",
    }
    return Proposal.make(data, b'{"state":{}}', requested=None, base_version=None, parent_content=None)


def work(ledger: Ledger, notes: int, seed: str, rest: float) -> None:
    """Bursts and rests, so that the kill finds the sender waiting, sending and behind."""
    chance = random.Random(seed)
    while True:
        for _ in range(chance.randrange(40)):
            program = f"program_{chance.randrange(3)}"
            if chance.random() < 0.02:
                registration = proposal(program, chance)
                ledger.register(registration, timeout=chance.choice((0, 0.25)))
                event_id = registration.event_id
            else:
                body = {"inputs": {"text": "x" * chance.randrange(2000)}}
                event_id = ledger.record("ExecutionCompleted", execution(program, chance), body=body)
            os.write(notes, f"{event_id}\n".encode())
        time.sleep(chance.uniform(0, rest))


def main() -> None:
    notes = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ledger = Ledger.connect()
    os.write(notes, f"{ledger.source}\n".encode())
    rest = float(sys.argv[3]) if len(sys.argv) > 3 else 0.03
    for number in range(THREADS):
        given = (ledger, notes, f"{sys.argv[2]}-{number}", rest)
        threading.Thread(target=work, args=given, daemon=True).start()
    signal.pause()


if __name__ == "__main__":
    main()
