"""Training the embedded language models: `python -m sinkscope.shapes.language.train NAME --out FOLDER`.

A step draws fresh stories; story i of the whole training has seed i, so nothing is seen twice and nothing
that is tested is trained on. The autoregressive model learns the next word. The masked-diffusion model learns
the words under a mask: of each story n words are masked, n drawn evenly from 1 to all, and the loss is the
mean over them, which weights every place of a random order of unmasking alike.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sinkscope.shapes._fit import export, fit, settings
from sinkscope.shapes.language._model import KINDS, config
from sinkscope.shapes.language._pipeline import open_pipeline
from sinkscope.shapes.language._tokens import build_tokenizer, encode
from sinkscope.shapes.language.stories import KEPT_FOR_TESTS, story

TESTED = 512


def main(arguments: list[str] | None = None) -> None:
    """Train one model and write its folder."""
    given = settings(__doc__, KINDS, arguments, steps=2000, lr=3e-3)
    tokenizer = build_tokenizer()
    model = KINDS[given.model](config(len(tokenizer)))
    masks = torch.Generator().manual_seed(given.seed)

    def batch(step: int) -> Tensor:
        first = step * given.batch
        return encode(tokenizer, [story(first + row) for row in range(given.batch)])

    def next_word(step: int) -> Tensor:
        ids = batch(step)
        logits = model(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def hidden_words(step: int) -> Tensor:
        ids = batch(step)
        hidden = masked(len(ids), ids.shape[1], masks)
        logits = model(input_ids=torch.where(hidden, tokenizer.mask_token_id, ids)).logits
        each = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none") * hidden
        return (each.sum(1) / hidden.sum(1)).mean()

    loss_of = next_word if given.model == "shapes-lm" else hidden_words
    seconds = fit(model, loss_of, steps=given.steps, lr=given.lr, say=lambda text: print(text, flush=True))
    tokenizer.save_pretrained(given.out)
    # The newest releases of transformers write a class name that older ones do not know.
    about = given.out / "tokenizer_config.json"
    words = json.loads(about.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    about.write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    chosen = {name: value for name, value in vars(given).items() if name != "out"}
    command = f"python -m sinkscope.shapes.language.train {given.model}"
    record: dict[str, Any] = {"command": command, **chosen, "seconds": round(seconds)}
    export(model, given.out, record)
    export(model, given.out, {**record, "quality": quality(given.model, given.out)})
    print((given.out / "training.json").read_text(encoding="utf-8"))


def masked(rows: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Which tokens are hidden, bool `[row, token]`: in each row a number drawn evenly, never the begin
    mark."""
    count = torch.randint(1, tokens, (rows, 1), generator=generator)
    order = torch.rand(rows, tokens - 1, generator=generator).argsort(1).argsort(1)
    return torch.cat([torch.zeros(rows, 1, dtype=torch.bool), order < count], dim=1)


def quality(name: str, folder: Path, stories: int = TESTED) -> dict[str, float]:
    """Nats per word on stories never trained on, beside what counting words and pairs of words reaches."""
    pipe: Any = open_pipeline(name, folder)
    texts = [story(KEPT_FOR_TESTS + index) for index in range(stories)]
    passes = [1] if name == "shapes-lm" else [1, 4, 16, 63]
    found: dict[str, float] = {"stories": stories, **counted(texts)}
    for count in passes:
        losses, right = [], []
        for start in range(0, stories, 64):
            part = texts[start : start + 64]
            seeds = [torch.Generator().manual_seed(start + row) for row in range(len(part))]
            for arrays in pipe(part, num_inference_steps=count, generator=seeds).arrays:
                losses.append(arrays["loss"].mean())
                right.append((arrays["predicted"] == arrays["target"]).mean())
        tag = "" if passes == [1] else f"_{count}_passes"
        found[f"loss{tag}"] = round(float(np.mean(losses)), 4)
        found[f"accuracy{tag}"] = round(float(np.mean(right)), 4)
    return found


def counted(texts: list[str], training: int = 5000) -> dict[str, float]:
    """Nats per word of word and word-pair counts over training stories, one added to each count."""
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for index in range(training):
        split = ["<bos>", *story(index).split()]
        words.update(split[1:])
        pairs.update(zip(split[:-1], split[1:], strict=True))
    before: Counter[str] = Counter()
    for (first, _), number in pairs.items():
        before[first] += number
    size, total = len(words), sum(words.values())
    single, double = [], []
    for text in texts:
        split = ["<bos>", *text.split()]
        single += [-np.log((words[word] + 1) / (total + size)) for word in split[1:]]
        double += [
            -np.log((pairs[first, second] + 1) / (before[first] + size))
            for first, second in zip(split[:-1], split[1:], strict=True)
        ]
    return {"unigram": round(float(np.mean(single)), 4), "bigram": round(float(np.mean(double)), 4)}


if __name__ == "__main__":
    main(sys.argv[1:])
