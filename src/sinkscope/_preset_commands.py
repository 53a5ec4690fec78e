"""What the commands about the paper's presets do. Heavy imports happen inside the functions."""

from __future__ import annotations

from argparse import Namespace


def compare(arguments: Namespace) -> int:
    """Print a run of a preset beside what the paper's release states, and write it where asked."""
    from sinkscope._commands import _print_table, _quiet_libraries
    from sinkscope.recipes._compare import compare as compare_run
    from sinkscope.recipes._compare_write import check_path, notes, readable, title, write

    if arguments.out is not None:
        check_path(arguments.out)
    _quiet_libraries()
    frame = compare_run(arguments.run)
    _print_table(title(frame), readable(frame))
    if arguments.notes:
        print("\n".join(f"{words}: {note}" for words, note in notes(frame)))
    if arguments.out is not None:
        write(frame, arguments.out)
        print(f"comparison: {arguments.out}")
    return 0
