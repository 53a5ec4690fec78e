"""Metrics of models that read: their units' outputs are arrays by name instead of images.

A metric of this kind has "arrays" among its `needs` and says in `arrays` which names it reads. Language
models give `loss`, `predicted` and `target` of each token; vision models the same of each answer, and
features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sinkscope.errors import UsageError

from ._files import formula_identity
from ._image import ImageError
from ._protocol import Direction, Metric, MetricInfo, Prompt

Arrays = Mapping[str, NDArray[Any]]
OK = "ok"


class ArrayMetric(ABC):
    """What the metrics of arrays share; a subclass computes one number from one unit."""

    name: ClassVar[str]
    direction: ClassVar[Direction]
    needs: frozenset[str] = frozenset({"arrays"})
    arrays: tuple[str, ...] = ()
    """Names of the arrays it reads."""

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs nothing beyond the core."""
        return MetricInfo(cls.name, "ready")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        return formula_identity(self.name, f"arrays {', '.join(self.arrays)}", "numpy")

    def score(
        self,
        images: Sequence[Any],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Any] | None = None,
    ) -> NDArray[np.float64]:
        """Score each unit, float64 `[n]`.

        Args:
            images: One mapping of arrays per unit.
            prompts: Not read.
            reference: The baseline's mapping of each unit, where the metric compares with it.

        Raises:
            ImageError: An array is missing or its shape does not fit.
            UsageError: References are needed and absent, or their number differs.
        """
        others: Sequence[Any] = [None] * len(images)
        if "reference" in self.needs:
            if reference is None or len(reference) != len(images):
                count = "none" if reference is None else str(len(reference))
                raise UsageError(
                    f"Metric {self.name!r} needs one reference per unit: got {count} for {len(images)} units."
                )
            others = reference
        values = [self._one(self._read(mine), other) for mine, other in zip(images, others, strict=True)]
        return np.array(values, dtype=np.float64)

    @abstractmethod
    def _one(self, mine: list[NDArray[Any]], other: Arrays | None) -> float:
        """The score of one unit from the arrays named in `arrays`."""

    def _read(self, output: Any) -> list[NDArray[Any]]:
        """The arrays of one unit, none of them empty."""
        if not isinstance(output, Mapping):
            raise UsageError(
                f"Metric {self.name!r} scores arrays ({', '.join(self.arrays)}) of models that read, got "
                f"{type(output).__name__}."
            )
        for name in self.arrays:
            if name not in output or not output[name].size:
                raise ImageError(
                    f"{self.name} reads the array {name!r}, and the output has {', '.join(output) or 'none'}"
                    + (", of which it is empty" if name in output else "")
                )
        return [np.asarray(output[name]) for name in self.arrays]

    def _both(self, mine: list[NDArray[Any]], other: Arrays | None) -> list[NDArray[Any]]:
        """The reference's arrays, of the same shapes."""
        theirs = self._read(other)
        for name, a, b in zip(self.arrays, mine, theirs, strict=True):
            if a.shape != b.shape:
                raise ImageError(f"array {name!r} is {a.shape} and in the reference {b.shape}")
        return theirs


class _PerToken(ArrayMetric):
    """A metric of numbers per token, or per answer.

    Args:
        skip: Leave out so many tokens at the start. In causal attention the first queries see so few keys
            that an edit may leave them none, which says nothing about sinks.
    """

    def __init__(self, skip: int = 0) -> None:
        if isinstance(skip, bool) or not isinstance(skip, int) or skip < 0:
            raise UsageError(f"{self.name} got skip={skip!r}: expected a whole number from 0.")
        self.skip = skip

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {**super().identity(), **({"skip": self.skip} if self.skip else {})}

    def _read(self, output: Any) -> list[NDArray[Any]]:
        found = super()._read(output)
        if self.skip and any(self.skip >= len(array) for array in found):
            raise ImageError(f"{self.name} skips {self.skip} tokens, and the output has {len(found[0])}")
        return [array[self.skip :] for array in found]


class Loss(_PerToken):
    """Mean nats per token, or per answer."""

    name = "loss"
    direction: ClassVar[Direction] = "lower"
    arrays = ("loss",)

    def _one(self, mine: list[NDArray[Any]], other: Arrays | None) -> float:
        return float(np.mean(mine[0], dtype=np.float64))


class Perplexity(_PerToken):
    """`exp` of the mean nats per token of the unit."""

    name = "perplexity"
    direction: ClassVar[Direction] = "lower"
    arrays = ("loss",)

    def _one(self, mine: list[NDArray[Any]], other: Arrays | None) -> float:
        with np.errstate(over="ignore"):  # infinity is refused by name, without a warning beside it
            return float(np.exp(np.mean(mine[0], dtype=np.float64)))


class Accuracy(_PerToken):
    """Share of tokens, or answers, of which the most likely one is the true one."""

    name = "accuracy"
    direction: ClassVar[Direction] = "higher"
    arrays = ("predicted", "target")

    def _one(self, mine: list[NDArray[Any]], other: Arrays | None) -> float:
        return float(np.mean(mine[0] == mine[1]))


class Top1(_PerToken):
    """Share of tokens, or answers, of which the most likely one is the same as the baseline's."""

    name = "top1"
    direction: ClassVar[Direction] = "higher"
    needs = frozenset({"arrays", "reference"})
    arrays = ("predicted",)

    def _one(self, mine: list[NDArray[Any]], other: Arrays | None) -> float:
        return float(np.mean(mine[0] == self._both(mine, other)[0]))


class FeatureCosine(ArrayMetric):
    """Cosine of features with the baseline's, averaged over the vectors of a unit.

    Args:
        of: Name of the array: "feature" (one vector) or "patches" (one per patch), or another one whose last
            axis holds features.
    """

    name = "feature_cosine"
    direction: ClassVar[Direction] = "higher"
    needs = frozenset({"arrays", "reference"})

    def __init__(self, of: str = "feature") -> None:
        if not isinstance(of, str) or not of:
            raise UsageError(
                f"feature_cosine got of={of!r}: expected the name of an array, such as 'feature'."
            )
        self.arrays = (of,)

    def _one(self, mine: list[NDArray[Any]], other: Arrays | None) -> float:
        a, b = mine[0].astype(np.float64), self._both(mine, other)[0].astype(np.float64)
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        if not np.all(lengths > 0):
            raise ImageError(f"feature_cosine: a vector of {self.arrays[0]!r} has length 0")
        return float(np.mean(np.sum(a * b, axis=-1) / lengths))


def score_arrays(
    metric: Metric, outputs: Sequence[Arrays], reference: Sequence[Arrays] | None = None
) -> pd.DataFrame:
    """Score arrays; a unit that cannot be scored becomes a NaN row that says why.

    Returns:
        Columns `value`, `status` and `note` as `score_rows` gives them.
    """
    rows: list[tuple[float, str]] = []
    for index, output in enumerate(outputs):
        other = None if reference is None else [reference[index]]
        try:
            (value,) = metric.score([output], None, other)  # type: ignore[list-item, arg-type]
            good = bool(np.isfinite(value))
            rows.append(
                (float(value), OK)
                if good
                else (np.nan, f"{metric.name} gave {value}, expected a finite number")
            )
        except ImageError as error:
            rows.append((np.nan, str(error)))
    table = pd.DataFrame(rows, columns=["value", "status"])
    return table.assign(value=table["value"].astype("float64"), note="")
