"""Pipelines in, attention calls out."""

from __future__ import annotations

from ._call import AttentionCall, Branch, Handler, Kind, Role, RowInfo, Run, Site, Token
from ._control import ControlInfo
from ._edit import Edit
from ._intervene import intervene
from ._load import load
from ._map import AttentionMap, MappedCall, PartMap, attention_map
from ._match_table import match_table
from ._observation import Observation
from ._observe import observe
from ._probe import Labels, probe_layout
from ._receipt import Receipt
from ._session import Session
from ._sites import list_sites as sites
from ._sites import resolve_sites
from .families import known_families

__all__ = [
    "AttentionCall",
    "AttentionMap",
    "Branch",
    "ControlInfo",
    "Edit",
    "Handler",
    "Kind",
    "Labels",
    "MappedCall",
    "Observation",
    "PartMap",
    "Receipt",
    "Role",
    "RowInfo",
    "Run",
    "Session",
    "Site",
    "Token",
    "attention_map",
    "intervene",
    "known_families",
    "load",
    "match_table",
    "observe",
    "probe_layout",
    "resolve_sites",
    "sites",
]
