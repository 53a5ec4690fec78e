"""The sites of a model, found without running it, and how users pick some of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

from torch import nn

from ..errors import NoMatchError, UsageError, unknown
from ._call import Kind, Site
from ._denoiser import attention_modules, denoisers
from ._towers import beside_the_stack, key_segments
from .families import Family, family_of
from .families.language import READ_OFF

_BESIDE_THE_STACK = re.compile(r"refiner|pooler|embed")
_OF_THE_TEXT = re.compile(r"(^|\.)(context|token|text|txt)_")
_LATE = 1_000_000
"""More than there are modules."""
_HEADS = ("heads", "num_heads", "num_attention_heads", "n_heads")


def list_sites(pipe: Any) -> list[Site]:
    """List the attention sites of a pipeline's denoisers or of a bare module, in the order of their blocks.

    One entry per attention module; a module that makes several calls, or is entered several times, gives
    further sites (`visit`, `index`) when it runs. With several denoisers the names start with the component's
    name.

    Raises:
        UsageError: `pipe` is neither a pipeline nor a module.
        UnsupportedAttentionError: a pipeline without a denoiser.
    """
    roots = denoisers(pipe)
    return [site for part, root in roots.items() for site in _sites_of(root, prefix(part, roots))]


def prefix(part: str, roots: dict[str, nn.Module]) -> str:
    """What the site names of one denoiser start with."""
    return f"{part}." if len(roots) > 1 else ""


def _sites_of(root: nn.Module, start: str) -> list[Site]:
    family = family_of(root)
    modules = attention_modules(root)
    names = list(modules)
    if family is not None:
        names = _in_running_order(names, family)
    layers = _layers(root, names, family)
    found = []
    for name in names:
        kind = (family.kind(name) if family else None) or _guess_kind(name, modules[name])
        segments = key_segments(root, name, kind) if family is READ_OFF else _key_segments(name, kind, family)
        found.append(Site(start + name, layers[name], kind, _heads(modules[name]), segments))
    return found


def _in_running_order(names: Sequence[str], family: Family) -> list[str]:
    """Names by stack, members of alternating lists in turn, and otherwise as they were registered."""
    registered: dict[str, int] = {}

    def place(name: str) -> list[tuple[int, int]]:
        parts = name.split(".")
        last = len(family.stacks)
        found = [(0 if parts[0] in family.alternate else _index(family.stacks, parts[0], last), 0)]
        for depth, part in enumerate(parts):
            before, after = parts[depth - 1 : depth], parts[depth + 1 : depth + 2]
            if part in family.alternate and after and after[0].isdigit():
                found.append((int(after[0]), family.alternate.index(part)))
            elif not (before and before[0] in family.alternate and part.isdigit()):
                path = ".".join(parts[: depth + 1])
                late = any(fnmatchcase(path, glob) for glob in family.last)
                found.append((registered.setdefault(path, len(registered)) + late * _LATE, 0))
        return found

    return sorted(names, key=place)


def _index(names: Sequence[str], name: str, otherwise: int) -> int:
    return names.index(name) if name in names else otherwise


def _layers(root: nn.Module, names: list[str], family: Family | None) -> dict[str, int | None]:
    blocks: dict[str, int] = {}
    layers: dict[str, int | None] = {}
    for name in names:
        top = name.split(".", 1)[0]
        if family is READ_OFF:
            inside = not beside_the_stack(root, name)
        else:
            inside = top in family.stacks if family else not _BESIDE_THE_STACK.search(name)
        layers[name] = blocks.setdefault(_block(root, name), len(blocks)) if inside else None
    return layers


def _block(root: nn.Module, name: str) -> str:
    """Path of the block an attention module belongs to: itself when it stands in a list directly, else the
    nearest member of a list that it is in; its parent where there is no list."""
    parts = name.split(".")
    for depth in range(len(parts), 1, -1):
        try:
            listed = isinstance(root.get_submodule(".".join(parts[: depth - 1])), nn.ModuleList)
        except AttributeError:  # the path was cleaned of compile marks
            listed = False
        if listed:
            return ".".join(parts[:depth])
    return name.rpartition(".")[0]


def _guess_kind(name: str, module: nn.Module) -> Kind:
    if "temporal" in name or "motion_module" in name:
        return "temporal"
    if getattr(module, "added_kv_proj_dim", None) is not None:
        return "joint"
    last = name.rpartition(".")[2]
    if getattr(module, "is_cross_attention", False) or last == "attn2" or "cross" in last:
        return "cross"
    return "causal" if getattr(module, "is_causal", False) is True else "self"


def _key_segments(name: str, kind: Kind, family: Family | None) -> tuple[str, ...]:
    for glob, segments in family.keys if family else ():
        if fnmatchcase(name, glob):
            return segments
    if kind == "joint":
        return family.joint if family and family.joint else ()
    if kind == "cross" or (kind == "self" and _OF_THE_TEXT.search(name)):
        return ("text",)
    return (family.visual,) if kind in ("self", "temporal") and family else ()


def _heads(module: nn.Module) -> int:
    for holder in (module, getattr(module, "config", None)):
        for attribute in _HEADS:
            value = getattr(holder, attribute, None)
            if isinstance(value, int):
                return value
    return 0


def resolve_sites(
    pipe: Any,
    layers: Iterable[int] | int | None = None,
    sites: str | Iterable[str] | None = None,
    kind: str | None = None,
) -> list[Site]:
    """Pick sites by block index, by glob or by kind.

    `layers` means blocks. Where a block has several sites its joint site is meant if it has one; otherwise
    `kind` or `sites` must say which. All conditions given must hold.

    Args:
        pipe: Pipeline or bare module.
        layers: Block indices, None for all blocks.
        sites: Glob, or several, matched against `Site.name`.
        kind: "joint", "self", "cross", "temporal", "causal", or "all" for every site of the chosen blocks.

    Raises:
        UsageError: an unknown layer or kind, or an ambiguous block; the message lists what exists.
        NoMatchError: nothing satisfies the conditions.
    """
    every = _all_sites(pipe)
    chosen = every if layers is None else _in_layers(every, layers)
    if kind is not None and kind != "all":
        if kind not in get_args(Kind):
            raise unknown("kind", kind, [*get_args(Kind), "all"])
        chosen = [site for site in chosen if site.kind == kind]
    if sites is not None:
        globs = [sites] if isinstance(sites, str) else list(sites)
        chosen = [site for site in chosen if any(fnmatchcase(site.name, glob) for glob in globs)]
    if not chosen:
        raise NoMatchError(
            f"No attention site matches layers={_short(layers)}, sites={sites!r}, kind={kind!r}. The model "
            f"has: {_listing(every)}."
        )
    return _one_per_block(chosen) if kind is None and sites is None else chosen


def _all_sites(pipe: Any) -> list[Site]:
    every = list_sites(pipe)
    if not every:
        raise NoMatchError(
            f"{type(pipe).__name__} has no attention module; expected a model with softmax attention. "
            "Linear and convolutional models have no sinks to look at."
        )
    return every


def _in_layers(every: Sequence[Site], layers: Iterable[int] | int) -> list[Site]:
    wanted = [layers] if isinstance(layers, int) else list(layers)
    known = sorted({site.layer for site in every if site.layer is not None})
    missing = [layer for layer in wanted if layer not in known]
    if missing:
        span = f"0 to {known[-1]}" if known else "none"
        raise UsageError(
            f"Unknown layer {', '.join(map(str, missing))}: the model has {len(known)} layers ({span}). "
            f"Use layers=range({len(known)}) for all of them."
        )
    return [site for site in every if site.layer in wanted]


def _one_per_block(chosen: Sequence[Site]) -> list[Site]:
    blocks: dict[tuple[str, int], list[Site]] = {}
    for site in chosen:
        if site.layer is not None:
            blocks.setdefault((site.name.partition(".")[0], site.layer), []).append(site)
    picked = []
    for (_, layer), members in blocks.items():
        joint = [site for site in members if site.kind == "joint"]
        if len(members) > 1 and len(joint) != 1:
            kinds = sorted({site.kind for site in members})
            raise UsageError(
                f"Layer {layer} has {len(members)} attention sites and none of them is the joint one: "
                f"{', '.join(f'{site.name} ({site.kind})' for site in members)}. "
                f"Say which with kind={'|'.join(map(repr, [*kinds, 'all']))} or "
                f"sites='*.{members[-1].name.rpartition('.')[2]}'."
            )
        picked.append(joint[0] if joint else members[0])
    return picked


def _listing(every: Sequence[Site], limit: int = 8) -> str:
    names = [f"{site.name} (layer {site.layer}, {site.kind})" for site in every]
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _short(value: object) -> str:
    return repr(list(value)) if isinstance(value, range) else repr(value)
