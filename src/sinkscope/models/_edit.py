"""An edit as data: which keys, what happens to them, and where.

An `Edit` holds no tensors and no model. The same frozen object comes out of Python, a YAML file and the
command line; its hash names it in receipts and run folders. `Edit.control` builds the edit that it has to be
compared with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from sinkscope.attention import Action, Mask, Selector, action_from_dict, selector_from_dict
from sinkscope.errors import UsageError, unknown
from sinkscope.models._control import ControlInfo, Treated, control_parts
from sinkscope.models._scope import WHOLE_RUN, normal_branch, normal_numbers, normal_steps


@dataclass(frozen=True)
class Edit:
    """One change of the attention of a model.

    Example:
        >>> from sinkscope.attention import Mask, TopMass
        >>> edit = Edit(TopMass(keys_per_head=1), Mask(), layers=[3], steps=(0.0, 0.4), branch="cond")
        >>> Edit.from_dict(edit.to_dict()) == edit
        True

    Raises:
        UsageError: a field does not say what it should; the message names what was expected.
    """

    select: Selector
    """Which keys (or queries) are edited, chosen anew in every call."""
    action: Action = field(default_factory=Mask)
    """What happens to what was chosen."""
    layers: Sequence[int] | None = None
    """Block numbers counted from 0; None for all. Kept as a sorted tuple."""
    sites: str | None = None
    """A glob over module paths, for example `"*.attn2"`."""
    kind: str | None = None
    """`"joint"`, `"self"`, `"cross"`, `"temporal"` or `"all"`, where a block has several sites."""
    steps: Sequence[float] = WHOLE_RUN
    """A window of the run in fractions of it, or a list of step numbers."""
    branch: str = "both"
    """`"cond"` or `"uncond"` to edit one side of the guidance only."""
    heads: Sequence[int] | None = None
    """Head numbers counted from 0; None for all. Kept as a sorted tuple."""
    queries: str = "all"
    """Whose attention is changed: `"all"` or the name of a segment such as `"image"` or `"text"`. Stays
    `"all"` where queries are chosen: their selector has the group."""
    control_info: ControlInfo | None = None
    """Set by `Edit.control`: whose control this is and what is matched."""

    def __post_init__(self) -> None:
        if not callable(getattr(self.select, "choose", None)):
            raise UsageError(
                f"Got select={self.select!r}. Expected a selector such as TopMass(keys_per_head=1)."
            )
        if not isinstance(getattr(self.action, "stage", None), str):
            raise UsageError(f"Got action={self.action!r}. Expected an action such as Mask().")
        self._check_sides()
        for name in ("sites", "kind"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise UsageError(f"Got {name}={value!r}. Expected a non-empty string or None.")
        if not isinstance(self.queries, str) or not self.queries:
            raise UsageError(f"Got queries={self.queries!r}. Expected 'all' or the name of a segment.")
        normal = {
            "layers": normal_numbers("layers", self.layers),
            "heads": normal_numbers("heads", self.heads),
            "steps": normal_steps(self.steps),
            "branch": normal_branch(self.branch),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)

    def _check_sides(self) -> None:
        chosen, acted = getattr(self.select, "side", "keys"), getattr(self.action, "side", "keys")
        if chosen != acted:
            other = "TopConcentration" if acted == "queries" else "TopMass"
            raise UsageError(
                f"{type(self.select).__name__} chooses {chosen}, but {type(self.action).__name__} acts on "
                f"{acted}. Expected one side, for example {other} with {type(self.action).__name__}."
            )
        if chosen == "queries" and self.queries != "all":
            raise UsageError(
                f"Got queries={self.queries!r} beside {type(self.select).__name__}, which chooses queries "
                f"itself. Expected the group there, for example queries={self.queries!r} of the selector."
            )

    def to_dict(self) -> dict[str, Any]:
        """The edit as plain data for YAML or JSON; fields at their default are left out."""
        plain: dict[str, Any] = {"select": self.select.to_dict(), "action": self.action.to_dict()}
        for name in _SCOPE_FIELDS:
            value = getattr(self, name)
            if value != _DEFAULTS[name]:
                plain[name] = list(value) if isinstance(value, tuple) else value
        if self.control_info is not None:
            plain["control"] = self.control_info.to_dict()
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Edit:
        """Build the edit that `to_dict` wrote.

        Raises:
            UsageError: an unknown field, selector, action or value.
        """
        if not isinstance(plain, Mapping) or "select" not in plain:
            raise UsageError(
                f"Got {plain!r} as an edit. Expected a mapping with at least the field 'select'."
            )
        known = ("select", "action", *_SCOPE_FIELDS, "control")
        for name in plain:
            if name not in known:
                raise unknown("field of an edit", name, known)
        parts: dict[str, Any] = {name: plain[name] for name in _SCOPE_FIELDS if name in plain}
        parts["select"] = selector_from_dict(plain["select"])
        if "action" in plain:
            parts["action"] = action_from_dict(plain["action"])
        if plain.get("control") is not None:
            parts["control_info"] = ControlInfo.from_dict(plain["control"])
        return cls(**parts)

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name this edit; equal settings have equal names on any machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def control(self, kind: str, seed: int = 0) -> Edit:
        """The edit that this one has to be compared with; same layers, steps, branch, heads and queries.

        The `"query"` control chooses among the edit's queries, and says so in its selector.

        Args:
            kind: `"count"` (as many random keys), `"segment"` (also as many per segment), `"mass"` (random
                keys that hold as much mass), `"persistence"` (for each treated key a random one of its
                segment, the same in all steps), `"bottom"` (as many keys, those of smallest mass), `"next"`
                (as many keys, those ranked just below), `"query"` (no key; the output of as many queries,
                those of most concentrated attention, becomes the mean value) or `"null"` (no key, but the
                masked kernel path).
                None of the random ones ever takes a key that the treatment would take in that call.
            seed: Names the random draw; the draw itself is keyed by unit, site, branch and step.

        Raises:
            UsageError: an unknown kind, or one that this selector has no counterpart for.
        """
        if self.control_info is not None:
            of, own = self.control_info.of, self.control_info.kind
            raise UsageError(
                f"Got the {own!r} control of edit {of}. Expected an edit: call .control on the original."
            )
        parts = control_parts(Treated(self.select, self.action, self.queries), kind, seed=seed)
        info = ControlInfo(of=self.hash, kind=kind, matched=parts.matched, text=parts.text, seed=parts.seed)
        queries = "all" if kind == "query" else self.queries
        return replace(self, select=parts.select, action=parts.action, queries=queries, control_info=info)


_SCOPE_FIELDS = ("layers", "sites", "kind", "steps", "branch", "heads", "queries")
_DEFAULTS = {entry.name: entry.default for entry in fields(Edit)}
