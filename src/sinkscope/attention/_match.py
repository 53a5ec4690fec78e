"""Sets of keys matched to other sets: in the mass they hold, or in how long they stay the same.

All functions work on [..., key] tensors, every head on its own, in float64 on the CPU: the answer for a head
depends on that head's numbers alone, not on its neighbours, the batch or the device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

TOLERANCE = 0.01
"""relative difference of mass that counts as matched"""
_AIM = TOLERANCE / 10
_EXCHANGES = 24
_FEW = 12


def match_mass(mass: Tensor, free: Tensor, target: Tensor, orders: Iterable[Tensor]) -> Tensor:
    """Random keys whose mass adds up to a target.

    Keys are taken in a random order until their sum comes closest to the target; then single keys are added,
    dropped or exchanged, each time the change that helps most, until 0.1 % is reached or nothing helps. Where
    1 % is not reached the next order is tried, and the closest result stays. O(keys log keys) per head. Where
    no order reaches 1 % and at most 12 keys are free, all sets are compared and the closest is taken.

    Args:
        mass: [..., key], not negative.
        free: Boolean [..., key]: keys that may be taken. At least one of them is always left.
        target: [...], the sum to reach.
        orders: Random numbers [..., key], one tensor per attempt; the smallest number comes first.

    Returns:
        Boolean [..., key]. At least one key wherever two are free, also where the lightest key is too heavy;
        the closest that was found where the target is out of reach.
    """
    shape = mass.shape
    mass, free = mass.detach().cpu().double().reshape(-1, shape[-1]), free.cpu().reshape(-1, shape[-1])
    goal = target.detach().cpu().double().reshape(-1, 1)
    best, gap = torch.zeros_like(free), torch.full_like(goal, torch.inf)
    heads = torch.arange(len(goal))
    for numbers in orders:
        part = mass[heads], free[heads], goal[heads]
        found = _exchange(_fill(*part, numbers.cpu().reshape(-1, shape[-1])[heads]), *part)
        distance = (part[2] - _held(found, part[0])).abs()
        best[heads] = torch.where(distance < gap[heads], found, best[heads])
        gap[heads] = torch.minimum(distance, gap[heads])
        # A head that is good enough keeps its set, whatever its neighbours still need; another order does not
        # help one whose keys are too light together.
        again = (gap > TOLERANCE * goal) & (_held(free, mass) > goal)
        heads = heads[again[heads, 0]]
        if not len(heads):
            break
    few = (gap > TOLERANCE * goal)[:, 0] & (free.sum(-1) <= _FEW)
    if bool(few.any()):
        best[few] = _closest_of_all(mass[few], free[few], goal[few])
    return best.reshape(shape)


def _closest_of_all(mass: Tensor, free: Tensor, target: Tensor) -> Tensor:
    """The set of free keys, at most 12 of [head, key], whose mass is closest to the target."""
    places = (~free).long().argsort(dim=-1, stable=True)[:, :_FEW]
    size = places.shape[1]
    sets = (torch.arange(2**size)[:, None] >> torch.arange(size)) & 1
    sums = mass.gather(-1, places) @ sets.T.double()
    open_ = free.gather(-1, places).long()
    taken = open_ @ sets.T
    possible = (taken > 0) & (taken == sets.sum(-1)) & (taken < free.sum(-1, keepdim=True))
    best = (sums - target).abs().masked_fill(~possible, torch.inf).argmin(-1)
    chosen = sets[best].bool() & possible.any(-1, keepdim=True)
    return torch.zeros_like(free).scatter(-1, places, chosen)


def _held(chosen: Tensor, mass: Tensor) -> Tensor:
    return torch.where(chosen, mass, 0.0).sum(-1, keepdim=True)


def _fill(mass: Tensor, free: Tensor, target: Tensor, numbers: Tensor) -> Tensor:
    """The first keys of a random order whose sum is closest to the target."""
    light = free & (mass <= target * (1 + TOLERANCE))
    pool = torch.where(light.any(-1, keepdim=True), light, free)
    order = numbers.masked_fill(~pool, 2.0).argsort(dim=-1, stable=True)
    sums = torch.where(pool, mass, 0.0).gather(-1, order).cumsum(-1)
    place = torch.arange(mass.shape[-1]).expand_as(order)
    most = torch.minimum(pool.sum(-1, keepdim=True), free.sum(-1, keepdim=True) - 1)
    last = (sums - target).abs().masked_fill(place >= most, torch.inf).argmin(-1, keepdim=True)
    filled = torch.zeros_like(free).scatter(-1, order, (place <= last) & (place < most))
    # All light keys together may be too little: then one key that is too heavy can be closer.
    heavy = torch.where(free & ~pool, mass, torch.inf)
    over, one = heavy.min(-1, keepdim=True)
    alone = torch.zeros_like(free).scatter(-1, one, True)
    short = target - _held(pool, mass)
    return torch.where((short > 0) & (over - target < short), alone, filled)


def _exchange(chosen: Tensor, mass: Tensor, free: Tensor, target: Tensor) -> Tensor:
    """Add, drop or exchange single keys while that brings the sum closer; all [head, key]."""
    chosen = chosen.clone()
    heads = torch.arange(len(chosen))
    for _ in range(_EXCHANGES):
        far = (target - _held(chosen, mass)).abs() > _AIM * target
        heads = heads[far[heads, 0]]
        changed, helps = _change(chosen[heads], mass[heads], free[heads], target[heads])
        heads = heads[helps]
        if not len(heads):
            break
        chosen[heads] = changed[helps]
    return chosen


def _change(chosen: Tensor, mass: Tensor, free: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The single change that helps most, and boolean [head]: whether it helps at all."""
    short = target - _held(chosen, mass)
    count, limit = chosen.sum(-1, keepdim=True), free.sum(-1, keepdim=True) - 1
    outside, place = torch.where(free & ~chosen, mass, torch.inf).sort(dim=-1, stable=True)
    # What every taken key would have to be exchanged for; a key of mass 0 at the end stands for nothing.
    leaving = torch.cat([torch.where(chosen, mass, torch.inf), torch.zeros_like(target)], dim=-1)
    wanted = torch.where(torch.isfinite(leaving), leaving + short, 0.0)
    above = torch.searchsorted(outside, wanted).clamp(max=outside.shape[-1] - 1)
    pair = torch.stack([above, (above - 1).clamp(min=0)])
    miss = torch.stack([(outside.gather(-1, side) - wanted).abs() for side in pair])
    miss = miss.masked_fill(torch.isinf(leaving), torch.inf)
    miss[..., -1:].masked_fill_(count >= limit, torch.inf)
    side = miss.argmin(0, keepdim=True)
    swap = miss.gather(0, side)[0]
    swapped = swap.argmin(-1, keepdim=True)
    dropping = torch.where(chosen & (count > 1), (short + mass).abs(), torch.inf)
    dropped = dropping.argmin(-1, keepdim=True)
    gains = torch.stack([swap.gather(-1, swapped), dropping.gather(-1, dropped)])
    drops = gains.argmin(0).bool()
    entering = place.gather(-1, pair.gather(0, side)[0].gather(-1, swapped))
    changed = _switch(chosen, torch.where(drops, dropped, swapped), entering, drops)
    return changed, (gains.amin(0) < short.abs())[:, 0]


def _switch(chosen: Tensor, out: Tensor, entering: Tensor, drops: Tensor) -> Tensor:
    """Take `out` away (the number of keys stands for nothing) and, unless only dropped, put `entering` in."""
    keys = torch.arange(chosen.shape[-1])
    return (chosen & ~(keys == out)) | ((keys == entering) & ~drops)


def stand_ins(treated: Tensor, free: Tensor, numbers: Tensor, part: Tensor) -> Tensor:
    """For every treated key another one, the same one whenever that key is treated.

    The keys of a part lie on a cycle in the order of `numbers`. A treated key is stood in for by the next key
    on the cycle; where that one is itself treated or already taken, by the next after it. With the same
    numbers in every step, the set changes when the treated keys change and, but for such collisions, by as
    many keys.

    Args:
        treated: Boolean [..., key].
        free: Boolean [..., key]: keys that may stand in; none of the treated.
        numbers: [..., key] in [0, 1).
        part: Whole numbers [..., key]; keys are stood in for within their part. Every part needs as many free
            keys as treated ones.

    Returns:
        Boolean [..., key], as many as treated in every part.
    """
    device = treated.device
    treated, free, part = treated.cpu(), free.cpu(), part.cpu().expand_as(treated)
    order = (part.double() + numbers.cpu()).argsort(dim=-1, stable=True)
    waiting, open_ = treated.gather(-1, order).long(), free.gather(-1, order).long()
    found = torch.zeros_like(treated)
    for code in torch.unique(part).tolist():
        here = (part == code).gather(-1, order)
        found |= _next_open(waiting * here, open_ * here).bool() & here
    return torch.zeros_like(treated).scatter(-1, order, found).to(device)


def _next_open(waiting: Tensor, open_: Tensor) -> Tensor:
    """Places on a cycle that are taken when everyone waiting moves on to the next open place."""
    # Twice around: what is still waiting at the end of the first round enters the second one.
    steps = torch.cat([waiting - open_] * 2, dim=-1).cumsum(-1)
    queue = steps - steps.cummin(-1).values.clamp(max=0)
    keys = waiting.shape[-1]
    return (queue[..., keys - 1 : -1] > 0) & (open_ > 0)
