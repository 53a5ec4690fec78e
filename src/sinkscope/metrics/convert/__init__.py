"""Released pickles to safetensors, once: `sinkscope convert hps HPS_v2.1_compressed.pt`.

A pickle can run code when it is opened, so nothing but these converters opens one, and only with
`torch.load(weights_only=True)`, which builds tensors and plain containers alone. A converted folder says in
`sinkscope.json` which file it was made from, with its SHA-256.
"""

from __future__ import annotations

from ._registry import KINDS, Converter, convert

__all__ = ["KINDS", "Converter", "convert"]
