"""Tensors in, tensors out: statistics and edits of one attention call (q, k, v, mask, scale).

Knows no models and no files. Axes are always ordered row, head, query, key. Everything is exact and uses
memory O(tokens); `reference` holds the float64 formulas with the whole matrix, for comparison.
"""

from __future__ import annotations

from . import reference
from ._actions import (
    Mask,
    ReplaceValue,
    ScaleLogit,
    ScaleProbability,
    action_from_dict,
    action_names,
    register_action,
)
from ._additive import (
    SPLIT_ACTIONS,
    Split,
    can_be_merged,
    can_split,
    candidate_count,
    merge,
    pick_candidates,
    sampled_mass,
    split,
)
from ._apply import Run, apply_edits
from ._backends import added_backends, backends, named_backend, register_backend, use_backend
from ._context import SelectionContext, default_group
from ._derived import segment_mass, top_mass_share
from ._edits import STAGES, Action, EditedCall, ResolvedEdit
from ._fused import model_kernel_with_lse
from ._mass_after import mass_after
from ._match import TOLERANCE as MASS_TOLERANCE
from ._match import match_mass, stand_ins
from ._measure import STATISTICS, Measurement, incoming_mass, measure
from ._operands import Operands, allowed_keys
from ._outputs import (
    RandomQueries,
    ReplaceOutput,
    TopConcentration,
    check_queries,
    largest,
    open_queries,
)
from ._queries import QuerySet
from ._questions import Questions, ask_finite, deferred, on_device
from ._random import KeyedRandom
from ._rowblock import Raw
from ._selectors import (
    BottomMass,
    Frozen,
    Keys,
    MassAbove,
    NextMass,
    RandomKeys,
    Segment,
    Selector,
    TopMass,
    Within,
    register_selector,
    selector_from_dict,
    selector_names,
)

__all__ = [
    "SPLIT_ACTIONS",
    "Split",
    "can_be_merged",
    "can_split",
    "candidate_count",
    "merge",
    "pick_candidates",
    "sampled_mass",
    "split",
    "MASS_TOLERANCE",
    "STAGES",
    "STATISTICS",
    "Action",
    "BottomMass",
    "EditedCall",
    "Frozen",
    "KeyedRandom",
    "Keys",
    "Mask",
    "MassAbove",
    "Measurement",
    "NextMass",
    "Operands",
    "QuerySet",
    "Questions",
    "RandomKeys",
    "RandomQueries",
    "Raw",
    "ReplaceOutput",
    "ReplaceValue",
    "ResolvedEdit",
    "Run",
    "ScaleLogit",
    "ScaleProbability",
    "Segment",
    "SelectionContext",
    "Selector",
    "TopConcentration",
    "TopMass",
    "Within",
    "action_from_dict",
    "action_names",
    "added_backends",
    "allowed_keys",
    "apply_edits",
    "ask_finite",
    "backends",
    "check_queries",
    "default_group",
    "deferred",
    "incoming_mass",
    "largest",
    "mass_after",
    "match_mass",
    "measure",
    "named_backend",
    "on_device",
    "model_kernel_with_lse",
    "open_queries",
    "reference",
    "register_action",
    "register_backend",
    "register_selector",
    "segment_mass",
    "selector_from_dict",
    "selector_names",
    "stand_ins",
    "top_mass_share",
    "use_backend",
]
