"""What a run made, unit by unit: images, videos, or arrays of models that read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from PIL import Image

from sinkscope.errors import UsageError
from sinkscope.study import _outputs
from sinkscope.study._store import Store
from sinkscope.study._video import Frames


class Outputs(Mapping[str, Any]):
    """The outputs of one arm by unit id, in plan order, read when asked for."""

    kind: ClassVar[str]

    def __init__(self, store: Store, arm: str, units: Sequence[str]) -> None:
        if store.kind != self.kind:
            method = _outputs.METHOD[store.kind]
            raise UsageError(f"The units of {store.folder} are {method}: use run.{method}({arm!r}) instead.")
        self._store, self._arm, self._units = store, arm, tuple(units)

    def __getitem__(self, unit: str) -> Any:
        if unit not in self._units:
            raise KeyError(unit)
        return _outputs.read(self._store.image_path(self._arm, unit))

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def __len__(self) -> int:
        return len(self._units)


class Images(Outputs):
    """The images of one arm by unit id."""

    kind = _outputs.IMAGE

    def __getitem__(self, unit: str) -> Image.Image:
        return super().__getitem__(unit)


class Videos(Outputs):
    """The videos of one arm by unit id: uint8 `[frame, height, width, 3]`."""

    kind = _outputs.VIDEO

    def __getitem__(self, unit: str) -> Frames:
        return super().__getitem__(unit)


class ArraysByUnit(Outputs):
    """The arrays of one arm by unit id."""

    kind = _outputs.ARRAYS

    def __getitem__(self, unit: str) -> _outputs.Arrays:
        return super().__getitem__(unit)
