"""Audio models."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import Tensor

from .._spans import Spans, chain, local_name
from ._family import Family

if TYPE_CHECKING:
    from .._call import AttentionCall
    from .._tracker import Evaluation

_T5 = (("t5", ("text_encoder",)),)


def stable_audio(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """One token for the durations stands before the audio, and two more behind the text."""
    globals_ = evaluation.inputs.get("global_hidden_states")
    first = int(globals_.shape[1]) if isinstance(globals_, Tensor) else 0
    queries, keys = chain(("global", first), ("audio", call.q.shape[2] - first)), call.k.shape[2]
    if call.site.kind == "self":
        return Spans(queries, queries)
    known = evaluation.prompts.ids.get("text_encoder") if evaluation.prompts else None
    text = min(known[0].ids.shape[1], keys) if known else keys
    return Spans(chain(("text", text), ("duration", keys - text)), queries)


def one_before(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """MiniMax Music 3: one token for the timestep stands before the audio, into whose tokens the condition is
    mixed."""
    tokens = chain(("timestep", 1), ("audio", call.k.shape[2] - 1))
    return Spans(tokens, tokens)


def unpadded(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """LongCat AudioDiT: zeros stand in for the padding of the text, and are hidden."""
    if call.site.kind != "cross":
        return None
    lengths = evaluation.inputs["encoder_attention_mask"].bool().sum(1).tolist()
    rows = [chain(("text", length), ("padding", call.k.shape[2] - length)) for length in lengths]
    return Spans(rows, chain(("audio", call.q.shape[2])))


def packed(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """ACE-Step: lyrics, timbre and text in one sequence, first what is no padding; how much of each, only its
    encoder knows."""
    if call.site.kind != "cross":
        return None
    return Spans(chain(("condition", call.k.shape[2])), chain(("audio", call.q.shape[2])))


def audioldm2(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Transformers take turns: one asks the audio twice, the next what a language model wrote from the
    prompt, the last T5."""
    dims = evaluation.config.cross_attention_dim
    per_block = dims[-1] if isinstance(dims, (list, tuple)) else dims
    turns = per_block if isinstance(per_block, (list, tuple)) else (per_block,)
    number = re.search(r"attentions\.(\d+)\.", local_name(call, evaluation))
    turn = int(number[1]) % len(turns) if number else 0
    own = chain(("audio", call.q.shape[2]))
    if call.site.name.endswith("attn1") or turns[turn] is None:
        return Spans(own, own)
    second = turn > 1 and evaluation.inputs.get("encoder_hidden_states_1") is not None
    return Spans(chain(("text" if second else "generated", call.k.shape[2])), own)


AUDIO: dict[str, Family] = {
    "StableAudioDiTModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
        visual="audio",
        text=_T5,
        spans=stable_audio,
    ),
    "AceStepTransformer1DModel": Family(
        stacks=("layers",),
        kinds=(("*.self_attn", "self"), ("*.cross_attn", "cross")),
        visual="audio",
        rows=("cond", "uncond"),
        spans=packed,
    ),
    "LongCatAudioDiTTransformer": Family(
        stacks=("blocks",),
        kinds=(("*.self_attn", "self"), ("*.cross_attn", "cross")),
        visual="audio",
        text=_T5,
        spans=unpadded,
    ),
    "MiniMaxMusic3Transformer1DModel": Family(
        stacks=("transformer_blocks",), kinds=(("*.attn", "self"),), visual="audio", spans=one_before
    ),
    "AudioLDM2UNet2DConditionModel": Family(
        stacks=("down_blocks", "mid_block", "up_blocks"),
        # Of each three transformers the first has no condition: its "attn2" is no cross-attention.
        kinds=(("*.attn1", "self"), ("*.attentions.[0369].*.attn2", "self"), ("*.attn2", "cross")),
        visual="audio",
        text=(("t5", ("text_encoder_2",)),),
        spans=audioldm2,
        by_block=True,
    ),
}
