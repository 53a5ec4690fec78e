"""The embedded vision transformers as pipelines: pictures in, answers and features out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import UsageError
from sinkscope.shapes import grammar
from sinkscope.shapes._reading import Generators, Reader, Readings, answers, each, load_quietly, rows
from sinkscope.shapes.painter import SHAPES, SIZE, Scenes, paint
from sinkscope.shapes.scenes import compose
from sinkscope.shapes.vision._model import ANSWERS, KINDS


class SceneReaderPipeline(Reader):
    """Looks at each picture once.

    Example:
        >>> import sinkscope
        >>> pipe = sinkscope.load("shapes-vit")
        >>> (seen,) = pipe("a photo of a red circle").arrays
        >>> seen["target"].tolist()
        [1, 0, 0, 0, 0, 0, 0, 0]
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        image: Image.Image | list[Image.Image] | None = None,
        num_inference_steps: int = 1,
        generator: Generators = None,
        output_type: str = "np",
    ) -> Readings:
        """Look at painted scenes, or at pictures.

        Args:
            prompt: Captions of the shapes grammar (`sinkscope.prompts.load("shapes")`), one or several; for
                each a scene is painted.
            image: Pictures of 64 x 64 pixels instead; then nobody knows what is in them, and there is no
                `loss` and no `target`.
            num_inference_steps: 1.
            generator: Draws what a caption leaves open: places, sizes, colours. One for all scenes or one
                each. None: seeds 0, 1, 2 ...
            output_type: "np".

        Returns:
            For each picture `loss` (nats), `predicted` and `target` (0: absent, else 1 + the colour's index)
            of each shape `[8]`, and of the last layer `feature` `[96]` (class token), `patches` `[64, 96]`
            and `norms` `[token]` (length of each token before the last norm).
        """
        self._one_pass(num_inference_steps)
        if (prompt is None) == (image is None):
            raise UsageError("Expected either captions or image=..., got both or neither.")
        target = None
        if prompt is not None:
            scenes = painted([prompt] if isinstance(prompt, str) else list(prompt), generator)
            pixels, target = paint(scenes), torch.from_numpy(truth(scenes)).to(self.device)
        else:
            pixels = _pixels([image] if isinstance(image, Image.Image) else list(image or ()))
        self.scheduler.set_timesteps(1)
        with _Last(self.transformer) as last:
            logits = self.transformer(pixel_values=to_input(pixels).to(self.device, self.dtype)).logits
        self.scheduler.step()
        logits = logits.view(len(pixels), len(SHAPES), ANSWERS).float()
        skip = last.after.shape[1] - (SIZE // 8) ** 2
        found = {"predicted": logits.argmax(-1)} if target is None else answers(logits, target)
        found |= {"feature": last.after[:, 0], "patches": last.after[:, skip:]}
        return Readings(rows({**found, "norms": last.before.norm(dim=-1)}))


class _Last:
    """The tokens before and after the last norm, `[image, token, feature]`, while a `with` block runs."""

    def __init__(self, model: Any) -> None:
        self._norm = model.backbone.layernorm
        self.before = self.after = torch.empty(0)

    def __enter__(self) -> _Last:
        self._hook = self._norm.register_forward_hook(self._keep)
        return self

    def __exit__(self, *error: Any) -> None:
        self._hook.remove()

    def _keep(self, norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.before, self.after = inputs[0].float(), output.float()


@functools.cache
def _captions() -> dict[str, grammar.Caption]:
    return {caption.text: caption for task in grammar.TASKS for caption in grammar.every(task)}


def painted(texts: Sequence[str], generator: Generators) -> Scenes:
    """One scene for each caption; what it leaves open comes from its generator.

    Raises:
        UsageError: A text is no caption of the grammar.
    """
    known = _captions()
    if strange := [text for text in texts if text not in known]:
        raise UsageError(
            f"{strange[0]!r} is no caption of the shapes grammar, so no scene can be painted for it. Use "
            "prompts='shapes', or show pictures of your own: pipe(image=...)."
        )
    scenes = []
    for text, source in zip(texts, each(generator, len(texts)), strict=True):
        seed = int(torch.randint(2**62, (1,), generator=source))
        scenes.append(compose([known[text]], np.random.default_rng(seed)))
    parts = ("shape", "color", "center", "radius")
    return Scenes(*(np.concatenate([getattr(scene, part) for scene in scenes]) for part in parts))


def truth(scenes: Scenes) -> NDArray[np.int64]:
    """The true answer for each shape, int64 `[scene, shape]`: 0 where it is absent, else 1 + its colour.

    All objects of one shape have one colour in scenes of the grammar.
    """
    found = np.zeros((len(scenes), len(SHAPES)), dtype=np.int64)
    scene, slot = np.nonzero(scenes.shape >= 0)
    found[scene, scenes.shape[scene, slot]] = 1 + scenes.color[scene, slot]
    return found


def to_input(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels `[image, 64, 64, 3]` as the models take them: float32 `[image, 3, 64, 64]` in -1 to 1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def _pixels(images: Sequence[Image.Image]) -> NDArray[np.uint8]:
    for image in images:
        if not isinstance(image, Image.Image) or image.size != (SIZE, SIZE):
            size = f"{image.width} x {image.height}" if isinstance(image, Image.Image) else repr(image)
            raise UsageError(f"Got a picture of {size}: expected PIL images of {SIZE} x {SIZE} pixels.")
    if not images:
        raise UsageError("Got no pictures: expected one or several.")
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def open_pipeline(name: str, folder: Path, dtype: torch.dtype | None = None) -> SceneReaderPipeline:
    """Load one of the embedded vision transformers from its folder."""
    model = load_quietly(KINDS[name], folder, dtype)
    return SceneReaderPipeline(model)
