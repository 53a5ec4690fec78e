"""`sinkscope planted`: the bench with planted truth. Heavy imports happen inside the functions."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from sinkscope.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd


def planted(arguments: Namespace) -> int:
    """Run the bench; print right answers of all, per case; 1 if any is wrong."""
    import pandas as pd

    from sinkscope._commands import _print_table
    from sinkscope.recipes.planted import CASES, bench, tally

    out = arguments.out
    if out is not None and out.suffix != ".csv":
        raise UsageError(f"--out {out}: expected a name that ends in .csv.")
    if arguments.seeds < 1:
        raise UsageError(f"--seeds {arguments.seeds}: expected a whole number from 1.")
    names = arguments.cases or tuple(CASES)
    for name in names:
        if name not in CASES:
            raise unknown("planted case", name, CASES)
    frames = []
    for name in names:
        frames.append(bench(range(arguments.seeds), [name]))
        if not arguments.quiet:
            print(_line(frames[-1]), file=sys.stderr)
    table = pd.concat(frames, ignore_index=True)
    _print_table(f"planted truth, {arguments.seeds} seeds per case", tally(table))
    wrong = table[~table["correct"]]
    if len(wrong):
        _print_table("wrong answers", wrong.drop(columns="correct"))
    if out is not None:
        from sinkscope.study._files import write_bytes

        write_bytes(out, table.to_csv(index=False).encode())
        print(f"answers: {out}")
    print(f"{int(table['correct'].sum())} of {len(table)} answers are right")
    return 1 if len(wrong) else 0


def _line(frame: pd.DataFrame) -> str:
    return f"{frame['case'].iloc[0]}: {int(frame['correct'].sum())} of {len(frame)}"
