"""A finished run in, pages and figures out.

`build` writes `report.html`, one self-contained file; `sinkscope.report.figures` holds the same figures for
notebooks and for `figures/*.png`. Only the files of the run folder are read; nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["build", "build_beside", "write_figures"]


def build(run_folder: Path | str, *, out: Path | str | None = None) -> Path:
    """Write `report.html` of a run folder and return its path.

    Args:
        run_folder: A folder written by `sinkscope.run`.
        out: Where to write instead of `report.html` in the run folder.

    Raises:
        sinkscope.errors.StoreError: Not a run folder, a damaged file, or the page cannot be written.
    """
    from sinkscope.report._page import build as build_page

    return build_page(run_folder, out=out)


def build_beside(folders: Mapping[str, Path | str], out: Path | str) -> Path:
    """Write one page of several runs beside each other and return its path.

    Args:
        folders: Name of each run -> its folder; differences are taken from the first one. Their arms have the
            same names, and for differences their prompts are the same.
        out: Path of the page.

    Raises:
        sinkscope.errors.UsageError: Fewer than two runs.
        sinkscope.errors.StoreError: Not a run folder, a damaged file, or the page cannot be written.
    """
    from sinkscope.report._beside import build_beside as build_page

    return build_page(folders, out)


def write_figures(
    run_folder: Path | str, out: Path | str | None = None, *, formats: tuple[str, ...] = ("png", "svg")
) -> list[Path]:
    """Write the figures of a run to `figures/` and return their paths.

    Args:
        run_folder: A folder written by `sinkscope.run`.
        out: Folder of the figures; default `figures` in the run folder.
        formats: Any of "png", "svg", "pdf".

    Raises:
        sinkscope.errors.StoreError: Not a run folder, or a damaged file.
        sinkscope.errors.UsageError: An unknown format.
    """
    from sinkscope.report.figures import write

    return write(run_folder, out, formats=formats)
