"""Matrices as codes, scales and places: what was rounded to a grid, or left sparse by groups, stored small and exactly.

How a matrix is stored is seen from its numbers alone (``fitting``): the narrowest of all grids and patterns on which
every one of them lies, to the bit. So it does not matter who rounded it, and nothing is rounded again.

>>> import torch
>>> from isoflop.compress.grids import Grid, integers
>>> weight = Grid(integers(4), 32).rounded(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)))
>>> packing = fitting(weight)
>>> packing.element, packing.block
('int4', 32)
>>> torch.equal(packing.decode(packing.encode(weight), weight.shape), weight)
True
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ..core.errors import DataError, UsageError
from ..store.published import CONFIG
from ..store.safetensors_dir import strict_json
from ..store.tensors import Checkpoint
from .elements import FORMATS, Element, element_of, pack, round_, unpack
from .grids import Float, floats, integers, split
from .mx import LARGEST_BYTE, powers, scale_bytes
from .sparsity import group_mask

METHOD = "isoflop"
"""``quant_method`` in the configuration of a directory whose matrices are packed."""
BLOCKS = (None, 128, 64, 32, 16)
"""Weights of a row that may share a scale; None: the row. Wider ones are tried first, since they have fewer scales."""
GROUPS = (2, 4, 8, 16, 32, 64, 128)
"""Weights of a group that are looked at."""
PLAIN = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""Types of numbers that are no codes."""
_GRIDS = tuple(f"int{bits}" for bits in range(2, 9)) + get_args(Float)
_NARROW = 16
_WITHIN = {
    name: "int8" if "int" in name else "fp8_e5m2" if "e5m2" in name else "fp8_e4m3" for name in (*_GRIDS, *FORMATS)
}
"""Each element with one of which all its numbers are numbers, times any scale."""
_LOOKED, _SAMPLE = 1024, 4  # on so many blocks, of so many, most grids are seen not to fit
_LOOSE = 3  # binades by which a block's scale may lie above that of its largest number
_AT_ONCE = 1 << 22  # numbers


@dataclass(frozen=True)
class WeightPacking:
    """How a matrix is stored.

    Attributes:
        element: what a kept weight is: "int4", "fp4_e2m1" ... (times a scale in floating point), "mxfp4_e2m1" ...
            (times a power of two), or one of ``PLAIN``, the number itself.
        block: weights of a row that share a scale; None: the row.
        n: kept weights of each group, whose places are stored; None: all are kept.
        m: weights of a group.
        transposed: blocks and groups lie down columns.

    Example:
        >>> WeightPacking("mxfp4_e2m1", block=32, n=2, m=4).bits((64, 64))  # (4 + 2) / 2 bits, and a byte for 32
        13312
    """

    element: str
    block: int | None = None
    n: int | None = None
    m: int | None = None
    transposed: bool = False

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for a matrix that lies on the grid: ``codes`` or ``values``, ``scales``, ``places``.

        Args:
            weight: (rows, columns), fp32.

        Raises:
            UsageError: it does not lie on the grid.
        """
        weight = weight.t().contiguous() if self.transposed else weight.contiguous()
        found: dict[str, Tensor] = {}
        kept = torch.ones_like(weight, dtype=torch.bool)
        if self.n is not None and self.m is not None:
            kept = group_mask(weight, self.n, self.m)
            places = kept.view(-1, self.m).nonzero()[:, 1].to(torch.uint8)
            found["places"] = pack(places, _place_bits(self.m))
        if self.element in PLAIN:
            return {"values": weight[kept].to(PLAIN[self.element]), **found}
        scales = scales_of(weight, self.element, self.block)
        if scales is None:
            raise UsageError(f"does not lie on a grid of {self.element}", where="packing", fix="round it first")
        element, blocks = _element(self.element), split(weight, self.block)
        unit = _unit(blocks, _factors(scales), element)
        codes = element.codes(unit, unit.signbit()).flatten(1)[:, : weight.shape[1]]
        return {"codes": pack(codes[kept], element.bits), "scales": scales, **found}

    def decode(self, tensors: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """The matrix (rows, columns), fp32, of its tensors.

        Args:
            tensors: as ``encode`` gives them.
            shape: of the matrix.
        """
        rows, columns = reversed(shape) if self.transposed else shape
        kept = self._kept(tensors, rows, columns)
        count = rows * columns if kept is None else int(kept.sum())
        if self.element in PLAIN:
            values = tensors["values"].float()
        else:
            element = _element(self.element)
            values = element.values()[unpack(tensors["codes"], element.bits, count).long()]
        weight = (
            values.view(rows, columns) if kept is None else torch.zeros(rows, columns).masked_scatter_(kept, values)
        )
        if self.element not in PLAIN:
            factors = _factors(tensors["scales"]).unsqueeze(-1)
            weight = (split(weight, self.block) * factors).flatten(1)[:, :columns]
        return (weight.t() if self.transposed else weight).contiguous()

    def _kept(self, tensors: Mapping[str, Tensor], rows: int, columns: int) -> Tensor | None:
        if self.n is None or self.m is None:
            return None
        groups = rows * columns // self.m
        places = unpack(tensors["places"], _place_bits(self.m), groups * self.n).view(groups, self.n)
        mask = torch.zeros(groups, self.m, dtype=torch.bool).scatter_(1, places.long(), True)
        return mask.view(rows, columns)

    def bits(self, shape: Sequence[int]) -> int:
        """Bits of a matrix of that shape in all; scales in floating point are counted as 16."""
        rows, columns = reversed(shape) if self.transposed else shape
        kept, places = rows * columns, 0
        if self.n is not None and self.m is not None:
            kept = rows * columns // self.m * self.n
            places = kept * _place_bits(self.m)
        if self.element in PLAIN:
            return kept * PLAIN[self.element].itemsize * 8 + places
        scales = rows * -(-columns // (self.block or columns))
        return kept * _element(self.element).bits + places + scales * (8 if self.element in FORMATS else 16)


def fitting(weight: Tensor) -> WeightPacking | None:
    """The narrowest packing that holds a matrix to the bit; None: no grid and no pattern does.

    Columns are looked along only where no grid lies along rows.

    Args:
        weight: (rows, columns), fp32, finite.
    """
    best = min(
        _fitting(weight.detach().float().contiguous()), key=lambda packing: packing.bits(weight.shape), default=None
    )
    return None if best is None or best == WeightPacking("float32") else best


def _fitting(weight: Tensor) -> Iterator[WeightPacking]:
    """Of each direction every grid that may be the narrowest, alone and with every pattern."""
    if not weight.numel():
        return
    for transposed in (False, True):
        turned = weight.t().contiguous() if transposed else weight
        patterns = [(None, None), *_patterns(turned)]
        plain = [name for name, kind in PLAIN.items() if torch.equal(turned.to(kind).float(), turned)]
        yield from (WeightPacking(name, None, n, m, transposed) for name in plain for n, m in patterns)
        found = False
        for packing in _grids(turned, patterns):
            found = True
            yield replace(packing, transposed=transposed)
        if found:
            return


Patterns = Sequence[tuple[int | None, int | None]]


def _grids(weight: Tensor, patterns: Patterns) -> Iterator[WeightPacking]:
    """The grids that hold a matrix, of the fewest bits first, as long as more bits could do with fewer scales."""
    least = math.inf
    for _, names in groupby(sorted(_possible(weight), key=_bits), _bits):
        each = list(names)
        if min(WeightPacking(name, None, n, m).bits(weight.shape) for name in each for n, m in patterns) >= least:
            return
        for name in each:
            block = _block(weight, name)
            if block != ():
                made = [WeightPacking(name, block, n, m) for n, m in patterns]  # type: ignore[arg-type]
                least = min([least, *(packing.bits(weight.shape) for packing in made)])
                yield from made


def _bits(name: str) -> int:
    return _element(name).bits


def _block(weight: Tensor, name: str) -> int | tuple[()] | None:
    """The widest blocks of which each has a scale; () if there are none."""
    for block in BLOCKS:
        if block is not None and block >= weight.shape[1]:
            continue
        if _sampled(weight, name, block) and scales_of(weight, name, block) is not None:
            return block
    return ()


def _sampled(weight: Tensor, name: str, block: int | None) -> bool:
    """Whether the first few blocks that are not zeros alone have a scale, which of most grids they have not."""
    blocks = split(weight, block).flatten(0, 1)[:_LOOKED]
    return _scales(blocks[blocks.any(1)][:_SAMPLE], name) is not None


def _possible(weight: Tensor) -> list[str]:
    """Elements that a matrix's first narrow blocks do not rule out: what lies on no wider grid lies on none within."""
    widest = {root for root in set(_WITHIN.values()) if _sampled(weight, root, min(_NARROW, weight.shape[1]))}
    return [name for name, root in _WITHIN.items() if root in widest]


def _patterns(weight: Tensor) -> list[tuple[int | None, int | None]]:
    """Every (n, m) that leaves zeros out."""
    some = (weight != 0).int()
    fitting = [m for m in GROUPS if weight.shape[1] % m == 0]
    kept = [(max(1, int(some.reshape(-1, m).sum(1).max())), m) for m in fitting]
    return [(n, m) for n, m in kept if n < m]


# ---------------------------------------------------------------- scales


def scales_of(weight: Tensor, element: str, block: int | None = None) -> Tensor | None:
    """The scale of each block of a matrix that lies on a grid, (rows, blocks); None if one block does not.

    Args:
        weight: (rows, columns), fp32.
        element: as ``WeightPacking.element``, none of ``PLAIN``.
        block: weights of a row that share a scale; None: the row.

    Returns:
        Of mx formats uint8, the power's code; of the others fp16 where all of them are such numbers, else fp32.
    """
    blocks = split(weight.float().contiguous(), block)
    found = _scales(blocks.flatten(0, 1), element)
    if found is None:
        return None
    found = found.view(blocks.shape[:2])
    if found.dtype == torch.uint8 or not torch.equal(found.half().float(), found):
        return found
    return found.half()


def _scales(blocks: Tensor, name: str) -> Tensor | None:
    """Scales (count,) of blocks (count, block) on a grid; None if one has none."""
    element, largest = _element(name), blocks.abs().amax(1)
    done = largest == 0
    if name in FORMATS:
        bytes_ = torch.where(done, 0, scale_bytes(largest, element))
        for _ in range(_LOOSE + 1):
            done = done | _lies(blocks, powers(bytes_), element)
            if bool(done.all()):
                return bytes_.to(torch.uint8)
            bytes_ = torch.where(done, bytes_, (bytes_ + 1).clamp(max=LARGEST_BYTE))
        return None
    found = torch.zeros_like(largest)
    values = element.values()
    positive = values[torch.isfinite(values) & (values > 0)].sort(descending=True).values
    for some in (positive[:1], positive[1:]):  # mostly a block's largest number is the largest element
        left = (~done).nonzero()[:, 0]
        size = max(1, _AT_ONCE // max(1, 4 * len(some) * blocks.shape[1]))
        for rows in torch.split(left, size) if len(left) and len(some) else ():
            candidates = torch.stack(list(_near(largest[rows, None] / some)), -1).flatten(1)
            fits = _lies(blocks[rows, None], candidates, element)
            found[rows] = candidates.gather(1, fits.int().argmax(1, keepdim=True))[:, 0]
            done[rows] = fits.any(1)
    return found if bool(done.all()) else None


def _near(scale: Tensor) -> Iterator[Tensor]:
    """Scales that a quotient may stand for: the fp16 number there, itself, and its neighbours."""
    yield scale.half().float()
    yield scale
    yield torch.nextafter(scale, torch.full_like(scale, torch.inf))
    yield torch.nextafter(scale, torch.zeros_like(scale))


def _lies(blocks: Tensor, scale: Tensor, element: Element) -> Tensor:
    """Whether all numbers of each block (..., block) are elements times its scale (...), to the bit."""
    made = _unit(blocks, scale, element) * scale.unsqueeze(-1)
    return (made == blocks).all(-1) & torch.isfinite(scale) & (scale > 0)


def _unit(blocks: Tensor, scale: Tensor, element: Element) -> Tensor:
    """Blocks (..., block) over their scales (...), as elements; zero where the scale is."""
    scale = scale.unsqueeze(-1)
    unit = torch.where(scale > 0, blocks / scale, 0.0)
    return round_(unit.contiguous(), element)


def _factors(scales: Tensor) -> Tensor:
    """Stored scales as fp32."""
    return powers(scales) if scales.dtype == torch.uint8 else scales.float()


def _element(name: str) -> Element:
    if name in FORMATS:
        return element_of(name)
    if name not in _GRIDS:
        raise DataError(f"names the element {name!r}, which is not known here", where="packing")
    return integers(int(name[3:])) if name.startswith("int") else floats(name)  # type: ignore[arg-type]


def _place_bits(m: int) -> int:
    return max(1, (m - 1).bit_length())


# ---------------------------------------------------------------- directories


def is_packed(directory: Path) -> bool:
    """Whether a directory's matrices are packed as described here."""
    if not (directory / CONFIG).is_file():
        return False
    tree = strict_json(directory / CONFIG)
    said = tree.get("quantization_config") if isinstance(tree, dict) else None
    return isinstance(said, dict) and said.get("quant_method") == METHOD


def described(packings: Mapping[str, tuple[WeightPacking, Sequence[int]]]) -> dict[str, Any]:
    """``quantization_config`` of a directory, from each packed matrix's packing and shape by its name."""
    tensors = {name: {**asdict(packing), "shape": list(shape)} for name, (packing, shape) in packings.items()}
    return {"quant_method": METHOD, "version": 1, "tensors": tensors}


def read_packed(directory: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a packed directory by its name, one at a time: matrices in fp32, the others as they are stored.

    Args:
        directory: as ``isoflop export MODEL DIRECTORY --as packed`` writes it.

    Raises:
        DataError: it is none, or one of a later version.
    """
    checkpoint = Checkpoint(directory)
    said = checkpoint.config.get("quantization_config")
    if not isinstance(said, dict) or said.get("quant_method") != METHOD:
        raise DataError("is no directory of packed matrices", where=str(checkpoint.path))
    if said.get("version") != 1:
        raise DataError(f"is packed by version {said.get('version')}, and 1 is read", where=str(checkpoint.path))
    packed = said.get("tensors", {})
    for name, facts in packed.items():
        fields = {key: value for key, value in facts.items() if key != "shape"}
        packing = WeightPacking(**fields)
        parts = {part: f"{name}.{part}" for part in ("codes", "values", "scales", "places")}
        held = {part: checkpoint.read(full) for part, full in parts.items() if full in checkpoint.tensors}
        yield name, packing.decode(held, facts["shape"])
    for name in checkpoint.tensors:
        if not any(name.startswith(f"{packed_name}.") for packed_name in packed):
            yield name, checkpoint.read(name)


# ---------------------------------------------------------------- compressed-tensors


def integer_grid(weight: Tensor) -> tuple[int, int | None] | None:
    """The fewest bits of the integers whose grid holds a matrix, and the widest blocks; None if there are none.

    Args:
        weight: (rows, columns), fp32.
    """
    for bits in range(2, 9) if weight.numel() and "int8" in _possible(weight) else ():
        block = _block(weight, f"int{bits}")
        if block != ():
            return bits, block  # type: ignore[return-value]
    return None


def packed_integers(weight: Tensor, bits: int, block: int | None) -> dict[str, Tensor]:
    """A matrix as compressed-tensors packs it ("pack-quantized"), which vLLM and transformers load.

    Args:
        weight: (rows, columns), fp32, on a grid of ``bits``-bit integers.
        bits: 2 to 8.
        block: weights of a row that share a scale, which divides the columns; None: the row.

    Returns:
        ``weight_packed`` int32 (rows, words), codes plus 2^(bits - 1) in the low bits first, ``weight_scale`` fp32 or
        fp16 (rows, blocks), ``weight_shape`` int64 (2,).

    Example:
        >>> made = packed_integers(torch.tensor([[-7.0, 0.0, 1.0, 7.0] * 8]), bits=4, block=None)
        >>> made["weight_packed"].shape, hex(int(made["weight_packed"][0, 0]) & 0xFFFF)
        (torch.Size([1, 4]), '0xf981')
    """
    codes, scales = integer_codes(weight, bits, block)
    padded = torch.nn.functional.pad((codes.int() + (1 << (bits - 1))).to(torch.uint8), [0, -weight.shape[1] % 32])
    words = pack(padded, bits).view(len(weight), -1).view(torch.int32)
    words = words[:, : -(-weight.shape[1] * bits // 32)].contiguous()
    return {"weight_packed": words, "weight_scale": scales, "weight_shape": torch.tensor(weight.shape)}


def integer_codes(weight: Tensor, bits: int, block: int | None) -> tuple[Tensor, Tensor]:
    """The integers of a matrix that lies on their grid, int8 in its shape, and its scales, as ``scales_of`` gives them.

    Arguments are ``packed_integers``'s. UsageError: it does not lie on the grid.
    """
    name = f"int{bits}"
    scales = scales_of(weight, name, block)
    if scales is None:
        raise UsageError(f"does not lie on a grid of {name}", where="packing", fix="round it first")
    codes = _unit(split(weight, block), scales.float(), _element(name)).flatten(1)[:, : weight.shape[1]]
    return codes.to(torch.int8).contiguous(), scales
