"""What importing the client costs: time and memory, each in fresh interpreters.

    python bench/imports.py [--quick] [--json FILE] [--what]

Lines alternate in rounds; the table shows the median time, and the memory (RSS) above that of a bare
interpreter. ``--what`` lists what the costliest imports of the Ledger are.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile

from rig import console, free_port, machine, parser, table, write_json

SNIPPETS = {
    "bare interpreter": "",
    "import dspy_ledger.producer": "import dspy_ledger.producer",
    "… and Ledger": "from dspy_ledger.producer import Ledger",
    "… and connect (Redis down)": "from dspy_ledger.producer import Ledger\nledger = Ledger.connect(URL)",
    "import redis": "import redis",
    "import pydantic_settings": "import pydantic_settings",
    "import dspy": "import dspy",
    "import dspy, then Ledger": "import dspy\nfrom dspy_ledger.producer import Ledger",
}
TARGET = "target: importing dspy_ledger.producer < 80 ms, < 15 MB"

# Both are taken at the same place, before the interpreter cleans up and before anything exits.
AROUND = """\
from time import perf_counter
URL = "redis://127.0.0.1:{port}/0"
start = perf_counter()
{snippet}
seconds = perf_counter() - start
with open("/proc/self/statm") as statm:
    print(seconds, int(statm.read().split()[1]))
"""


def measure(snippet: str, environment: dict[str, str]) -> tuple[float, float]:
    """Milliseconds of the imports and resident bytes after them."""
    code = AROUND.format(port=free_port(), snippet=snippet)
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    seconds, pages = answer.stdout.split()
    return float(seconds) * 1000, int(pages) * os.sysconf("SC_PAGE_SIZE")


def costliest(environment: dict[str, str]) -> list[tuple[float, float, str]]:
    """Milliseconds with and without what it imports, and the name, of each module that Ledger imports."""
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", SNIPPETS["… and Ledger"]],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \| (.*)", answer.stderr)
    return sorted(((int(whole) / 1000, int(own) / 1000, name) for own, whole, name in lines), reverse=True)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--what", action="store_true", help="list the costliest imports of the Ledger")
    given = options.parse_args()
    rounds = 5 if given.quick else 20
    words = machine("redis", "pydantic", "pydantic-settings", "dspy")
    console.print(f"{words}\nmedian of {rounds} fresh interpreters; {TARGET}\n")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DSPY_LEDGER_WAL_DIR": folder}
        if given.what:
            report = table("", "module", "ms", "ms of its own")
            for whole, own, name in costliest(environment)[:40]:
                report.add_row(name, f"{whole:.1f}", f"{own:.1f}")
            console.print(report)
            return
        samples: dict[str, list[tuple[float, float]]] = {label: [] for label in SNIPPETS}
        for snippet in SNIPPETS.values():  # compiles what is not compiled, and warms the page cache
            measure(snippet, environment)
        for _ in range(rounds):
            for label, snippet in SNIPPETS.items():
                samples[label].append(measure(snippet, environment))
    results = {}
    bare = statistics.median(size for _, size in samples["bare interpreter"])
    report = table("", "", "ms", "min", "max", "MB above bare")
    for label, taken in samples.items():
        times = sorted(ms for ms, _ in taken)
        memory = (statistics.median(size for _, size in taken) - bare) / 1e6
        results[label] = {"ms": statistics.median(times), "min": times[0], "max": times[-1], "mb": memory}
        report.add_row(label, *(f"{results[label][name]:.1f}" for name in ("ms", "min", "max", "mb")))
    console.print(report)
    write_json(given.json, words, results)


if __name__ == "__main__":
    main()
