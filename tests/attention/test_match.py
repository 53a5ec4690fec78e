"""Sets matched in mass or in persistence, against counting everything out."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sinkscope.attention import match_mass, stand_ins

quick = settings(max_examples=40, deadline=None)


def rand(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax_mass(seed: int, heads: int, keys: int, sink: float, spread: float = 1.0) -> Tensor:
    """Random mass [head, key] whose key 0 holds the share `sink`."""
    g = torch.Generator().manual_seed(seed)
    rest = torch.softmax(spread * torch.randn(heads, keys - 1, generator=g, dtype=torch.float64), -1)
    return torch.cat([torch.full((heads, 1), sink, dtype=torch.float64), (1 - sink) * rest], -1)


def without_first(mass: Tensor) -> Tensor:
    return torch.ones_like(mass, dtype=torch.bool) & (torch.arange(mass.shape[-1]) > 0)


def held(chosen: Tensor, mass: Tensor) -> Tensor:
    return torch.where(chosen, mass, 0.0).sum(-1)


@quick
@given(
    seed=st.integers(0, 10**6),
    sink=st.floats(0.005, 0.45),
    keys=st.sampled_from((105, 400)),
    spread=st.sampled_from((0.0, 0.5, 1.5)),
)
def test_the_mass_of_a_sink_is_met_within_one_percent(
    seed: int, sink: float, keys: int, spread: float
) -> None:
    if sink < 2 / keys:
        sink = 2 / keys
    mass = softmax_mass(seed, 6, keys, sink, spread)
    free, target = without_first(mass), mass[:, 0]
    chosen = match_mass(mass, free, target, (rand(seed + n, 6, keys) for n in range(4)))
    assert not bool((chosen & ~free).any())
    lightest = float(mass[:, 1:].min())
    # Keys of one size can only add up to multiples of it.
    allowed = 0.01 * target if spread else torch.maximum(0.01 * target, target * 0 + lightest / 2 + 1e-12)
    # One key of the rest may be heavier than the sink, and all the others too light together.
    rest = torch.where(mass[:, 1:] <= target[:, None], mass[:, 1:], 0.0).sum(-1)
    reachable = rest > 1.02 * target
    assert bool(((held(chosen, mass) - target).abs() <= allowed)[reachable].all())


@quick
@given(
    seed=st.integers(0, 10**6),
    keys=st.integers(3, 10),
    target=st.floats(0.0, 1.2),
    blocked=st.integers(0, 10**6),
)
def test_of_few_keys_the_closest_set_is_found(seed: int, keys: int, target: float, blocked: int) -> None:
    mass = softmax_mass(seed, 1, keys, 0.2)
    free = rand(blocked, 1, keys) > 0.3
    goal = torch.full((1,), target, dtype=torch.float64)
    chosen = match_mass(mass, free, goal, (rand(seed + n, 1, keys) for n in range(4)))
    assert not bool((chosen & ~free).any())
    places = free[0].nonzero().flatten().tolist()
    if len(places) < 2:
        assert not bool(chosen.any())
        return
    assert 1 <= int(chosen.sum()) < len(places)
    sums = [
        float(mass[0, list(some)].sum())
        for size in range(1, len(places))
        for some in itertools.combinations(places, size)
    ]
    best = min(abs(value - target) for value in sums)
    got = float((held(chosen, mass) - target).abs())
    assert got <= max(best, 0.01 * target) + 1e-12


def test_what_is_out_of_reach_is_approached_and_one_key_stays() -> None:
    mass = softmax_mass(3, 4, 30, 0.8)
    free = without_first(mass)
    chosen = match_mass(mass, free, mass[:, 0], [rand(0, 4, 30)])
    assert (free.sum(-1) - chosen.sum(-1)).tolist() == [1] * 4
    left = torch.where(free & ~chosen, mass, 0.0).sum(-1)
    torch.testing.assert_close(left, mass[:, 1:].amin(-1))
    # A target below the lightest key is met by that key alone.
    tiny = match_mass(mass, free, torch.full((4,), 1e-9), [rand(0, 4, 30)])
    assert torch.equal(tiny, mass == mass[:, 1:].amin(-1, keepdim=True))


def test_a_head_gets_the_same_keys_whatever_its_neighbours_need() -> None:
    easy, hard = softmax_mass(1, 3, 60, 0.1), softmax_mass(2, 2, 60, 0.7)
    both = torch.cat([hard, easy])
    numbers = [rand(n, 5, 60) for n in range(4)]
    together = match_mass(both, without_first(both), both[:, 0], numbers)
    alone = match_mass(easy, without_first(easy), easy[:, 0], [part[2:] for part in numbers])
    assert torch.equal(together[2:], alone)
    order = torch.tensor([3, 1, 4, 0, 2])
    turned = match_mass(both[order], without_first(both), both[order, 0], [part[order] for part in numbers])
    assert torch.equal(turned, together[order])


def test_light_keys_are_all_drawn_sometimes() -> None:
    mass = softmax_mass(5, 1, 40, 0.2).expand(500, 40)
    numbers = [rand(n, 500, 40) for n in range(4)]
    share = match_mass(mass, without_first(mass), mass[:, 0], numbers).double().mean(0)
    fits = (mass[0] <= 0.2) & (torch.arange(40) > 0)
    assert float(share[fits].min()) > 0.05 and float(share[fits].max()) < 0.6


def cycle_by_hand(treated: list[bool], free: list[bool], numbers: list[float], part: list[int]) -> set[int]:
    taken: set[int] = set()
    for code in set(part):
        cycle = sorted((key for key in range(len(part)) if part[key] == code), key=lambda key: numbers[key])
        for start, key in enumerate(cycle):
            if treated[key]:
                ahead = cycle[start + 1 :] + cycle[: start + 1]
                taken.add(next(other for other in ahead if free[other] and other not in taken))
    return taken


@quick
@given(seed=st.integers(0, 10**6), keys=st.integers(4, 40), share=st.floats(0.0, 0.45))
def test_stand_ins_are_the_next_free_keys_on_the_cycle(seed: int, keys: int, share: float) -> None:
    part = torch.arange(keys) % 2
    allowed = rand(seed + 1, 2, 3, keys) > 0.1
    treated = (rand(seed, 2, 3, keys) < share) & allowed
    for code in (0, 1):
        crowded = (treated & (part == code)).sum(-1) * 2 > (allowed & (part == code)).sum(-1)
        treated &= ~crowded[..., None]
    free, numbers = allowed & ~treated, rand(seed + 2, 2, 3, keys)
    found = stand_ins(treated, free, numbers, part)
    for row, head in itertools.product(range(2), range(3)):
        lists = (part[row, head].tolist() for part in (treated, free, numbers))
        want = cycle_by_hand(*lists, part.tolist())
        assert set(found[row, head].nonzero().flatten().tolist()) == want
    assert torch.equal((found & (part == 1)).sum(-1), (treated & (part == 1)).sum(-1))


def overlap(sets: list[Tensor]) -> float:
    """Mean share of keys that were there in the step before."""
    kept = [(now & then).sum(-1) / now.sum(-1) for then, now in itertools.pairwise(sets)]
    return float(torch.stack(kept).double().mean())


def test_stand_ins_stay_as_long_as_the_treated_keys() -> None:
    """Sinks that wander: measured persistence of both, with 4 of 105 keys and with 12 of 60."""
    for count, keys, tolerance in ((4, 105, 0.02), (12, 60, 0.05)):
        scores, numbers, part = rand(0, 40, keys), rand(1, 40, keys), torch.zeros(keys, dtype=torch.long)
        treated, control = [], []
        for step in range(30):
            scores = scores + 0.05 * (rand(step + 2, 40, keys) - 0.5)
            sinks = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(count).indices, True)
            treated.append(sinks)
            control.append(stand_ins(sinks, ~sinks, numbers, part))
        assert 0.5 < overlap(treated) < 0.98
        assert abs(overlap(treated) - overlap(control)) < tolerance
        assert not any(bool((a & b).any()) for a, b in zip(treated, control, strict=True))
