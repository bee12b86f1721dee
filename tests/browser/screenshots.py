"""Take a picture of every page, light and dark, wide and narrow, for somebody to look at.

    uv run --group browser python tests/browser/screenshots.py DIR [--url http://127.0.0.1:8321]

Without a URL it runs the demo and serves that.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the suites' own modules

from browser.chromium import PHONE, WIDE, Reader, chromium
from browser.system import paths, running


def take(base: str, folder: Path) -> list[str]:
    """PNG files named PAGE-SCHEME-WIDTH; what went wrong in the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    with chromium() as browser:
        for scheme in ("light", "dark"):
            for width in (WIDE, PHONE):
                reader = Reader(browser, base, width=width, scheme=scheme, javascript=True)
                for name, path in paths(base).items():
                    reader.page.goto(path)
                    for chart in reader.page.locator(".chart").all():  # drawn once it is in sight
                        chart.scroll_into_view_if_needed()
                        reader.settle()
                    reader.page.evaluate("scrollTo(0, 0)")
                    reader.settle()
                    reader.page.screenshot(path=folder / f"{name}-{scheme}-{width}.png", full_page=True)
                reader.close()
                problems += reader.problems
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--url")
    arguments = parser.parse_args()
    if arguments.url:
        problems = take(arguments.url.rstrip("/"), arguments.folder)
    else:
        with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as system:
            problems = take(system.url, arguments.folder)
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
