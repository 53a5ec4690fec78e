"""Models of transformers whose softmax no kernel of torch can do: capped logits, learned sink logits.

Such models have no SDPA path, so their attention never reaches `F.scaled_dot_product_attention`. While a
session is open their attention goes through `eager_attention` here, registered with transformers under a name
of its own together with the mask function of its eager path (without one, transformers would drop the padding
mask). It calls the model's own function, bit for bit, unless a handler changed the call; then it does what
that function does with what it was given.

Handlers see q, k, v, the mask as an additive one with -inf, the scale and the cap (`softcap`). A learned sink
logit takes part in the softmax like a key that holds nothing, and that is how it is shown: as one more key
behind the others, in the segment "sink_logit", its logit in the mask and its value zero (`sinks`). So mass
sums to one over keys, and an edit may remove the sink logit as any key.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from sinkscope.attention import Action, ScaleLogit
from sinkscope.errors import EagerAttentionError, UsageError

from ._call import AttentionCall

NAME = "sinkscope_eager"
"""Under which transformers knows `_forward` while a session is open."""

_lock = threading.RLock()
_configs: dict[int, tuple[Any, int]] = {}
"""Configurations that are switched over, with the number of sessions that need it."""
_proven: set[tuple[Any, ...]] = set()
"""Kinds of calls whose written-out form was found to equal the model's own function."""


class _Own:
    """The model's own call: what it was given and how to run it."""

    def __init__(
        self, module: nn.Module, function: Callable[..., Any], given: tuple[Any, ...], options: Any
    ) -> None:
        self.module, self.function, self.given, self.options = module, function, given, options
        self.shown: tuple[Any, ...] = ()
        self.weights: Tensor | None = None

    def run(self) -> Tensor:
        """Output `[row, head, query, dim]` of the model's own function."""
        output, self.weights = self.function(self.module, *self.given, **self.options)
        return output.transpose(1, 2)


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    softcap: float | None = None,
    sinks: int = 0,
    own: _Own,
) -> Tensor:
    """Attention of a model without an SDPA path; what sessions intercept.

    Args:
        query: `[row, head, query, dim]`.
        key: `[row, kv_head, key, dim]`.
        value: `[row, kv_head, key, dim]`.
        attn_mask: Additive, broadcastable to `[row, head, query, key]`, or boolean.
        dropout_p: Dropout of the weights.
        is_causal: Query i sees keys 0..i.
        scale: Factor on q.k.
        enable_gqa: Not needed: kv heads are repeated where they are fewer.
        softcap: Cap on the logits.
        sinks: Keys at the end that stand for sink logits.
        own: The model's own call, run where nothing was changed.
    """
    given = (query, key, value)
    options: dict[str, Any] = {
        "attn_mask": attn_mask,
        "dropout_p": dropout_p,
        "is_causal": is_causal,
        "scale": scale,
        "enable_gqa": enable_gqa,
        "softcap": softcap,
        "sinks": sinks,
        "own": own,
    }
    if has_torch_function(given):
        return handle_torch_function(eager_attention, given, *given, **options)
    if all(here is there for here, there in zip((*given, attn_mask), own.shown, strict=True)):
        return own.run()
    output, dead = _written_out(query, key, value, attn_mask, scale, softcap, is_causal, dropout_p)
    if query.shape[2] == own.shown[0].shape[2] and bool(dead.any()):
        # Queries that the model's own mask leaves without keys are padding; nothing of theirs is edited.
        closed = _dead(own.shown[3], output.shape[:3]) & dead
        output = torch.where(closed[..., None], own.run(), output)
    return output


def _written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None,
    is_causal: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Output, and which queries `[row, head, query]` have no key to attend to: they get zeros."""
    groups = q.shape[1] // k.shape[1]
    keys, values = (part if groups == 1 else part.repeat_interleave(groups, dim=1) for part in (k, v))
    logits = (q @ keys.transpose(-1, -2)).float() * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.float()
    if is_causal:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(hidden, -torch.inf)
    dead = logits.amax(-1) == -torch.inf
    weights = torch.softmax(logits.masked_fill(dead[..., None], 0.0), dim=-1)
    weights = weights.masked_fill(dead[..., None], 0.0).to(values.dtype)
    return F.dropout(weights, dropout, training=dropout > 0.0) @ values, dead


def _dead(mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    assert mask is not None  # without a mask every query has a key
    return (mask.amax(-1) == -torch.inf).expand(shape)


# ---- the model's side


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls in place of the model's eager function; the weights are None where a handler
    changed the call."""
    function = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if function is None:
        raise EagerAttentionError(
            f"{type(module).__name__} writes its attention out in a way that cannot be followed: its file "
            "has no eager_attention_forward. Leave the module out with sites=, or pass strict=False."
        )
    own = _Own(module, function, (query, key, value, attention_mask), options)
    k, v, mask, sinks = _shown(query, key, value, attention_mask, options)
    own.shown = (query, k, v, mask)
    call: dict[str, Any] = {
        "attn_mask": mask,
        "dropout_p": options.get("dropout") or 0.0,
        "scale": options.get("scaling"),
        "enable_gqa": query.shape[1] != key.shape[1],
        "softcap": options.get("softcap"),
        "sinks": sinks,
    }
    _prove(own, call)
    output = eager_attention(query, k, v, **call, own=own)
    return output.transpose(1, 2).contiguous(), own.weights


def _shown(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Keys, values and mask as handlers see them, and the number of sink logits among them."""
    if mask is not None:
        # The eager path hides keys by the lowest number of its dtype, which leaves a query that sees nothing
        # attending to everything.
        mask = mask[..., : key.shape[2]]
        lowest = torch.finfo(mask.dtype).min if mask.is_floating_point() else None
        hidden = ~mask if lowest is None else mask <= lowest / 2
        dtype = query.dtype if lowest is None else mask.dtype
        mask = torch.where(hidden, -torch.inf, torch.zeros((), dtype=dtype) if lowest is None else mask)
    learned = options.get("s_aux")
    if learned is None:
        return key, value, mask, 0
    rows, heads, queries, _ = query.shape
    bias = query.new_zeros(1, 1, 1, key.shape[2]) if mask is None else mask
    bias = bias.to(query.dtype).expand(rows, heads, queries, -1)
    logit = learned.to(query.dtype).view(1, heads, 1, 1).expand(rows, heads, queries, 1)
    return _one_more(key), _one_more(value), torch.cat([bias, logit], dim=-1), 1


def _one_more(tensor: Tensor) -> Tensor:
    return F.pad(tensor, (0, 0, 0, 1))


def _prove(own: _Own, call: Mapping[str, Any]) -> None:
    """Compare the written-out form with the model's own function, once for each kind of call.

    Raises:
        EagerAttentionError: they differ, so mass and edits would be those of another attention.
    """
    set_options = tuple(sorted(name for name, value in own.options.items() if value is not None))
    kind = (type(own.module), own.shown[0].dtype, call["softcap"], call["attn_mask"] is None, set_options)
    if kind in _proven or call["dropout_p"] or own.shown[0].is_meta:
        return
    with torch.no_grad(), torch._C.DisableTorchFunction():
        q, k, v, mask = own.shown
        want = own.run().float()
        got, dead = _written_out(q, k, v, mask, call["scale"], call["softcap"], False, 0.0)
    own.weights = None
    apart = torch.where(dead[..., None], 0.0, got.float() - want).abs().max()
    allowed = 1e-4 if q.dtype in (torch.float32, torch.float64) else 4e-2
    if not bool(apart <= allowed * v.float().abs().max().clamp_min(1e-6)):
        raise EagerAttentionError(
            f"{type(own.module).__name__} writes its attention out in a way that cannot be followed: softmax "
            f"attention with scale, mask, softcap and sink logits differs from it by {float(apart):.2g}. "
            "Leave the module out with sites=, or pass strict=False."
        )
    _proven.add(kind)


def check_sinks(call: AttentionCall, action: Action, chosen: Tensor) -> None:
    """Refuse what cannot be done to a sink logit.

    Args:
        call: The call.
        action: What is done.
        chosen: To which keys, bool `[row, head, key]` (or queries).

    Raises:
        UsageError: a factor on q.k, for there is no k.
    """
    if not call.sinks or not isinstance(action, ScaleLogit) or action.factor == 1.0:
        return
    if bool(chosen[..., -call.sinks :].any()):
        raise UsageError(
            f"ScaleLogit(factor={action.factor}) got the learned sink logit of {call.site.name} among its "
            "keys, which has no q.k to scale. Use ScaleLogit(shift=...), Mask or ScaleProbability, or choose "
            "among the tokens, for example TopMass(keys_per_head=1, within='text')."
        )


# ---- switching models over


def adapt(roots: Iterable[nn.Module]) -> Callable[[], None]:
    """Lead the attention of eager-only models through `eager_attention` until the returned function is
    called. Counted: sessions of several threads may share a model."""
    configs = list({id(config): config for root in roots for config in _eager_only(root)}.values())
    if not configs:
        return lambda: None
    with _lock:
        if not _configs:
            _register()
        for config in configs:
            _, users = _configs.get(id(config), (config, 0))
            _configs[id(config)] = (config, users + 1)
            config._attn_implementation_internal = NAME

    def restore() -> None:
        with _lock:
            for config in configs:
                _, users = _configs.pop(id(config))
                if users > 1:
                    _configs[id(config)] = (config, users - 1)
                elif config._attn_implementation_internal == NAME:
                    config._attn_implementation_internal = "eager"
            if not _configs:
                _unregister()

    return restore


def without_sdpa(module: nn.Module) -> bool:
    """Whether the models in an attention module's file are such that transformers has no SDPA path for."""
    beside = vars(sys.modules[type(module).__module__]).values()
    models = [
        part for part in beside if isinstance(part, type) and part.__module__ == type(module).__module__
    ]
    return any(getattr(model, "_supports_sdpa", None) is False for model in models)


def _eager_only(root: nn.Module) -> list[Any]:
    """Configurations of the parts of a model that transformers can only run eagerly."""
    found = []
    for part in root.modules():
        config = getattr(part, "config", None)
        # Older releases let SDPA run such models without the cap, so people load them eagerly.
        capped = getattr(config, "attn_logit_softcapping", None) is not None
        if config is None or (getattr(type(part), "_supports_sdpa", True) and not capped):
            continue
        if getattr(config, "_attn_implementation_internal", None) in ("eager", NAME):
            found.append(config)
    return found


def _interfaces() -> tuple[Any, Any]:
    from transformers import AttentionInterface, AttentionMaskInterface

    return AttentionInterface, AttentionMaskInterface


def _register() -> None:
    attention, masks = _interfaces()
    attention.register(NAME, _forward)
    masks.register(NAME, masks()["eager"])


def _unregister() -> None:
    for interface in _interfaces():
        interface._global_mapping.pop(NAME, None)
