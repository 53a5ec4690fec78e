"""Who is running: the stack of modules inside one forward pass of a denoiser, in one thread."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn


class Frame:
    """One entered module."""

    __slots__ = ("attention", "calls", "module", "name", "seen", "softmax", "visit")

    def __init__(self, name: str, attention: bool, module: nn.Module, visit: int) -> None:
        self.name, self.attention, self.module, self.visit = name, attention, module, visit
        self.calls = 0
        self.seen = False
        self.softmax = False


class Frames:
    """The stack, the visits so far, and attention modules that were left without a seen call."""

    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.visits: Counter[str] = Counter()
        self.missed: list[Frame] = []
        self.evaluation: Any = None
        self.recompute = False

    def start(self) -> None:
        """Forget everything: a new forward pass begins."""
        self.stack, self.visits, self.missed = [], Counter(), []

    def push(self, name: str, attention: bool, module: nn.Module) -> None:
        """Enter a module."""
        self.stack.append(Frame(name, attention, module, self.visits[name]))
        self.visits[name] += 1

    def pop(self, name: str) -> None:
        """Leave a module, and any frames above it that an exception caught inside the model left behind."""
        while self.stack:
            frame = self.stack.pop()
            if self.stack:
                self.stack[-1].seen |= frame.seen
                self.stack[-1].softmax |= frame.softmax
            if frame.attention and not frame.seen:
                self.missed.append(frame)
            if frame.name == name:
                return

    def attribute(self) -> tuple[Frame, int]:
        """The frame an attention call belongs to, the innermost attention module, and the call's index in
        it."""
        frame = next((frame for frame in reversed(self.stack) if frame.attention), self.stack[-1])
        index = frame.calls
        frame.calls += 1
        for part in self.stack:
            part.seen = True
        return frame, index

    def snapshot(self) -> Frames:
        """A copy that gradient checkpointing can go on from later."""
        copy = Frames()
        copy.visits, copy.evaluation = Counter(self.visits), self.evaluation
        for frame in self.stack:
            twin = Frame(frame.name, frame.attention, frame.module, frame.visit)
            twin.calls, twin.seen = frame.calls, frame.seen
            copy.stack.append(twin)
        return copy
