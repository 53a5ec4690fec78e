from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sinkscope.attention import (
    BottomMass,
    Frozen,
    KeyedRandom,
    Keys,
    MassAbove,
    NextMass,
    RandomKeys,
    Segment,
    SelectionContext,
    Selector,
    TopMass,
    Within,
    _selectors,
    default_group,
    selector_from_dict,
)
from sinkscope.errors import UsageError

quick = settings(max_examples=25, deadline=None)
ROWS, HEADS, KEYS = 3, 4, 12
TEXT = torch.arange(KEYS) >= 8
SEGMENTS = {"image": ~TEXT, "text": TEXT.expand(ROWS, KEYS)}


def context(mass: Tensor | None = None, **changes) -> SelectionContext:
    if mass is None:
        mass = torch.rand(ROWS, HEADS, KEYS, generator=torch.Generator().manual_seed(4))
    rows = mass.shape[0]
    given_ = {
        "random": KeyedRandom.of(range(rows), ["cond"] * rows, "blocks.0.attn", 0),
        "segments": SEGMENTS,
    }
    return SelectionContext(tuple(mass.shape), **({"masses": {"all": mass}} | given_ | changes))


masses = st.integers(0, 10**6).map(
    lambda seed: torch.randint(0, 4, (ROWS, HEADS, KEYS), generator=torch.Generator().manual_seed(seed)) / 8
)


@quick
@given(mass=masses, count=st.integers(1, KEYS), shared=st.booleans(), top=st.booleans())
def test_top_and_bottom_follow_the_budget_and_break_ties_by_lower_index(
    mass: Tensor, count: int, shared: bool, top: bool
) -> None:
    budget = {"shared_keys" if shared else "keys_per_head": count}
    chosen = (TopMass if top else BottomMass)(**budget).choose(context(mass))
    ranked = mass.mean(1, keepdim=True).expand_as(mass) if shared else mass
    assert chosen.dtype == torch.bool and bool((chosen.sum(-1) == count).all())
    for row, head in ((0, 0), (1, 3), (2, 1)):
        line = ranked[row, head].tolist()
        order = sorted(range(KEYS), key=lambda key: (-line[key] if top else line[key], key))
        assert chosen[row, head].nonzero().flatten().tolist() == sorted(order[:count])
    if shared:
        assert bool((chosen == chosen[:, :1]).all())


@quick
@given(
    mass=masses, count=st.integers(1, 5), shared=st.booleans(), seed=st.integers(0, 9), hide=st.integers(0, 6)
)
def test_random_keys_keep_budget_exclusion_and_segment(
    mass: Tensor, count: int, shared: bool, seed: int, hide: int
) -> None:
    budget = {"shared_keys" if shared else "keys_per_head": count}
    allowed = (torch.arange(KEYS) >= hide).expand(ROWS, KEYS)
    ctx = context(mass, allowed=allowed)
    chosen = RandomKeys(**budget, seed=seed).choose(ctx)
    assert bool((chosen.sum(-1) == count).all()) and not bool((chosen & ~allowed[:, None]).any())
    assert not shared or bool((chosen == chosen[:, :1]).all())
    inside = RandomKeys(keys_per_head=1, seed=seed, within="text").choose(ctx)
    assert not bool((inside & ~TEXT).any())
    sinks = TopMass(shared_keys=1)
    rest = RandomKeys(**{**budget, next(iter(budget)): min(count, KEYS - hide - 1)}, seed=seed, exclude=sinks)
    assert not bool((rest.choose(ctx) & sinks.choose(ctx)).any())


@quick
@given(mass=masses, count=st.integers(1, KEYS // 2), shared=st.booleans())
def test_the_next_keys_are_the_top_of_twice_the_budget_without_the_top(
    mass: Tensor, count: int, shared: bool
) -> None:
    def top(n: int) -> Tensor:
        return TopMass(**{"shared_keys" if shared else "keys_per_head": n}).choose(context(mass))

    below = NextMass(**{"shared_keys" if shared else "keys_per_head": count}).choose(context(mass))
    assert torch.equal(below, top(2 * count) & ~top(count))


def test_the_next_keys_need_twice_the_budget() -> None:
    with pytest.raises(UsageError, match="keys_per_head=7 below as many, but only 12 of 12 .* at most 6"):
        NextMass(keys_per_head=7).choose(context())


def test_random_keys_depend_on_unit_branch_site_step_and_seed_but_not_on_batch() -> None:
    select = RandomKeys(keys_per_head=3)

    def draw(units, branches=None, site="a", step=0, seed=0, chooser=select) -> Tensor:
        random = KeyedRandom.of(units, branches or ["cond"] * len(units), site, step)
        return chooser.choose(SelectionContext((len(units), HEADS, 60), {}, random, step=step))

    both = draw([7, 8])
    assert (
        torch.equal(draw([8, 7]), both[[1, 0]])
        and torch.equal(draw([8]), both[1:])
        and torch.equal(draw(["8"]), both[1:])
    )
    others = [draw([8]), draw([7], ["uncond"]), draw([7], site="b"), draw([7], step=1)]
    others.append(draw([7], chooser=RandomKeys(keys_per_head=3, seed=1)))
    for other in others:
        assert not torch.equal(other, both[:1])
    assert not torch.equal(both[:, 0], both[:, 1])


def test_random_keys_are_uniform() -> None:
    random = KeyedRandom.of(range(400), ["cond"] * 400, "a", 0)
    ctx = SelectionContext((400, 5, 10), {}, random)
    share = RandomKeys(keys_per_head=2).choose(ctx).float().mean((0, 1))
    torch.testing.assert_close(share, torch.full((10,), 0.2), rtol=0, atol=0.045)


def test_mass_above_thresholds() -> None:
    mass = torch.tensor([0.05, 0.3, 0.4, 0.25]).expand(2, 1, 4)
    allowed = torch.tensor([[True] * 4, [False, True, True, True]])
    ctx = context(mass, allowed=allowed, segments={})
    assert MassAbove(share=0.25).choose(ctx)[0, 0].tolist() == [False, True, True, False]
    # 1.1 / 4 keys = 0.275 in the first row, 1.1 / 3 keys = 0.367 in the second
    assert MassAbove(times_uniform=1.1).choose(ctx)[:, 0].tolist() == [
        [False, True, True, False],
        [False, False, True, False],
    ]


def test_keys_and_segments_name_positions() -> None:
    ctx = context()
    assert Keys([0, 3]).choose(ctx)[1, 2].nonzero().flatten().tolist() == [0, 3]
    assert Keys((1,), segment="text").choose(ctx)[0, 0].nonzero().flatten().tolist() == [9]
    assert torch.equal(Segment("text").choose(ctx).expand(ROWS, HEADS, KEYS), TEXT.expand(ROWS, HEADS, KEYS))
    for select in (Keys((0,)), Segment("image"), MassAbove(share=0.0)):
        got = select.choose(ctx)
        assert tuple(got.shape) == (ROWS, HEADS, KEYS), select
    hidden = context(allowed=torch.arange(KEYS).ne(9).expand(ROWS, KEYS))
    assert not bool(Segment("text").choose(hidden)[..., 9].any())
    assert not bool(Keys((9,)).choose(hidden).any())


def test_frozen_keeps_the_set_of_its_step_per_row() -> None:
    memory: dict = {}
    select = Frozen(TopMass(keys_per_head=2), step=1)
    seen = []
    for step, rows in ((0, [0, 1, 2]), (1, [0, 1, 2]), (1, [0, 1, 2]), (2, [2, 0]), (3, [1])):
        mass = torch.rand(3, HEADS, KEYS, generator=torch.Generator().manual_seed(step + 10 * len(seen)))[
            rows
        ]
        random = KeyedRandom.of([f"u{row}" for row in rows], ["cond"] * len(rows), "a", step)
        seen.append(select.choose(context(mass, step=step, memory=memory, random=random)))
        if step == 1 and len(seen) == 2:
            first = TopMass(keys_per_head=2).choose(context(mass))
    assert not bool(seen[0].any())
    assert torch.equal(seen[1], first) and torch.equal(seen[2], first)
    assert torch.equal(seen[3], first[[2, 0]]) and torch.equal(seen[4], first[[1]])
    assert [select.must_see(step) for step in range(3)] == [False, True, False]
    with pytest.raises(
        UsageError, match=r"chooses its keys at step 1, but \('9', 'cond'\) at 'a' was first seen at step 2"
    ):
        late = KeyedRandom.of([9], ["cond"], "a", 2)
        select.choose(context(torch.rand(1, HEADS, KEYS), step=2, memory=memory, random=late))


def test_masses_are_asked_for_once_and_only_when_needed() -> None:
    asked = []

    def masses(group: str) -> Tensor:
        asked.append(group)
        return torch.rand(ROWS, HEADS, KEYS)

    ctx = context(masses=masses, groups=("image", "text", "all"))
    RandomKeys(keys_per_head=1).choose(ctx)
    assert asked == []
    TopMass(keys_per_head=1).choose(ctx)
    BottomMass(keys_per_head=1, queries="text").choose(ctx)
    TopMass(keys_per_head=2, queries="image").choose(ctx)
    assert asked == ["image", "text"]
    assert default_group(("all",)) == "all" and default_group(("image", "all")) == "image"
    nested = RandomKeys(keys_per_head=1, exclude=Frozen(TopMass(keys_per_head=1, queries="text"), step=4))
    assert nested.required_queries() == ("text",) and nested.must_see(4) and not nested.must_see(0)


def refuse(text: str, build) -> None:
    with pytest.raises(UsageError, match=text):
        build()


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("TopMass got .*expected exactly one budget", lambda: TopMass()),
        ("exactly one budget", lambda: BottomMass(keys_per_head=1, shared_keys=2)),
        ("keys_per_head=0; expected a whole number of at least 1", lambda: TopMass(keys_per_head=0)),
        ("shared_keys=1.5; expected a whole number", lambda: RandomKeys(shared_keys=1.5)),
        ("keys_per_head=True", lambda: TopMass(keys_per_head=True)),
        ("expected exactly one: share", lambda: MassAbove()),
        ("share between 0 and 1", lambda: MassAbove(share=1.5)),
        (r"indices=\(\)", lambda: Keys(())),
        (r"indices=\(1, 1\)", lambda: Keys([1, 1])),
        (r"indices=\(-1,\)", lambda: Keys([-1])),
        ("step=-1; expected a whole number", lambda: Frozen(TopMass(keys_per_head=1), step=-1)),
    ],
)
def test_settings_that_make_no_sense_are_refused(text: str, build) -> None:
    refuse(text, build)


@pytest.mark.parametrize(
    ("select", "text"),
    [
        (
            TopMass(keys_per_head=13),
            "TopMass asks for keys_per_head=13, but only 12 of 12 keys .* at 'blocks.0.attn'. .*at most 12",
        ),
        (RandomKeys(shared_keys=5, within="text"), "RandomKeys asks for shared_keys=5, but only 4 of 12"),
        (
            RandomKeys(keys_per_head=10, exclude=TopMass(keys_per_head=3)),
            "keys_per_head=10, but only 9 of 12",
        ),
        (TopMass(keys_per_head=1, queries="txt"), "Unknown query group 'txt'"),
        (Segment("texts"), "Unknown segment 'texts'.*Did you mean 'text'"),
        (RandomKeys(keys_per_head=1, within="register"), "Unknown segment 'register'"),
        (Keys((12,)), r"position 12, but this call has 12 keys \(0..11\)"),
        (
            Keys((4,), segment="text"),
            r"position 4, but segment 'text' has 4 keys \(0..3\) at 'blocks.0.attn'",
        ),
    ],
    ids=str,
)
def test_requests_a_call_cannot_meet_are_refused(select: Selector, text: str) -> None:
    refuse(text, lambda: select.choose(context()))


def test_rows_without_usable_mass_and_wrong_row_counts_are_refused() -> None:
    mass = torch.rand(ROWS, HEADS, KEYS)
    mass[1] = torch.nan
    refuse(r"Rows \[1\] have no query in group 'all'", lambda: TopMass(keys_per_head=1).choose(context(mass)))
    refuse(
        "keyed for 2 rows; expected 3", lambda: context(random=KeyedRandom.of([0, 1], ["cond"] * 2, "a", 0))
    )
    refuse("Got 2 units and 1 branches", lambda: KeyedRandom.of([0, 1], ["cond"], "a", 0))
    refuse(
        "only 10 of 12 keys",
        lambda: TopMass(keys_per_head=11).choose(context(allowed=torch.arange(KEYS) > 1)),
    )


@quick
@given(mass=masses, count=st.integers(1, 4), segment=st.sampled_from(["image", "text"]))
def test_sinks_of_a_segment_keep_the_budget_and_those_within_it_do_not(
    mass: Tensor, count: int, segment: str
) -> None:
    ctx, inside = context(mass), SEGMENTS[segment].expand(ROWS, KEYS)[:, None]
    own = TopMass(keys_per_head=count, within=segment).choose(ctx)
    assert bool((own.sum(-1) == count).all()) and not bool((own & ~inside).any())
    lowest = torch.where(own, mass, torch.inf).amin(-1)
    assert bool((torch.where(inside & ~own, mass, -torch.inf).amax(-1) <= lowest).all())
    among_all = TopMass(keys_per_head=count)
    kept = Within(among_all, segment).choose(ctx)
    assert torch.equal(kept, among_all.choose(ctx) & inside)


def test_within_is_data_and_asks_for_what_its_selector_asks() -> None:
    chosen = Within(Frozen(TopMass(keys_per_head=1, queries="image"), step=2), "text")
    assert selector_from_dict(chosen.to_dict()) == chosen
    assert chosen.required_queries() == ("image",)
    assert chosen.must_see(2) and not chosen.must_see(1)
    with pytest.raises(UsageError, match="Unknown segment 'register'"):
        Within(TopMass(keys_per_head=1), "register").choose(context())
    with pytest.raises(UsageError, match="only 4 of 12 keys"):
        TopMass(keys_per_head=5, within="text").choose(context())


@pytest.mark.parametrize("values", [2, 50])
def test_the_highest_are_those_a_stable_sort_puts_first(values: int) -> None:
    scores = torch.randint(values, (3, 4, 40), generator=torch.Generator().manual_seed(0)).float()
    scores[0, 0, 5:] = -torch.inf
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    for count in (1, 3, 39, 40):
        want = torch.zeros(3, 4, 40, dtype=torch.bool).scatter(-1, order[..., :count], True)
        assert torch.equal(_selectors._top(scores, count), want)
