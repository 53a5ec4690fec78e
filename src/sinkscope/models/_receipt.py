"""What an edit really did: the keys it took, the mass they had and have, and the keys that took the mass
    over.

All numbers are measured on the call the edit was applied to, in float32: the mass before from the model's own
attention, the mass after from the edited one. Where several edits act on one call, the mass after is under
all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from torch import Tensor

from sinkscope.errors import UsageError
from sinkscope.models._roles import TAKEOVER_COLUMNS, takeover_columns
from sinkscope.models._seen import Seen, origin_columns
from sinkscope.models._table import TOKEN_COLUMNS, Column, Columns, identities, site_name, stack
from sinkscope.models._units import Units

ORIGIN = ("step", "timestep", "branch", "unit", "layer", "site", "head")
_EDITED = ("keys", "share_of_keys", "mass_before", "mass_after")
_COMPARED = ("outputs", "kept", "treated_keys", "treated_mass")
REPLACEMENT_COLUMNS = ("rank", "key", *TOKEN_COLUMNS, "gain", "mass_before", "mass_after")


Places: TypeAlias = tuple[Column, Column, Column]


@dataclass(frozen=True, eq=False)
class Applied:
    """One edit on one call.

    `seen.values` has `count`, `keys`, `outputs`, `kept`, if measured the two masses, and of a control
    `treated_keys` and `treated_mass`.
    """

    seen: Seen
    edit: str
    """`Edit.hash`."""
    places: Places
    """Index arrays (row, head, key) of the edited keys; heads count within `seen.heads`."""
    queried: Places
    """Index arrays (row, head, query) of the queries whose output was replaced."""
    edited: dict[str, Column]
    """`mass_before` and `mass_after` of each edited key; empty without measuring."""


class Receipt:
    """Filled while the pipeline runs inside an `intervene` block."""

    def __init__(self, units: Units, *, full: bool) -> None:
        self._units = units
        self._full = full
        self._applied: dict[tuple[object, ...], Applied] = {}

    def __len__(self) -> int:
        """Number of calls that an edit was applied to, counted once per edit."""
        return len(self._applied)

    def add(self, applied: Applied) -> None:
        """Keep a record; a later record of the same edit on the same call replaces it."""
        self._applied[(applied.edit, *applied.seen.key)] = applied

    def table(self) -> pd.DataFrame:
        """What was edited, one row per step, branch, unit, site and head.

        Returns:
            `step timestep branch unit layer site head keys share_of_keys mass_before mass_after outputs kept
            treated_keys treated_mass queries edit evaluation keys_<segment>`. `keys` counts the edited keys,
            `share_of_keys` is their share of the keys the model lets be attended, `keys_<segment>` how many
            lie in each segment. `mass_before` and `mass_after` are the sums of their own incoming mass,
            averaged over the query group `queries`; NaN with `receipt=False`. `outputs` counts the queries
            whose output was replaced. `kept` is the share of the chosen keys (or queries) that the edit had
            also chosen in the step before; NaN where there was none. Of a control, `treated_keys` and
            `treated_mass` are the number and the mass of the keys the treatment would have taken in the same
            call; NaN where the edit is no control.
        """
        parts = [self._table_columns(applied, ranks) for applied, ranks in self._ranked()]
        table = stack(parts, (*ORIGIN, *_EDITED, *_COMPARED, "queries", "edit", "evaluation"))
        # A site without a segment has no key there.
        names = [str(name) for name in table.columns if str(name).startswith("keys_")]
        counts = {name: table[name].fillna(0).astype("int64") for name in names}
        return table.assign(**counts)

    def _table_columns(self, applied: Applied, ranks: list[int]) -> Columns:
        seen = applied.seen
        count = seen.values["count"].numpy()
        missing = np.full(count.size, np.nan)
        given = {
            name: seen.values[name].numpy().ravel() if name in seen.values else missing
            for name in ("mass_before", "mass_after", *_COMPARED)
        }
        rows, heads = np.indices(count.shape)
        return {
            **self._origin(applied, ranks, rows.ravel(), heads.ravel()),
            "keys": count.ravel(),
            "share_of_keys": (count / seen.values["keys"].numpy()[:, None]).ravel(),
            **given,
            **_per_segment(applied, count.shape),
        }

    def edited_queries(self) -> pd.DataFrame:
        """Every query whose output was replaced.

        Returns:
            `step timestep branch unit layer site head query edit evaluation`; `query` counts from 0 in the
            order of the call.
        """
        parts = []
        for applied, ranks in self._ranked():
            rows, heads, queries = applied.queried
            origin = self._origin(applied, ranks, rows, heads)
            parts.append({**{k: v for k, v in origin.items() if k != "queries"}, "query": queries})
        return stack([part for part in parts if len(part["query"])], (*ORIGIN, "query", "edit", "evaluation"))

    def edited_keys(self) -> pd.DataFrame:
        """Every edited key with its identity.

        Returns:
            `step timestep branch unit layer site head key segment position token role encoder image_row
            image_column mass_before mass_after queries edit evaluation`; masses are NaN with `receipt=False`.
        """
        parts = [self._key_columns(applied, ranks) for applied, ranks in self._ranked()]
        names = ("key", *TOKEN_COLUMNS, "mass_before", "mass_after", "queries", "edit", "evaluation")
        return stack([part for part in parts if len(part["key"])], (*ORIGIN, *names))

    def _key_columns(self, applied: Applied, ranks: list[int]) -> Columns:
        rows, heads, keys = applied.places
        missing = np.full(keys.size, np.nan)
        return {
            **self._origin(applied, ranks, rows, heads),
            "key": keys,
            **identities(applied.seen.tokens, rows, keys),
            "mass_before": applied.edited.get("mass_before", missing),
            "mass_after": applied.edited.get("mass_after", missing),
        }

    def replacements(self, n: int = 5) -> pd.DataFrame:
        """The keys that took the mass over: the largest gains of every head among keys that were not edited.

        Returns:
            `step timestep branch unit layer site head rank key segment position token role encoder image_row
            image_column gain mass_before mass_after queries edit evaluation`; only gains above zero are
            listed.

        Raises:
            UsageError: the block was not opened with `receipt="full"`.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError(f"Got n={n!r}. Expected a whole number of at least 1.")
        self._check_full()
        parts = [
            self._replacement_columns(applied, ranks, n)
            for applied, ranks in self._ranked()
            if "before" in applied.seen.values
        ]
        order = (*ORIGIN, *REPLACEMENT_COLUMNS, "queries", "edit", "evaluation")
        return stack([part for part in parts if len(part["key"])], order)

    def _replacement_columns(self, applied: Applied, ranks: list[int], n: int) -> Columns:
        before, after = applied.seen.values["before"], applied.seen.values["after"]
        gain = after - before
        gain[applied.places] = -np.inf
        gains, order = gain.sort(dim=-1, descending=True, stable=True)
        count = min(n, gain.shape[-1])
        places = order[..., :count]
        keep = gains[..., :count] > 0
        rows, heads, rank = (part.numpy() for part in keep.nonzero(as_tuple=True))
        keys = places[keep].numpy()
        return {
            **self._origin(applied, ranks, rows, heads),
            "rank": rank,
            "key": keys,
            **identities(applied.seen.tokens, rows, keys),
            "gain": gains[..., :count][keep].numpy(),
            "mass_before": _at(before, places)[keep].numpy(),
            "mass_after": _at(after, places)[keep].numpy(),
        }

    def takeover(self) -> pd.DataFrame:
        """Who takes the mass over: what each segment and role loses and gains, averaged over heads.

        Returns:
            `step timestep branch unit layer site segment role encoder edited removed gain mass_before
            mass_after queries edit evaluation`. `edited` is the mass of the edited keys of that kind before
            the edit, `removed` what they lose by it, `gain` what its other keys gain; over kinds these two
            are equal where one edit acts on the call.

        Raises:
            UsageError: the block was not opened with `receipt="full"`.
        """
        self._check_full()
        parts = [
            takeover_columns(applied, ranks, self._units)
            for applied, ranks in self._ranked()
            if "before" in applied.seen.values
        ]
        return stack(parts, (*ORIGIN[:-1], *TAKEOVER_COLUMNS, "queries", "edit", "evaluation"))

    def _check_full(self) -> None:
        if not self._full:
            raise UsageError(
                'Replacements were not measured. Open the block with intervene(..., receipt="full").'
            )

    def _origin(self, applied: Applied, ranks: list[int], rows: Column, heads: Column) -> dict[str, Column]:
        seen = applied.seen
        columns = {name: part[rows] for name, part in origin_columns(seen, ranks, self._units).items()}
        return {
            **columns,
            "head": np.array(seen.heads)[heads],
            "queries": np.full(len(rows), seen.queries, dtype=object),
            "edit": np.full(len(rows), applied.edit, dtype=object),
        }

    def _ranked(self) -> Iterator[tuple[Applied, list[int]]]:
        """Number the evaluations of every row within a step."""
        counts: dict[tuple[object, ...], int] = {}
        for applied in self._applied.values():
            ranks = []
            for row in applied.seen.rows:
                key = (applied.edit, applied.seen.generation, applied.seen.step, applied.seen.site.key, row)
                ranks.append(counts.get(key, 0))
                counts[key] = ranks[-1] + 1
            yield applied, ranks

    def __repr__(self) -> str:
        sites = {site_name(applied.seen.site) for applied in self._applied.values()}
        return f"Receipt({len(self._applied)} edited calls at {len(sites)} sites)"


def _at(mass: Tensor, places: Tensor) -> Tensor:
    return mass.gather(-1, places)


def _per_segment(applied: Applied, shape: tuple[int, ...]) -> Columns:
    """`keys_<segment>`: edited keys per row and head, flattened."""
    rows, heads, keys = applied.places
    tables = [tokens.segments() for tokens in applied.seen.tokens]
    found = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        inside = np.zeros(len(keys), dtype=bool)
        for row, table in enumerate(tables):
            if name in table:
                inside[rows == row] = table[name][keys[rows == row]]
        counts = np.zeros(shape, dtype=np.int64)
        np.add.at(counts, (rows[inside], heads[inside]), 1)
        found[f"keys_{name}"] = counts.ravel()
    return found
