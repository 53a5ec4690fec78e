"""Pipelines in, attention calls out."""

from __future__ import annotations

from ._call import AttentionCall, Branch, Handler, Kind, Role, RowInfo, Run, Site, Token
from ._session import Session
from ._sites import list_sites as sites
from ._sites import resolve_sites

__all__ = [
    "AttentionCall",
    "Branch",
    "Handler",
    "Kind",
    "Role",
    "RowInfo",
    "Run",
    "Session",
    "Site",
    "Token",
    "resolve_sites",
    "sites",
]
