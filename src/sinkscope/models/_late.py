"""Reading the numbers of a call without holding up the model.

On the CPU a call's numbers are read when they are asked for. On any other device reading them would wait for
all work queued so far, in every call; there they are read once, when the model's forward pass has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sinkscope.attention import Questions, deferred
from sinkscope.models._call import AttentionCall
from sinkscope.models._measure import where


def waits(call: AttentionCall) -> bool:
    """Whether the numbers of this call are read later."""
    return call.q.device.type != "cpu"


class Late(Questions):
    """What one handler has to read."""

    @contextmanager
    def reading(self, call: AttentionCall, *, checked: bool = False) -> Iterator[None]:
        """Inside, checks and copies are collected; on the CPU they are settled at the end of the block.

        `checked` says that the block itself asks whether q, k and v are finite.
        """
        if waits(call):
            with deferred(self, where(call), checked=checked):
                yield
        else:
            yield
            self.settle()


def without_tensors(call: AttentionCall) -> AttentionCall:
    """Where and when a call happened, without what it computed on, so that its memory can be freed."""
    empty = call.q.new_empty(0)
    return call.replace(q=empty, k=empty, v=empty, mask=None, token_source=None)
