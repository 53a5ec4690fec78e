"""VQAScore (Lin et al. 2024): the probability that a vision-language model answers "yes" when asked whether
the image shows the prompt, by BLIP-2 or InstructBLIP with a (Flan-)T5 language model.

    score = p("yes" | image, 'Does this figure show "PROMPT"? Please answer yes or no.')

read from the logits of the first answer token. The authors' own CLIP-FlanT5 is another network, asked in
other words, and their code takes the geometric mean with the token that ends the answer: numbers are not
comparable with the paper's. Images are squashed to the model's square with Pillow, as BLIP's own processor
does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import UsageError

from ._batches import Batches, exact
from ._clip_input import ImageRecipe, recipe_for
from ._files import sha256, versions
from ._loading import load_config, load_model, load_tokenizer
from ._protocol import Direction, MetricInfo, Prompt, check_inputs
from ._two_towers import cut_note
from ._weights import AbsentWeightsError, hub_folder, looked, once

CHECKPOINT = "Salesforce/blip2-flan-t5-xl"
SIZE = "15.8 GB"
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWER = "yes"
TOKENS = 128
"""Length of the question, as in the authors' InstructBLIP; here the prompt in it is cut, not its end."""
CLASSES = {
    "blip-2": "Blip2ForConditionalGeneration",
    "instructblip": "InstructBlipForConditionalGeneration",
}


class VqaScore:
    """Probability of "yes", 0 to 1, for each image and its prompt.

    Args:
        checkpoint: BLIP-2 or InstructBLIP with a T5 language model; folder or hub id.
        question: What is asked, with `{}` once, where the prompt goes.
        batch: Images per forward pass; halved when memory runs out.
        device: Where to run.
        download: Fetch a hub id that is not on this machine. Off by default: nothing is downloaded unasked.
    """

    name = "vqascore"
    direction: Direction = "higher"
    needs = frozenset({"prompt"})

    def __init__(
        self,
        checkpoint: str | Path = CHECKPOINT,
        *,
        question: str = QUESTION,
        batch: int = 4,
        device: str = "cpu",
        download: bool = False,
    ) -> None:
        if question.count("{}") != 1:
            raise UsageError(f"Got question={question!r}, expected {{}} in it once, where the prompt goes.")
        self._batches = Batches(self.name, batch, device)
        self.checkpoint, self.question = str(checkpoint), question
        self.device, self.download = device, download

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs a BLIP-2 checkpoint."""
        return looked(cls.name, cls()._files)

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        config, path = self._config(), Path(self.checkpoint)
        return {
            "metric": self.name,
            "backend": f"transformers.{CLASSES[config.model_type]}",
            "checkpoint": path.name if path.is_dir() else self.checkpoint,
            "sha256": sha256(self._files()),
            "dtype": "float32",
            "preprocess": self._recipe.id,
            "formula": f"p({ANSWER!r}) as first token",
            "question": self.question,
            "text": f"{type(self._tokenizers[0]).__name__}, question of at most {TOKENS} tokens",
            "versions": versions("torch", "transformers", "tokenizers", "pillow"),
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Probability of "yes" for each image and its prompt, float64 `[n]`."""
        check_inputs(self, images, prompts, reference)
        if not images:
            return np.empty(0)
        questions = [self._question(prompt.text) for prompt in prompts or ()]
        pairs = list(zip(images, questions, strict=True))
        with exact(self.device):
            return self._batches(pairs, partial(self._forward, self._model())).numpy()

    def notes(self, prompts: Sequence[Prompt]) -> list[str]:
        """Per prompt: that it was cut and to how many tokens, or an empty text."""
        # Not of the empty question, where both quotation marks may make one token.
        rest = self._count("a") - 1
        return [cut_note(self._count(prompt.text) - rest, TOKENS - rest) for prompt in prompts]

    # ---- the question

    def _question(self, text: str) -> str:
        """The question about a prompt; a prompt too long for it loses characters at its own end."""
        if self._count("") > TOKENS:
            raise UsageError(f"Metric 'vqascore': the question alone has more than {TOKENS} tokens.")
        if self._count(text) > TOKENS:
            text = text[: bisect_right(range(len(text)), TOKENS, key=lambda n: self._count(text[:n])) - 1]
        return self.question.replace("{}", text)

    def _count(self, text: str) -> int:
        asked = self.question.replace("{}", text)
        return max(len(words(asked, verbose=False)["input_ids"]) for words in self._tokenizers)

    def _forward(self, model: Any, pairs: Sequence[tuple[Image.Image, str]]) -> Tensor:
        config, words = model.config, self._tokenizers[0]
        questions = [question for _, question in pairs]
        # A prompt that spells the image's own placeholder must not take the place of the image.
        place = config.image_token_index
        texts = [[i for i in ids if i != place] for ids in words(questions)["input_ids"]]
        longest, seen = max(map(len, texts)), config.num_query_tokens
        rows = [[place] * seen + ids + [words.pad_token_id] * (longest - len(ids)) for ids in texts]
        mask = [[1] * (seen + len(ids)) + [0] * (longest - len(ids)) for ids in texts]
        inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
        if config.model_type == "instructblip":
            asked = self._tokenizers[1](questions, padding=True, return_tensors="pt")
            inputs |= {f"qformer_{name}": asked[name] for name in ("input_ids", "attention_mask")}
        inputs["pixel_values"] = torch.stack([self._recipe(image) for image, _ in pairs])
        # T5 starts to write after its padding token.
        inputs["decoder_input_ids"] = torch.full((len(pairs), 1), config.text_config.pad_token_id)
        logits = model(**{name: value.to(self.device) for name, value in inputs.items()}).logits[:, 0]
        return logits.cpu().double().softmax(dim=-1)[:, self._answer]

    @cached_property
    def _answer(self) -> int:
        words = self._tokenizers[0]
        ids: list[int] = words(ANSWER, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == words.unk_token_id:
            raise UsageError(
                f"Metric 'vqascore': the tokenizer in {self._folder} has no single token for {ANSWER!r} (got "
                f"{len(ids)}), expected that of Flan-T5. Name another checkpoint."
            )
        return ids[0]

    # ---- files

    @cached_property
    def _folder(self) -> Path:
        if Path(self.checkpoint).is_dir():
            return Path(self.checkpoint)
        try:
            size = SIZE if self.checkpoint == CHECKPOINT else ""
            return hub_folder(self.checkpoint, download=self.download, size=size)
        except AbsentWeightsError as error:
            raise AbsentWeightsError(error.reason, f"Fetch it with: {_fetch(self.checkpoint)}") from error

    def _files(self) -> list[Path]:
        files = sorted(self._folder.glob("model*.safetensors"))
        if not files or not (self._folder / "config.json").is_file():
            raise AbsentWeightsError(
                f"Metric 'vqascore' has no checkpoint in {self._folder}: expected config.json and "
                f"model*.safetensors ({SIZE} for {CHECKPOINT}).",
                f"Fetch one with: {_fetch(CHECKPOINT)}",
            )
        return files

    def _config(self) -> Any:
        path = self._files()[0].parent / "config.json"
        config = once("config", [path], None, lambda: load_config(self._folder))
        found = config.model_type
        if found in CLASSES and config.text_config.model_type != "t5":
            found += f" with {config.text_config.model_type}"
        if found not in CLASSES:
            raise UsageError(
                f"Metric 'vqascore': the checkpoint in {self._folder} is a {found!r} model, expected blip-2 "
                f"or instructblip with a T5 language model, such as {CHECKPOINT}."
            )
        if config.image_token_index is None:
            raise UsageError(
                f"Metric 'vqascore': {path} has no image_token_index, as older revisions have not. "
                "Fetch the checkpoint's present revision."
            )
        return config

    @cached_property
    def _recipe(self) -> ImageRecipe:
        size = int(self._config().vision_config.image_size)
        return replace(recipe_for(self._folder, "clip", size), fit="squash")

    @cached_property
    def _tokenizers(self) -> list[Any]:
        """That of the language model and, for InstructBLIP, that of the Q-Former."""
        second = ["qformer_tokenizer"] if self._config().model_type == "instructblip" else []
        return [load_tokenizer(self._folder / part, metric=self.name) for part in ("", *second)]

    def _model(self) -> Any:
        self._config()
        return once("vqascore", self._files(), self.device, self._read)

    def _read(self) -> Any:
        import transformers

        kind = getattr(transformers, CLASSES[self._config().model_type])
        model = load_model(self._folder, metric=self.name, dtype=torch.float32, model_class=kind)
        return model.to(self.device)


def _fetch(checkpoint: str) -> str:
    return f"hf download {checkpoint} --include '*.json' --include 'model*.safetensors'"
