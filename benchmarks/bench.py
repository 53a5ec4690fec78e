"""All benchmarks, and their tables in `docs/performance.md`: `make bench`.

Each script prints a table; here it is shown and put between its marks in the page, which say which scripts
there are. `--only naive` runs one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
WIDTH = 110
PAGE = HERE.parent / "docs" / "performance.md"


def put(page: str, name: str, table: str) -> str:
    """The page with a new table between the marks of a script."""
    start, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    if page.count(start) != 1 or page.count(end) != 1:
        raise SystemExit(f"{PAGE} needs the lines {start} and {end} once each.")
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{fitted(table)}\n{end}{after}"


def fitted(text: str) -> str:
    """Paragraphs in lines of the page's width; tables as they are."""
    lines = text.strip().splitlines()
    return "\n".join(
        line if line.startswith("|") else "\n".join(textwrap.wrap(line, WIDTH)) for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    known = re.findall(r"<!-- bench:(\w+) -->", PAGE.read_text(encoding="utf-8"))
    parser.add_argument("--only", choices=known, nargs="+", default=known)
    for name in parser.parse_args().only:
        command = [sys.executable, str(HERE / f"{name}.py")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout, flush=True)
        # Read again: the page may have been edited while the benchmark ran.
        PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), name, done.stdout), encoding="utf-8")


if __name__ == "__main__":
    main()
