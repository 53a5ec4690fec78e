"""The attention map of a model, from its configuration alone.

The denoisers are built without weights and run once on tensors without values: real modules and real shapes,
no arithmetic. Each attention call is written down with its tokens by segment and answered by an empty tensor
of the right shape. Modules that would be missed are found by the same audit as in a real run. What cannot be
known this way is None, never a guess.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ..errors import UnsupportedAttentionError
from ._call import AttentionCall, Kind, RowInfo, Site
from ._coverage import SOFTMAX, uncovered
from ._denoiser import UNGUIDED, clean, looks_like_attention
from ._eager import adapt, eager_attention
from ._frames import Frames
from ._issue import SDPA, call_arguments
from ._layout import Layout
from ._meta import Skeleton, skeleton
from ._meta_inputs import UnknownInputError, candidates
from ._meta_size import SizeInPixels, is_latent, size_of
from ._multihead import run_multihead
from ._preflight import preflight
from ._quiet import quiet
from ._sites import list_sites, prefix
from ._towers import segment_counts
from ._tracker import Evaluation

_one_walk = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class MappedCall:
    """One attention call of one forward pass, for one sample."""

    site: Site
    rows: int
    """Rows per sample: frames, windows or places folded into the batch."""
    queries: int
    keys: int
    key_segments: Mapping[str, int]
    """Tokens by segment, as far as names are known."""
    flops: int
    """Of the call itself: 4 x rows x heads x queries x keys x head size."""

    @property
    def measuring(self) -> int:
        """FLOPs of measuring its mass, for all queries: the logits once more."""
        return self.flops // 2

    @property
    def mass_bytes(self) -> int:
        """Memory of its mass per step and branch, as float32."""
        return 4 * self.rows * self.site.heads * self.keys


@dataclass(frozen=True, kw_only=True)
class PartMap:
    """Attention of one denoiser."""

    part: str
    """Component name, "" for a bare module."""
    kind: str
    """Class name."""
    sites: tuple[Site, ...]
    calls: tuple[MappedCall, ...] | None
    """None where the model could not be run without weights; `why` says why."""
    flops: int | None
    """Of one forward pass of one sample: matrix products, convolutions and attention."""
    refused: str | None
    """What an unrestricted session would raise."""
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """What `sinkscope sites MODEL` prints."""

    name: str
    parts: tuple[PartMap, ...]
    size: SizeInPixels
    pipeline: str | None
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Parts that are no denoisers: component name and class."""
    sees: bool = True
    """Whether a sample has pixels."""
    reads: bool = True
    """Whether a sample has text."""


def attention_map(
    model: Any,
    *,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    text: int | None = None,
) -> AttentionMap:
    """Attention sites of a model, their tokens at a given size and what observing them costs.

    Args:
        model: As in `load`. Of a name, folder, file or hub id only configurations are read.
        height: Pixels; None for the pipeline's own size.
        width: Pixels; None for the pipeline's own size.
        frames: Frames of a video; None for the pipeline's own number.
        text: Text tokens; None for as many as the pipeline pads or cuts to.

    Raises:
        UsageError: the name means nothing, or the folder or file is of the wrong kind.
        MissingWeightsError: a configuration is missing, damaged or cannot be fetched.

    Example:
        >>> from sinkscope.models import attention_map
        >>> attention_map("shapes").parts[0].calls[0].key_segments  # doctest: +SKIP
        {'image': 64, 'text': 48}
    """
    bones = skeleton(model)
    size = size_of(bones, height=height, width=width, frames=frames, text=text)
    every = list_sites(bones.model)
    parts = []
    for part, root in bones.roots.items():
        start = prefix(part, bones.roots)
        own = tuple(site for site in every if site.name.startswith(start))
        parts.append(_map_part(bones, part, root, own, size))
    return AttentionMap(
        name=bones.name,
        parts=tuple(parts),
        size=size,
        pipeline=bones.pipeline.__name__ if bones.pipeline else None,
        left_out=bones.others,
        sees=any(_takes(root, "pixel_values") or is_latent(root) for root in bones.roots.values()),
        reads=any(_takes(root, "input_ids") or is_latent(root) for root in bones.roots.values()),
    )


def _takes(root: nn.Module, name: str) -> bool:
    return name in inspect.signature(type(root).forward).parameters


def _map_part(
    bones: Skeleton, part: str, root: nn.Module, sites: tuple[Site, ...], size: SizeInPixels
) -> PartMap:
    told = partial(PartMap, part=part, kind=type(root).__name__, sites=sites)
    try:
        preflight({part: root})
    except UnsupportedAttentionError as error:
        return told(calls=None, flops=None, refused=str(error), why=str(error))
    walk, why = None, None
    try:
        # The side of guidance without a prompt has no text.
        latent = replace(size.latent, text=0) if part == UNGUIDED else size.latent
        for inputs in candidates(root, latent):
            try:
                walk = _walk(bones, part, root, {site.name: site for site in sites}, inputs)
                break
            except Exception as error:  # wrong axes, or values are asked for: any library code may complain
                why = why or f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    except UnknownInputError as error:
        why = str(error)
    if walk is None:
        return told(calls=None, flops=None, refused=None, why=why)
    refused = None
    try:
        uncovered(walk.frames.missed, {site.name for site in sites})
    except UnsupportedAttentionError as error:
        refused = str(error)
    return told(calls=tuple(walk.calls), flops=walk.flops, refused=refused)


class _Walk(TorchFunctionMode):
    """Writes attention calls down and answers them by shape; moves small tensors with values to the others.

    Ids and masks keep their values as long as a model works on them alone, because lengths may depend on
    them; where they meet tensors without values they lose theirs.
    """

    def __init__(self, frames: Frames, note: Any) -> None:
        super().__init__()
        self.frames, self.note = frames, note
        self.calls: list[MappedCall] = []
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return run_multihead(lambda: self, args, kwargs)
        if (func in SDPA or func is eager_attention) and self.frames.stack:
            given = call_arguments(args, kwargs)
            frame, index = self.frames.attribute()
            self.calls.append(self.note(frame, index, given))
            return given["q"].new_empty(*given["q"].shape[:-1], given["v"].shape[-1])
        if func in SOFTMAX and self.frames.stack:
            self.frames.stack[-1].softmax = True
        if func is torch.Tensor.to and args[0].is_meta:  # there is nothing to bring back from there
            args, kwargs = tree_map_only((str, torch.device), _nowhere, (args, kwargs))
        if func is torch.Tensor.__setitem__ and args[0].is_meta:
            return None  # there is nothing to write to
        if func is torch.Tensor.__getitem__ and args[0].is_meta:
            args = (args[0], _without_masks(args[1]))
        if func in _REPEATS and args[0].is_meta and _known(args[1]):
            kwargs = {"output_size": int(args[1].sum()), **kwargs}
        return _one_device(func, args, kwargs)


_REPEATS = (torch.repeat_interleave, torch.Tensor.repeat_interleave)


def _known(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta and value.dim() > 0


def _without_masks(index: Any) -> Any:
    """An index whose masks are replaced by the places where they hold, as long as these are known."""
    found: list[Any] = []
    for part in index if isinstance(index, tuple) else (index,):
        mask = _known(part) and part.dtype == torch.bool
        found += part.nonzero(as_tuple=True) if mask else (part,)
    return tuple(found) if isinstance(index, tuple) or len(found) != 1 else found[0]


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Models switch autocast on or off for the device of their tensors, and torch knows none for no device.

    Only that one case is answered differently, so other threads notice nothing.
    """
    original = torch.autocast.__init__

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        if device_type == "meta":
            original(self, "cpu", enabled=False)
        else:
            original(self, device_type, *args, **kwargs)

    with _one_walk:
        torch.autocast.__init__ = init  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.autocast.__init__ = original  # type: ignore[method-assign]


def _nowhere(place: str | torch.device) -> torch.device:
    return torch.device("meta")


def _one_device(func: Any, args: Any, kwargs: Any) -> Any:
    devices: set[str] = set()

    def look(tensor: Tensor) -> Tensor:
        if tensor.dim() or tensor.is_meta:
            devices.add(tensor.device.type)
        return tensor

    tree_map_only(Tensor, look, (args, kwargs))
    if len(devices) > 1:
        args, kwargs = tree_map_only(
            Tensor, lambda tensor: tensor.to("meta") if tensor.dim() else tensor, (args, kwargs)
        )
    return func(*args, **kwargs)


def _walk(
    bones: Skeleton, part: str, root: nn.Module, sites: Mapping[str, Site], inputs: dict[str, Any]
) -> _Walk:
    frames, start = Frames(), prefix(part, bones.roots)
    layout = Layout(bones.model, {part: root})
    evaluation = Evaluation(
        part=part, inputs=inputs, step=0, step_count=None, timestep=None, sigma=None, generation=0,
        evaluation=0, rows=(RowInfo(0, "none", 0),), prompts=None, config=getattr(root, "config", None),
    )  # fmt: skip
    root.requires_grad_(False)  # views of parameters would ask for gradients, and the counter for their graph
    with ExitStack() as stack:
        for name, module in root.named_modules():
            full = start + clean(name) if name else start.removesuffix(".")
            enter = partial(_enter, frames, full, looks_like_attention(module))
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(partial(_leave, frames, full)).remove)
        stack.callback(adapt([root]))
        note = partial(_note, sites, layout, evaluation)
        for context in (quiet(), torch.no_grad(), _no_autocast()):
            stack.enter_context(context)
        counter = stack.enter_context(FlopCounterMode(display=False))
        walk: _Walk = stack.enter_context(_Walk(frames, note))
        root(**inputs)
    walk.flops = counter.get_total_flops() + sum(call.flops for call in walk.calls)
    return walk


def _enter(frames: Frames, name: str, attention: bool, module: nn.Module, args: Any) -> None:
    frames.push(name, attention, module)


def _leave(frames: Frames, name: str, module: nn.Module, args: Any, output: Any) -> None:
    frames.pop(name)


def _note(
    sites: Mapping[str, Site], layout: Layout, evaluation: Evaluation, frame: Any, index: int, given: Any
) -> MappedCall:
    q, k = given["q"], given["k"]
    if q.dim() == 3:
        q, k = q.unsqueeze(1), k.unsqueeze(1)
    rows, heads, queries, wide = q.shape
    known = sites.get(frame.name)
    kind: Kind = known.kind if known else "self"
    segments = known.segments if known else ()
    site = Site(
        frame.name, known.layer if known else None, kind, heads, segments, visit=frame.visit, index=index
    )
    return MappedCall(
        site=site,
        rows=rows,
        queries=queries,
        keys=k.shape[2],
        key_segments=_segments(layout, evaluation, site, given),
        flops=4 * rows * heads * queries * k.shape[2] * wide,
    )


def _segments(layout: Layout, evaluation: Evaluation, site: Site, given: Any) -> Mapping[str, int]:
    keys = given["k"].shape[-2]
    if not is_latent(layout.roots[evaluation.part]):
        root, start = layout.roots[evaluation.part], prefix(evaluation.part, layout.roots)
        name = site.name.removeprefix(start)
        return {} if site.index else segment_counts(root, name, site.kind, keys)
    call = AttentionCall(site, given["q"], given["k"], given["v"])
    call = call.replace(rows=evaluation.rows_for(call))
    try:
        row = layout._rows(call, evaluation)[0][0]
    except (RuntimeError, NotImplementedError):  # lengths that depend on values which are not there
        return {}
    lengths: dict[str, int] = {}
    for span in row:
        lengths[span.name] = lengths.get(span.name, 0) + span.stop - span.start
    return lengths
