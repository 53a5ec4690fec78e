"""`matches.parquet`: how closely each control matched its treatment, from the receipts of the run."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sinkscope.models import match_table
from sinkscope.models._match_table import MATCH_COLUMNS
from sinkscope.stats import Contrast
from sinkscope.study import _files
from sinkscope.study._store import Store
from sinkscope.study._study import Study

COLUMNS = ("arm", "reference", "control_kind", *MATCH_COLUMNS)
VERSION = 1
"""Raised when the table gets other columns or rules, so that a finished run makes it again."""


def save_matches(store: Store, study: Study, declared: Sequence[Contrast]) -> None:
    """Write `matches.parquet`, unless it already follows from the receipts.

    Raises:
        StoreError: The receipts are missing or damaged.
    """
    pairs = [contrast for contrast in declared if contrast.kind == "edit-control"]
    receipts = _files.digest(_files.read_bytes(store.folder / "receipts.parquet"))
    named = [[contrast.arm, contrast.reference] for contrast in pairs]
    key = _files.digest(_files.canonical([receipts, named, VERSION]).encode())
    if not store.table_is_current("matches", key):
        store.save_table("matches", _matches(store.table("receipts"), study, pairs), key)


def _matches(receipts: pd.DataFrame, study: Study, pairs: Sequence[Contrast]) -> pd.DataFrame:
    frames = []
    arms = {str(name): part for name, part in receipts.groupby("arm", sort=False)} if len(receipts) else {}
    for pair in pairs:
        if pair.arm not in arms or pair.reference not in arms:
            # An edit whose steps no unit has reached leaves no receipt; there is nothing to compare.
            continue
        table = match_table(arms[pair.arm], arms[pair.reference])
        kinds = (edit.control_info.kind for edit in study.edits(pair.reference) if edit.control_info)
        labels = {
            "arm": pair.arm,
            "reference": pair.reference,
            "control_kind": ", ".join(dict.fromkeys(kinds)),
        }
        frames.append(table.assign(**labels)[list(COLUMNS)])
    if not frames:
        return pd.DataFrame(columns=list(COLUMNS), dtype="str")
    return pd.concat(frames, ignore_index=True)
