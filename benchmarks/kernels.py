"""What the Triton kernels become on GPUs that are not here: `python benchmarks/kernels.py`.

Compiles them to machine code for the given architectures (no GPU is needed; ptxas comes with triton) and
prints registers, spilled bytes and shared memory, and of the loop over whole blocks how many instructions it
issues per logit. A GPU of these architectures computes one exponential in the time it issues eight
instructions, so with fewer than eight the exponential is the limit.
"""

from __future__ import annotations

import os

os.environ.pop("TRITON_INTERPRET", None)  # interpreted kernels cannot be compiled

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from sinkscope.attention import _triton
from sinkscope.attention._operands import Operands

KERNELS = ("_rowlse", "_colsum", "_merge")
TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TOKENS = 4096


class Launch(NamedTuple):
    """One launch, caught."""

    name: str
    kernel: Any
    arguments: dict[str, Any]


def caught(dtype: torch.dtype, dim: int, mask: str) -> list[Launch]:
    """The launches of measuring a call, of its output, and of a merge where the call can be split."""
    q = torch.zeros(1, TOKENS, 2, dim, dtype=dtype).transpose(1, 2)
    masks = {
        "bool": (torch.ones(1, 1, 1, TOKENS, dtype=torch.bool),),
        "float": (q.new_zeros(1, 1, TOKENS, TOKENS),),
    }
    ops = Operands(q, q, q, masks=masks.get(mask, ()), is_causal=mask == "causal")
    weights = torch.ones(1, 1, 1, TOKENS)
    with listening() as found:
        _triton._run(ops, weights, {"mass", "entropy"}, _triton.pick_blocks(ops))
        _triton._row_pass(
            ops, {"output"}, _triton.pick_blocks(ops), _triton._arguments(ops, _triton.pick_blocks(ops))
        )
        _triton._column_pass(
            ops,
            torch.zeros(q.shape[:3]),
            weights,
            _triton.pick_blocks(ops),
            _triton._arguments(ops, _triton.pick_blocks(ops)),
            True,
        )
        if _triton._is_plain(ops):
            few = Operands(q, *(q.new_zeros(1, 2, 32, dim) for _ in "kv"))
            hit = torch.ones(1, 2, dtype=torch.bool)
            _triton.merge(few, ops, torch.zeros(1, 2, 32), torch.empty_like(q), torch.zeros(q.shape[:3]), hit)
    return found


@contextmanager
def listening() -> Iterator[list[Launch]]:
    """Catch launches instead of running them."""
    from sinkscope.attention import _triton_kernels

    found: list[Launch] = []

    class Deaf:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(_triton_kernels, name)

        def __getitem__(self, grid: Any) -> Any:
            def caught(**given: Any) -> None:
                extra = [" + " + word.lower() for word in ("ENTROPY", "OUTPUT") if given.get(word)]
                found.append(Launch(self.name + "".join(extra), self.kernel, given))

            return caught

    def gpu_blocks(ops: Operands, blocks: Any = None) -> Any:
        return contextmanager(lambda: iter([_triton.pick_blocks(ops)]))()

    doubles = {name: Deaf(name) for name in KERNELS}
    with mock.patch.multiple(_triton_kernels, **doubles), mock.patch.object(_triton, "_on", gpu_blocks):
        yield found


def compiled(launch: Launch, architecture: int) -> dict[str, Any]:
    """Registers per thread, spilled bytes, shared memory in KiB, instructions per logit."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, given = launch.kernel, launch.arguments
    kinds: dict[str, str] = {}
    fixed: dict[str, Any] = {}
    hints: dict[tuple[int], Any] = {}
    for place, parameter in enumerate(kernel.params):
        name, value = parameter.name, given[parameter.name]
        if parameter.is_constexpr or (type(value) is int and value == 1):
            kinds[name], fixed[name] = "constexpr", value
            continue
        aligned = isinstance(value, Tensor) or (type(value) is int and value % 16 == 0)
        if aligned:
            hints[(place,)] = [["tt.divisibility", 16]]
        kinds[name] = (
            TYPES[value.dtype] if isinstance(value, Tensor) else {int: "i32", float: "fp32"}[type(value)]
        )
    options = {name: value for name, value in given.items() if name not in kinds}
    source = ASTSource(kernel, kinds, fixed, hints)
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [tool, "--dump-resource-usage", "-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    used = {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", said)}
    logits = given["BM"] * given.get("BN", given.get("KPAD", 0)) / (32 * made.metadata.num_warps)
    loop = shortest_loop(said)
    return {
        "registers": used["REG"],
        "spilled": used["STACK"],
        "shared": made.metadata.shared / 1024,
        "per_logit": loop / logits if loop else None,
    }


def shortest_loop(text: str) -> int | None:
    """Instructions of the shortest loop with matrix products: that of whole blocks."""
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", text, re.MULTILINE)
    places = {int(place, 16): index for index, (place, _) in enumerate(lines)}
    found = []
    for index, (place, instruction) in enumerate(lines):
        target = re.search(r"BRA.* 0x([0-9a-f]+)", instruction)
        if target and int(target[1], 16) < int(place, 16):
            body = [line for _, line in lines[places[int(target[1], 16)] : index + 1]]
            if any(re.search(r"\bHG?MMA", line) for line in body):
                found.append(len(body))
    return min(found, default=None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--architectures", type=int, nargs="+", default=[80, 90])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16"])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--masks", nargs="+", choices=["none", "bool", "float", "causal"], default=["none"])
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    args = parser.parse_args()
    if _triton._missing():
        print(f"triton is needed: {_triton._missing()}. pip install 'sinkscope[gpu]'", file=sys.stderr)
        return 1
    if not args.json:
        import triton

        print(f"Compiled by triton {triton.__version__}; no GPU was used.\n")
        print("| kernel | dtype | head | mask | sm | registers | spilled | shared KiB | per logit |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for dtype in args.dtypes:
        for dim in args.dims:
            for mask in args.masks:
                for launch in caught(DTYPES[dtype], dim, mask):
                    if launch.arguments.get("PICKED"):
                        continue  # the same code but for one load
                    for architecture in args.architectures:
                        found = compiled(launch, architecture)
                        row = {
                            "kernel": launch.name,
                            "dtype": dtype,
                            "dim": dim,
                            "mask": mask,
                            "sm": architecture,
                        }
                        if args.json:
                            print(json.dumps(row | found), flush=True)
                            continue
                        each = "" if found["per_logit"] is None else f"{found['per_logit']:.1f}"
                        cells = [
                            *row.values(),
                            found["registers"],
                            found["spilled"],
                            f"{found['shared']:.0f}",
                            each,
                        ]
                        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
