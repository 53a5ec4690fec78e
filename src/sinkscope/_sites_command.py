"""`sinkscope sites`: the attention map of a model from its configuration, and the table of known families."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sinkscope.errors import UsageError

if TYPE_CHECKING:
    from sinkscope.models import AttentionMap, MappedCall, PartMap, Site

_SIZES = ("height", "width", "frames", "text")


def sites(arguments: Namespace) -> int:
    """Print the attention map of a model, or the families that the tests cover."""
    if arguments.families:
        if arguments.model is not None:
            raise UsageError(f"Got both {arguments.model} and --families. Ask for one of them.")
        return _families()
    if arguments.model is None:
        raise UsageError("MODEL is missing: expected a folder, a hub id, a .safetensors file, or --families.")
    from sinkscope import _commands
    from sinkscope.models import attention_map

    _commands._quiet_libraries()
    _quiet_hub()
    size = {name: getattr(arguments, name) for name in _SIZES}
    found = attention_map(arguments.model, **size)
    print(_headline(found))
    for part in found.parts:
        _print_part(part, found, every=arguments.all)
    _print_rest(found)
    return 0


def _quiet_hub() -> None:
    """Without a network the hub's client reports each retry; one error at the end says it all."""
    import logging

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _headline(found: AttentionMap) -> str:
    size, latent = found.size, found.size.latent
    made = " + ".join(part.kind for part in found.parts)
    frames = f", {size.frames} frames" if size.frames > 1 else ""
    sample = [f"{size.height} x {size.width} pixels{frames}"] if found.sees else []
    sample += [f"up to {latent.text} text tokens"] if found.reads else []
    lines = [f"{found.pipeline or 'model'}: {made}", f"one sample: {', '.join(sample)}"]
    return "\n".join([*lines, *([f"assumed: {size.assumed}"] if size.assumed else [])])


def _print_part(part: PartMap, found: AttentionMap, *, every: bool) -> None:
    import pandas as pd

    from sinkscope import _commands

    if part.calls is None:
        rows = [_static(site) for site in part.sites]
        note = f"tokens are not known without running it: {part.why}"
    else:
        rows = _listed(part.calls) if every else _grouped(part.calls)
        note = None
    count = len(part.sites)
    title = f"{count} attention modules of {part.part or found.name}" + (
        "" if every else ", alike ones together"
    )
    if rows:
        _commands._print_table(title, pd.DataFrame(rows))
    if note is not None:
        print(note)
    if part.refused:
        print(f"not supported: {part.refused}")
    if part.calls and part.flops:
        print(_cost(part))


def _cost(part: PartMap) -> str:
    calls = part.calls or ()
    share = sum(call.measuring for call in calls) / (part.flops or 1)
    weights = sum(call.rows * call.site.heads * call.queries * call.keys for call in calls)
    memory = sum(call.mass_bytes for call in calls)
    return (
        f"observing all of it: {100 * share:.2g} % more FLOPs than a forward pass "
        f"({_short(part.flops or 0)}) and {_short(weights)} exponentials; mass of every key: "
        f"{memory / 2**20:.3g} MiB per sample and step"
    )


def _short(count: int) -> str:
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return str(count)


def _print_rest(found: AttentionMap) -> None:
    from sinkscope.models import known_families

    known = known_families()
    for part in found.parts:
        rows = [row for row in known if row["class"] == part.kind]
        if not rows:
            print(f"guidance: {part.kind} is in no family test, so its branches are found when it runs")
        for text in dict.fromkeys(row["guidance"] for row in rows):
            print(f"guidance: {text}")
    if found.left_out:
        listed = ", ".join(f"{name} ({kind})" for name, kind in found.left_out.items())
        print(f"left out, being no denoisers: {listed}. Pass such a part itself to look into it.")


# ---- rows


def _static(site: Site) -> dict[str, Any]:
    layer = "" if site.layer is None else str(site.layer)
    tokens = ", ".join(site.segments)
    return {"layers": layer, "site": site.name, "kind": site.kind, "heads": site.heads, "tokens": tokens}


def _row(call: MappedCall, layers: str, name: str) -> dict[str, Any]:
    named = sum(call.key_segments.values())
    parts = [f"{segment} {count}" for segment, count in call.key_segments.items()]
    if named < call.keys:
        parts.append(f"unnamed {call.keys - named}")
    return {
        "layers": layers,
        "site": name,
        "kind": call.site.kind,
        "heads": call.site.heads,
        "queries": call.queries if call.rows == 1 else f"{call.rows} x {call.queries}",
        "keys": call.keys,
        "tokens of the keys": ", ".join(parts),
    }


def _name(call: MappedCall) -> str:
    extra = f"#{call.site.visit}.{call.site.index}" if call.site.visit or call.site.index else ""
    return call.site.name + extra


def _listed(calls: Sequence[MappedCall]) -> list[dict[str, Any]]:
    return [
        _row(call, "" if call.site.layer is None else str(call.site.layer), _name(call)) for call in calls
    ]


def _grouped(calls: Sequence[MappedCall]) -> list[dict[str, Any]]:
    """Calls that differ in their block only, as one row."""
    groups: dict[Any, list[MappedCall]] = {}
    for call in calls:
        name = re.sub(r"\.\d+(?=\.|#|$)", ".*", _name(call))
        row = _row(call, "", name)
        groups.setdefault(tuple(row.items()), []).append(call)
    return [
        {**dict(key), "layers": _spans([call.site.layer for call in group]), "calls": len(group)}
        for key, group in groups.items()
    ]


def _spans(layers: Sequence[int | None]) -> str:
    """0, 1, 2, 5 as "0-2, 5"."""
    found: list[list[int]] = []
    for layer in sorted({layer for layer in layers if layer is not None}):
        if found and found[-1][1] == layer - 1:
            found[-1][1] = layer
        else:
            found.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


# ---- families


def _families() -> int:
    import pandas as pd

    from sinkscope import _commands
    from sinkscope.models import known_families

    shown = ("model", "class", "kinds", "keys", "guidance", "text", "tokens_from_config", "not_seen")
    rows = [{name: row[name] for name in shown} for row in known_families()]
    _commands._print_table(f"{len(rows)} models that the tests run, tiny and random", pd.DataFrame(rows))
    return 0
