"""Pipelines in, attention calls out."""

from __future__ import annotations

from ._call import AttentionCall, Branch, Handler, Kind, Role, RowInfo, Run, Site, Token
from ._control import ControlInfo
from ._edit import Edit
from ._intervene import intervene
from ._load import load
from ._match_table import match_table
from ._observation import Observation
from ._observe import observe
from ._probe import Labels, probe_layout
from ._receipt import Receipt
from ._session import Session
from ._sites import list_sites as sites
from ._sites import resolve_sites

__all__ = [
    "AttentionCall",
    "Branch",
    "ControlInfo",
    "Edit",
    "Handler",
    "Kind",
    "Labels",
    "Observation",
    "Receipt",
    "Role",
    "RowInfo",
    "Run",
    "Session",
    "Site",
    "Token",
    "intervene",
    "load",
    "match_table",
    "observe",
    "probe_layout",
    "resolve_sites",
    "sites",
]
