"""The embedded language models as pipelines: texts in, nats per word out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sinkscope.errors import UsageError
from sinkscope.shapes._reading import Generators, Reader, Readings, answers, each, load_quietly, rows
from sinkscope.shapes.language._model import KINDS
from sinkscope.shapes.language._tokens import encode


class TextReader(Reader):
    """What both language models share."""

    def __init__(self, transformer: Any, tokenizer: Any) -> None:
        super().__init__(transformer, tokenizer=tokenizer)
        self.tokenizer = tokenizer

    def _ids(self, prompt: str | list[str]) -> Tensor:
        return encode(self.tokenizer, [prompt] if isinstance(prompt, str) else list(prompt)).to(self.device)


class AutoregressiveReader(TextReader):
    """Reads each text once, from the left.

    Example:
        >>> import sinkscope
        >>> pipe = sinkscope.load("shapes-lm")
        >>> (read,) = pipe("there is a red circle . the circle is red .").arrays
        >>> read["loss"].shape
        (11,)
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        num_inference_steps: int = 1,
        generator: Generators = None,
        output_type: str = "np",
    ) -> Readings:
        """Read texts of one length.

        Args:
            prompt: One text or several, with equally many words.
            num_inference_steps: 1.
            generator: Not needed, as nothing is drawn; taken because every pipeline takes one.
            output_type: "np".

        Returns:
            For each text and word: `loss` (nats, given the words before it), `predicted`, `target` (ids).
        """
        self._one_pass(num_inference_steps)
        ids = self._ids(prompt)
        each(generator, len(ids))
        self.scheduler.set_timesteps(1)
        logits = self.transformer(input_ids=ids, use_cache=False).logits
        self.scheduler.step()
        return Readings(rows(answers(logits[:, :-1], ids[:, 1:])))


class MaskedDiffusionReader(TextReader):
    """Reads each text in several passes, uncovering some of its words after each.

    Before the first pass every word is masked. A pass predicts all masked words; then the next group of them,
    in an order drawn for each text, is uncovered. A word's loss is taken from the pass after which it is
    uncovered, so that the sum over a text is minus the log-probability of that text under the model that
    samples in this order: comparable with an autoregressive loss.
    """

    defaults: ClassVar[dict[str, Any]] = {"num_inference_steps": 16}

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        num_inference_steps: int = 16,
        generator: Generators = None,
        output_type: str = "np",
    ) -> Readings:
        """Read texts of one length.

        Args:
            prompt: One text or several, with equally many words.
            num_inference_steps: Passes: from 1 to the number of words.
            generator: Draws the order in which words are uncovered: one for all texts or one each. None:
                seeds 0, 1, 2 ...
            output_type: "np".

        Returns:
            For each text and word: `loss` (nats), `predicted`, `target` (ids), `step` (the pass it was
            predicted in).
        """
        ids = self._ids(prompt)
        words = ids.shape[1] - 1
        if not 1 <= num_inference_steps <= words:
            raise UsageError(
                f"Got num_inference_steps={num_inference_steps} for texts of {words} words: expected 1 to "
                f"{words}, as every pass uncovers at least one word."
            )
        order = torch.stack([torch.randperm(words, generator=g) for g in each(generator, len(ids))])
        due = (order * num_inference_steps // words).to(self.device)
        found: dict[str, Tensor] = {"step": due}
        self.scheduler.set_timesteps(num_inference_steps)
        for step in range(num_inference_steps):
            read = answers(self._logits(ids, due >= step), ids[:, 1:])
            now = due == step
            for name, value in read.items():
                found[name] = torch.where(now, value, found.get(name, torch.zeros_like(value)))
            self.scheduler.step()
        return Readings(rows(found))

    def _logits(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """Logits of every word with those of `hidden`, bool `[text, word]`, masked."""
        words = torch.where(hidden, self.tokenizer.mask_token_id, ids[:, 1:])
        logits: Tensor = self.transformer(input_ids=torch.cat([ids[:, :1], words], dim=1)).logits
        return logits[:, 1:]


def open_pipeline(name: str, folder: Path, dtype: torch.dtype | None = None) -> TextReader:
    """Load one of the embedded language models from its folder."""
    from transformers import PreTrainedTokenizerFast

    model = load_quietly(KINDS[name], folder, dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    kind = AutoregressiveReader if name == "shapes-lm" else MaskedDiffusionReader
    return kind(model, tokenizer)
