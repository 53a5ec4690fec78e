"""Finding the order of the streams: perturb one input, see which keys change.

With every attention output replaced by zeros no token can reach another through attention, so in blocks of
any depth a key changes only if its own stream was perturbed. Keys that no input changes are registers; keys
that several inputs change (models that pool the text into their modulation) get no name. Convolutions mix
image tokens only among themselves.

The probe costs one forward pass and one more per input stream. It runs without gradients, leaves the random
number generators as they were and open sessions do not see it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ._denoiser import clean, forward_inputs, looks_like_attention, unwrap
from ._frames import Frames
from ._issue import SDPA, call_arguments
from ._multihead import run_multihead
from ._quiet import quiet

IMAGE_INPUTS = ("hidden_states", "sample", "x", "latents", "pixel_values")
_TEXT = re.compile(
    r"encoder_hidden_states(_2|_t5|_llama3)?|txt|context|prompt_embeds|cap_feats|clip_text|text_bth"
    r"|text_encoder_layers"
)
_SEED = 7_305_661_024_885
_NOT_STREAMS = ("_ids", "mask", "rotary_emb", "rope", "pos_embed", "coords")


class Labels(NamedTuple):
    """Segment of each key and each query of one call, None where it has no name or rows differ."""

    keys: tuple[str | None, ...]
    queries: tuple[str | None, ...]
    key_rows: tuple[tuple[str | None, ...], ...]
    """The same row by row: some models order the tokens of each row by the length of its text."""
    query_rows: tuple[tuple[str | None, ...], ...]


class _Zero(TorchFunctionMode):
    """Records q and k of each call and answers it with zeros."""

    def __init__(self, frames: Frames) -> None:
        super().__init__()
        self.frames = frames
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return run_multihead(lambda: self, args, kwargs)
        if func not in SDPA or not self.frames.stack:
            return func(*args, **kwargs)
        given = call_arguments(args, kwargs)
        frame, index = self.frames.attribute()
        self.seen[f"{frame.name}#{frame.visit}.{index}"] = (_flat(given["q"]), _flat(given["k"]))
        return torch.zeros_like(func(*args, **kwargs))


def _flat(tokens: Tensor) -> Tensor:
    """`[row, token, everything else]`: any head or feature may show the change."""
    tokens = tokens if tokens.dim() == 4 else tokens.unsqueeze(1)
    return tokens.detach().transpose(1, 2).flatten(2)


def probe_layout(
    root: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> dict[str, Labels]:
    """Label keys and queries of each attention call of one forward pass by the input stream they come from.

    Args:
        root: Denoiser.
        args: Positional arguments of a forward pass.
        kwargs: Keyword arguments of the same pass.

    Returns:
        Call key (`name#visit.index`) to labels: "image", "video", "text", another input's name, "register"
        or None.
    """
    inputs = forward_inputs(root, args, kwargs or {})
    devices = {value.device for value in inputs.values() if isinstance(value, Tensor) and value.is_cuda}
    with quiet(), torch.no_grad(), torch.random.fork_rng([device.index for device in devices]):
        base = _run(root, inputs)
        changed = {
            name: _changes(base, _run(root, {**inputs, name: _perturbed(inputs[name])}))
            for name in inputs
            if _is_stream(name, inputs[name])
        }
    if not changed:
        return {}
    streams = {name: _stream_name(name, inputs[name]) for name in changed}
    return {key: _label(key, tokens, changed, streams) for key, tokens in base.items()}


def _is_stream(name: str, value: Any) -> bool:
    """Whether an input has a token axis: a tensor with rows, or a list with one tensor per row."""
    if any(mark in name for mark in _NOT_STREAMS):
        return False
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(v, Tensor) and _is_float(v, 2) for v in value)
    return isinstance(value, Tensor) and _is_float(value, 3)


def _is_float(value: Tensor, axes: int) -> bool:
    return value.is_floating_point() and value.dim() >= axes


def _perturbed(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return type(value)(_perturbed(part) for part in value)
    # Not a seed that anybody paints with: latents are noise too, and the same noise would only scale them,
    # which a norm takes back.
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(value.shape, generator=generator).to(value)
    return value + noise * (value.float().std(correction=0).to(value) + 1)


def _run(root: nn.Module, inputs: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    frames = Frames()
    with ExitStack() as stack:
        for name, module in root.named_modules():
            if isinstance(module, torch.jit.ScriptModule) or unwrap(module) is not module:
                continue
            enter = partial(_enter, frames, clean(name), looks_like_attention(module))
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(partial(_leave, frames, clean(name))).remove)
        mode = stack.enter_context(_Zero(frames))
        root(**inputs)
    seen: dict[str, tuple[Tensor, Tensor]] = mode.seen
    return seen


def _enter(frames: Frames, name: str, attention: bool, module: nn.Module, args: Any) -> None:
    frames.push(name, attention, module)


def _leave(frames: Frames, name: str, module: nn.Module, args: Any, output: Any) -> None:
    frames.pop(name)


Changes = dict[str, tuple[Tensor, Tensor]]


def _changes(base: dict[str, tuple[Tensor, Tensor]], other: dict[str, tuple[Tensor, Tensor]]) -> Changes:
    """Which tokens of each call differ, for queries and keys, `[row, token]`."""
    return {
        key: (_differs(queries, other[key][0]), _differs(keys, other[key][1]))
        for key, (queries, keys) in base.items()
        if key in other and other[key][1].shape == keys.shape
    }


def _differs(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().amax(2) > 1e-5 * one.abs().amax()


def _label(
    key: str, tokens: tuple[Tensor, Tensor], changed: Mapping[str, Changes], names: Mapping[str, str]
) -> Labels:
    named: list[tuple[tuple[str | None, ...], ...]] = []
    for side in (1, 0):
        streams: dict[str, Tensor] = {}
        for name, change in changed.items():
            if key in change:
                stream, mask = names[name], change[key][side]
                streams[stream] = streams[stream] | mask if stream in streams else mask
        named.append(_by_row(streams, tuple(tokens[side].shape[:2])))
    return Labels(_agreed(named[0]), _agreed(named[1]), *named)


def _by_row(streams: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[tuple[str | None, ...], ...]:
    hits = torch.zeros(shape, dtype=torch.int)
    labels: list[list[str | None]] = [["register"] * shape[1] for _ in range(shape[0])]
    for name, mask in streams.items():
        hits += mask.cpu()
        for row, position in mask.nonzero().tolist():
            labels[row][position] = name if hits[row, position] == 1 else None
    return tuple(tuple(row) for row in labels)


def _agreed(rows: tuple[tuple[str | None, ...], ...]) -> tuple[str | None, ...]:
    return tuple(labels[0] if len(set(labels)) == 1 else None for labels in zip(*rows, strict=True))


def _stream_name(name: str, value: Any) -> str:
    if name in IMAGE_INPUTS:
        return "video" if isinstance(value, Tensor) and value.dim() == 5 else "image"
    return "text" if _TEXT.fullmatch(name) else name
