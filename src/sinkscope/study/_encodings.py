"""Text encoders run once for each batch of prompts, whatever the number of arms.

The pipeline's own `encode_prompt` is wrapped while a study generates. What it returns is kept under a name
made of everything it depends on (weights of the text encoders, tokenizers, class of the pipeline, device,
package versions, and the arguments of the call) and given back at the next call with the same ones; so the
pipeline's logic is untouched and its images are the same bits. What the encoders were given is kept beside
it, because the identities of text tokens are read from there.

Files lie in the run folder while a study generates, for a resumed run and for other workers (each file is
whole or absent, and two that write the same one write the same numbers), and are removed when every image is
there. The key is the whole call, not one prompt: encoders round, and some pipelines pad, by batch.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinkscope.errors import StoreError
from sinkscope.models._denoiser import text_encoders
from sinkscope.models._patch import wrap
from sinkscope.models._prompts import announce, encoder_input
from sinkscope.study import _files
from sinkscope.study._record import versions

FOLDER = "shards/encodings"
"""Where files go in a run folder."""
IN_MEMORY = 4
"""How many calls are also kept in memory: the arms of a batch ask for the same ones."""
Capture = tuple[str, Tensor, Tensor | None]
"""Name of a text encoder, token ids `[prompt, position]`, mask or None."""


def forget(folder: Path) -> None:
    """Remove the files of a run folder: every image is there."""
    folder = folder / FOLDER
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


class _Opaque(Exception):
    """Something that cannot be part of a key or of a file."""


class Encodings:
    """Cache of `encode_prompt` of one pipeline.

    Args:
        folder: Where files go.
        pipe: The pipeline.
        weights: Hash of each network's weights, by component name.
    """

    def __init__(self, folder: Path, pipe: Any, weights: Mapping[str, str]) -> None:
        self._folder, self._pipe = folder, pipe
        self._base = {
            "pipeline": type(pipe).__name__,
            "weights": {name: value for name, value in weights.items() if name.startswith("text_encoder")},
            "tokenizers": _tokenizers(pipe),
            "device": str(torch.device(pipe.device).type) if hasattr(pipe, "device") else "cpu",
            "versions": {name: versions()[name] for name in ("torch", "diffusers", "transformers")},
        }
        self._memory: dict[str, tuple[Any, list[Capture]]] = {}
        self._parked: dict[str, Any] = {}
        self.computed = 0
        """How often the pipeline's own `encode_prompt` ran."""

    @property
    def possible(self) -> bool:
        """Whether this pipeline has an `encode_prompt`."""
        return callable(getattr(self._pipe, "encode_prompt", None))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wrap `encode_prompt` for a while. Sessions have to be opened inside."""
        if not self.possible:
            yield
            return
        with ExitStack() as stack:
            stack.callback(self.unpark)
            stack.callback(wrap(self._pipe, "encode_prompt", self._encode))
            yield

    # ---- one call

    def _encode(self, call_next: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            key = self._key(args, kwargs)
        except _Opaque:  # ready-made embeddings, for example: nothing to save
            return call_next(*args, **kwargs)
        kept = self._memory.get(key) or self._load(key)
        if kept is None:
            return self._compute(key, call_next, args, kwargs)
        self._remember(key, kept)
        result, captures = kept
        for encoder, ids, mask in captures:
            announce(self._pipe, encoder, ids, mask)
        return _map(result, Tensor.clone)

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        bound = inspect.signature(self._pipe.encode_prompt).bind(*args, **kwargs)
        bound.apply_defaults()
        call = {name: _plain(value) for name, value in bound.arguments.items()}
        text = json.dumps([self._base, call], sort_keys=True, allow_nan=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _compute(
        self, key: str, call_next: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        captures: list[Capture] = []
        parked = bool(self._parked)
        self.unpark()
        with ExitStack() as stack:
            for name, encoder in text_encoders(self._pipe).items():
                hook = functools.partial(_capture, captures, name)
                stack.callback(encoder.register_forward_pre_hook(hook, with_kwargs=True).remove)
            result = call_next(*args, **kwargs)
        self.computed += 1
        if parked:
            self.park()
        try:
            kept = _map(result, lambda tensor: tensor.detach().clone(memory_format=torch.contiguous_format))
            _save(self._path(key), kept, captures)
        except _Opaque:
            return result
        self._remember(key, (kept, captures))
        # What a later arm, or a resumed run, will be given: the same layout, not only the same numbers.
        return _map(kept, Tensor.clone)

    def _remember(self, key: str, kept: tuple[Any, list[Capture]]) -> None:
        self._memory.pop(key, None)
        self._memory[key] = kept
        while len(self._memory) > IN_MEMORY:
            del self._memory[next(iter(self._memory))]

    # ---- files

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _load(self, key: str) -> tuple[Any, list[Capture]] | None:
        path = self._path(key)
        if not path.is_file():
            return None
        device = torch.device(getattr(self._pipe, "_execution_device", self._pipe.device))
        try:
            return _read(path, device)
        except (StoreError, ValueError, KeyError) as error:
            print(f"note: {path.name} is damaged ({error}); its prompts are encoded again", file=sys.stderr)
            return None

    # ---- encoders leave the device

    def fill(self, ask: Callable[[], Any]) -> None:
        """Encode what a call of the pipeline will need.

        Args:
            ask: Calls the pipeline as it will be called later; it is stopped at the denoiser.
        """
        from sinkscope.models._denoiser import denoisers

        def stop(*_: Any) -> None:
            raise _Reached

        handles = [root.register_forward_pre_hook(stop) for root in denoisers(self._pipe).values()]
        try:
            ask()
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def park(self) -> None:
        """Take the text encoders off the pipeline and off its device; a prompt not yet encoded brings them
        back."""
        for name, encoder in text_encoders(self._pipe).items():
            self._parked[name] = (encoder, next(encoder.parameters()).device)
            encoder.to("cpu")
            setattr(self._pipe, name, None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def unpark(self) -> None:
        """Put the text encoders back where they were."""
        for name, (encoder, device) in self._parked.items():
            setattr(self._pipe, name, encoder.to(device))
        self._parked.clear()


class _Reached(Exception):
    """The denoiser was reached, so every prompt has been encoded."""


def _capture(
    captures: list[Capture], name: str, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    found = encoder_input(args, kwargs)
    if found is not None:
        captures.append((name, *found))


def _tokenizers(pipe: Any) -> dict[str, str]:
    """SHA-256 of what each tokenizer is made of, where it tells; its class and size otherwise."""
    found = {}
    for name, part in getattr(pipe, "components", {}).items():
        if name.startswith("tokenizer") and part is not None:
            part = getattr(part, "tokenizer", part)  # a processor of pictures and text has one inside
            backend = getattr(part, "backend_tokenizer", None)
            state = {"class": type(part).__name__, "size": len(part)}
            if backend is not None:
                # How to cut and to pad is left over from the last call; the next one says it anew.
                state = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
            text = json.dumps(state, sort_keys=True)
            found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _plain(value: Any) -> Any:
    """An argument as JSON; two different ones never look alike."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.device):
        return {"device": value.type}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value)}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(_plain(item) for item in value)]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {"mapping": {name: _plain(item) for name, item in value.items()}}
    raise _Opaque


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """What `encode_prompt` returned, with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_map(item, change) for item in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise _Opaque


def _save(path: Path, result: Any, captures: Sequence[Capture]) -> None:
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}

    def put(tensor: Tensor) -> str:
        tensors[name := f"{len(tensors):04d}"] = tensor.cpu()
        return name

    def shape(value: Any) -> Any:
        if isinstance(value, Tensor):
            return {"tensor": put(value), "host": value.device.type == "cpu"}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [shape(item) for item in value]}
        return {"value": value}

    plan = {"result": shape(result)}
    plan["captures"] = [
        [name, put(ids.contiguous()), None if mask is None else put(mask.contiguous())]
        for name, ids, mask in captures
    ]
    text = json.dumps(plan)
    _files.write_bytes(path, save(tensors, {"plan": text, "sha256": _checksum(text, tensors)}))


def _read(path: Path, device: torch.device) -> tuple[Any, list[Capture]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise StoreError(str(error)) from error
    text = header["plan"]
    if header["sha256"] != _checksum(text, tensors):
        raise StoreError("its content is not what was written")

    def value(entry: Mapping[str, Any]) -> Any:
        (kind, inner), *_ = entry.items()
        if kind == "tensor":
            return tensors[inner] if entry["host"] else tensors[inner].to(device)
        if kind in ("list", "tuple"):
            return {"list": list, "tuple": tuple}[kind](value(item) for item in inner)
        return inner

    plan = json.loads(text)
    captures = [
        (name, tensors[ids], None if mask is None else tensors[mask]) for name, ids, mask in plan["captures"]
    ]
    return value(plan["result"]), captures


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
