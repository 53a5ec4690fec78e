"""What was seen inside one `observe` block, as tensors and tables.

Rows are identified by branch and unit, not by their place in a batch: the two calls of separate guidance, and
several generations inside one block, are put side by side along the row axis. Units are counted through all
generations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sinkscope.errors import NoMatchError, UsageError, unknown
from sinkscope.models._growing import common_axis, places_on
from sinkscope.models._roles import ROLE_COLUMNS, role_columns
from sinkscope.models._seen import Seen, origin_columns
from sinkscope.models._table import TOKEN_COLUMNS, Columns, identities, site_name, stack
from sinkscope.models._units import RowId, Units

ORIGIN = ("step", "timestep", "branch", "unit", "layer", "site")


class Observation:
    """Measurements of every observed call; filled while the pipeline runs."""

    def __init__(self, units: Units, *, where: str) -> None:
        self._units = units
        self._where = where
        self._seen: dict[tuple[object, ...], Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, seen: Seen) -> None:
        """Keep a record; a later record of the same call replaces its rows."""
        known = self._seen.get(seen.key)
        self._seen[seen.key] = seen if known is None else known.merge(seen)

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps that were seen: the first axis of `mass`."""
        return tuple(sorted({seen.step for seen in self._records()}))

    def rows(
        self, layer: int | None = None, queries: str | None = None, *, site: str | None = None
    ) -> pd.DataFrame:
        """What the row axis of `mass` stands for: `row branch unit repeat` (frames or windows)."""
        rows = _rows(self._select(layer, queries, site))
        return pd.DataFrame(
            {
                "row": np.arange(len(rows)),
                "branch": [row.branch for row in rows],
                "unit": self._units.column(rows),
                "repeat": [row.repeat for row in rows],
            }
        )

    def mass(
        self, layer: int | None = None, queries: str | None = None, *, site: str | None = None
    ) -> Tensor:
        """Incoming mass `[step, row, head, key]`, float32; sums to one over keys (NaN left out).

        The first axis follows `steps`, the second `rows`, the third the heads asked for. Rows that a step did
        not run (guidance switched off for part of the run) are NaN there. Of several evaluations of the model
        within a step (Heun, skip-layer guidance) the first is returned; the tables hold all. While a language
        model generates its keys grow: key j is the same token in every step, NaN before it exists.

        Args:
            layer: Block number; may be left out when one layer was observed.
            queries: Query group; may be left out when one was observed.
            site: Module path, where a layer holds several observed sites.

        Raises:
            UsageError: no such layer, site or group, or the choice is not unique; or generations differ in
                their number of keys; or mass was not kept.
            NoMatchError: nothing has been seen.
        """
        chosen = self._select(layer, queries, site)
        if "mass" not in chosen[0].values:
            raise UsageError("Mass was not kept. Observe with keep=('mass', ...), which is the default.")
        heads, count = common_axis(chosen)
        rows, steps = _rows(chosen), sorted({seen.step for seen in chosen})
        result = torch.full((len(steps), len(rows), heads, count), torch.nan)
        for seen, ranks in _ranked(chosen):
            places = places_on(seen, count)
            for index, row in enumerate(seen.rows):
                if ranks[index] == 0:
                    part = result[steps.index(seen.step), rows.index(row)]
                    part[:, places] = seen.values["mass"][index]
        return result

    def sinks(self, keys_per_head: int = 1, *, queries: str | None = None) -> pd.DataFrame:
        """The keys of largest mass of every head, with their identity.

        Returns:
            One row per step, branch, unit, site, head and rank: `step timestep branch unit layer site head
            rank key segment position token role encoder image_row image_column mass times_uniform queries
            evaluation`. Rank starts at 0. `times_uniform` is mass times the number of keys the model lets be
            attended. Video models have a last column `frame`.

        Raises:
            UsageError: more keys asked for than there are, or mass was not kept.
            NoMatchError: nothing has been seen.
        """
        if isinstance(keys_per_head, bool) or not isinstance(keys_per_head, int) or keys_per_head < 1:
            raise UsageError(f"Got keys_per_head={keys_per_head!r}. Expected a whole number of at least 1.")
        parts = [
            self._sink_columns(seen, ranks, keys_per_head) for seen, ranks in _ranked(self._records(queries))
        ]
        order = (
            *ORIGIN,
            "head",
            "rank",
            "key",
            *TOKEN_COLUMNS,
            "mass",
            "times_uniform",
            "queries",
            "evaluation",
        )
        return stack(parts, order)

    def _sink_columns(self, seen: Seen, ranks: Sequence[int], count: int) -> Columns:
        if "mass" not in seen.values:
            raise UsageError("Mass was not kept. Observe with keep=('mass', ...), which is the default.")
        mass = seen.values["mass"]
        if count > mass.shape[2]:
            raise UsageError(
                f"Got keys_per_head={count}, but {site_name(seen.site)} has {mass.shape[2]} keys."
            )
        # A stable sort gives ties to the lower key, as the selectors do.
        values, keys = mass.sort(dim=-1, descending=True, stable=True)
        each = mass.shape[1] * count
        columns = {
            name: np.repeat(part, each) for name, part in origin_columns(seen, ranks, self._units).items()
        }
        places = keys[..., :count].numpy()
        allowed = np.repeat(seen.values["keys"].numpy(), each)
        top = values[..., :count].numpy().ravel()
        return {
            **columns,
            "head": np.tile(np.repeat(np.array(seen.heads), count), len(seen.rows)),
            "rank": np.tile(np.arange(count), len(seen.rows) * mass.shape[1]),
            "key": places.ravel(),
            **identities(seen.tokens, np.repeat(np.arange(len(seen.rows)), each), places.ravel()),
            "mass": top,
            "times_uniform": top * allowed,
            "queries": np.full(top.size, seen.queries, dtype=object),
        }

    def summary(self, *, queries: str | None = None) -> pd.DataFrame:
        """How concentrated attention was, one row per step, branch, unit and site.

        Returns:
            `step timestep branch unit layer site max_mass mean_top1 times_uniform entropy top5_mass
            max_activation keys queries evaluation` and `mass_<segment>`. `max_mass` is the largest mass of a
            key in any head, `mean_top1` the largest mass of each head averaged over heads, `times_uniform`
            that times `keys`, the number of keys the model lets be attended; `entropy` (nats), `top5_mass`
            and segments are averaged over heads; `max_activation` is the largest absolute attention output.
            NaN: not kept, or no such segment.

        Raises:
            NoMatchError: nothing has been seen.
        """
        parts = [self._summary_columns(seen, ranks) for seen, ranks in _ranked(self._records(queries))]
        names = ("max_mass", "mean_top1", "times_uniform", "entropy", "top5_mass", "max_activation", "keys")
        return stack(parts, (*ORIGIN, *names, "queries", "evaluation"))

    def _summary_columns(self, seen: Seen, ranks: Sequence[int]) -> Columns:
        values = seen.values
        missing = torch.full((len(seen.rows), 1), torch.nan)
        top1 = values["top1"].mean(dim=1)
        keys = values["keys"]
        columns = {
            "max_mass": values["top1"].amax(dim=1),
            "mean_top1": top1,
            "times_uniform": top1 * keys,
            "entropy": values.get("entropy", missing).mean(dim=1),
            "top5_mass": values["top5"].mean(dim=1),
            "max_activation": values.get("max_activation", missing).amax(dim=1),
            "keys": keys,
            **{name: value.mean(dim=1) for name, value in values.items() if name.startswith("mass_")},
        }
        numbers = {name: value.numpy() for name, value in columns.items()}
        queries = np.full(len(seen.rows), seen.queries, dtype=object)
        return {**origin_columns(seen, ranks, self._units), **numbers, "queries": queries}

    def roles(self) -> pd.DataFrame:
        """How much mass each segment and role gets, from every stream of queries (image, text, ...).

        Returns:
            One row per step, branch, unit, site, stream of queries and kind of key: `step timestep branch
            unit layer site segment role encoder keys mass queries evaluation`. `mass` is the sum over the
            keys of that kind, averaged over heads, and adds up to one within a stream; `keys` counts those of
            them that the model lets be attended.

        Raises:
            UsageError: mass by role was not kept.
            NoMatchError: nothing has been seen.
        """
        kept = [(seen, ranks) for seen, ranks in _ranked(self._records()) if "open" in seen.values]
        if not kept:
            raise UsageError(
                "Mass by role was not kept. Observe with keep=('roles', ...), which is the default."
            )
        parts = [role_columns(seen, ranks, self._units) for seen, ranks in kept]
        return stack(parts, (*ORIGIN, *ROLE_COLUMNS, "queries", "evaluation"))

    def check(self) -> None:
        """Refuse an observation of nothing.

        Raises:
            NoMatchError: no attention call was observed.
        """
        if not self._seen:
            raise NoMatchError(
                f"Nothing was seen: {self._where} matched no attention call. Run the pipeline inside the "
                "with block, and look at sinkscope.sites(pipe) for what there is."
            )

    def _records(self, queries: str | None = None) -> list[Seen]:
        self.check()
        groups = list(dict.fromkeys(seen.queries for seen in self._seen.values()))
        if queries is not None and queries not in groups:
            raise unknown("observed query group", queries, groups)
        return [seen for seen in self._seen.values() if queries in (None, seen.queries)]

    def _select(self, layer: int | None, queries: str | None, site: str | None) -> list[Seen]:
        records = self._records(queries)
        if layer is not None:
            layers = {seen.site.layer for seen in records}
            if layer not in layers:
                raise unknown("observed layer", layer, sorted(known for known in layers if known is not None))
            records = [seen for seen in records if seen.site.layer == layer]
        names = {name for seen in records for name in (seen.site.name, seen.site.key)}
        if site is not None:
            if site not in names:
                raise unknown("observed site", site, sorted(names))
            records = [seen for seen in records if site in (seen.site.name, seen.site.key)]
        _refuse_several("site", "site=", [seen.site.name for seen in records])
        _refuse_several("query group", "queries=", [seen.queries for seen in records])
        # A module may make one call per batch row (Mochi) or several for the same rows (Wan image-to-video).
        calls = [(seen.generation, seen.evaluation, row) for seen in records for row in seen.rows]
        if len(set(calls)) < len(calls):
            _refuse_several("call", "site=", [seen.site.key for seen in records])
        return records


def _refuse_several(kind: str, argument: str, names: Sequence[str]) -> None:
    distinct = list(dict.fromkeys(names))
    if len(distinct) > 1:
        raise UsageError(
            f"Got {len(distinct)} observed {kind}s: {', '.join(distinct)}. Say which with {argument}."
        )


def _rows(records: Collection[Seen]) -> list[RowId]:
    return list(dict.fromkeys(row for seen in records for row in seen.rows))


def _ranked(records: Collection[Seen]) -> Iterator[tuple[Seen, list[int]]]:
    """Number the evaluations of every row within a step."""
    counts: dict[tuple[object, ...], int] = {}
    for seen in records:
        ranks = []
        for row in seen.rows:
            key = (seen.generation, seen.step, seen.site.key, seen.queries, row)
            ranks.append(counts.get(key, 0))
            counts[key] = ranks[-1] + 1
        yield seen, ranks
