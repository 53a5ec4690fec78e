"""What every family must do; adding a family means adding a `Specimen` to `tests/zoo`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, product

import diffusers
import pytest
import torch
from tests import tiny
from tests.models.guard import dispatch_count, state
from tests.models.shared import evaluations, every
from tests.zoo import EVERY, SPECIMENS, Specimen
from tests.zoo.records import built, explicit, plain, record, record_anew, short
from tests.zoo.schedulers import SCHEDULERS

from sinkscope.attention import Keys, Mask
from sinkscope.errors import UnsupportedAttentionError
from sinkscope.models import AttentionCall, Edit, Run, Session, intervene, sites

pytestmark = pytest.mark.zoo


def rows(calls: Sequence[AttentionCall]) -> list[tuple[str, int]]:
    """Branch and unit of the rows of one forward pass, as the calls of its first site say it.

    Places or frames that a call folds into its rows follow each other; a module may make a call per row.
    """
    here = [call for call in calls if call.site.name == calls[0].site.name]
    first = [info for call in here if call.site.per_row or not call.site.index for info in call.rows]
    return [side for side, _ in groupby((info.branch, info.unit) for info in first)]


def first_step(calls: Sequence[AttentionCall]) -> list[list[tuple[str, int]]]:
    """Rows of the forward passes of the first step."""
    return [rows(some) for some in evaluations([call for call in calls if call.step == 0])]


def differ(one: AttentionCall, other: AttentionCall) -> bool:
    return not all(torch.equal(getattr(one, name), getattr(other, name)) for name in "qkv")


def test_the_newest_versions_run_every_specimen() -> None:
    """Only versions older than what a constraint file of this repository pins may lack classes."""
    if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 42):
        assert list(SPECIMENS) == list(EVERY)
    assert len(SPECIMENS) >= 40


@every()
def test_every_call_is_seen_once_and_nothing_changes(specimen: Specimen) -> None:
    pipe = built(specimen)
    expected = plain(specimen)  # transformers installs hooks of its own in the first run
    before = state(pipe)
    with dispatch_count(pipe, written_out=specimen.written_out) as counted:
        specimen.run(pipe)
    with Session(pipe, lambda call, run: run(call), sites=specimen.sites) as session:
        handled = specimen.run(pipe)
    with Session(pipe, sites=specimen.sites):
        empty = specimen.run(pipe)
    assert session.calls == counted[0] > 0
    assert torch.equal(handled, empty)
    assert torch.equal(expected, handled) if specimen.exact else torch.allclose(expected, handled, atol=1e-5)
    assert state(pipe) == before
    assert torch.equal(expected, specimen.run(pipe))


@every()
def test_an_edit_reaches_the_output(specimen: Specimen) -> None:
    def nothing(call: AttentionCall, run: Run) -> torch.Tensor:
        return torch.zeros_like(run(call))

    with Session(built(specimen), nothing, sites=specimen.sites):
        changed = specimen.run(built(specimen))
    assert not torch.allclose(plain(specimen), changed)
    assert torch.equal(plain(specimen), specimen.run(built(specimen)))


@every()
def test_calls_are_softmax_attention(specimen: Specimen) -> None:
    worst = []

    def handler(call: AttentionCall, run: Run) -> torch.Tensor:
        native = run(call)
        expected = explicit(call)[1]
        worst.append(float((native - expected).abs().max() / call.v.abs().max().clamp(min=1)))
        return native

    with Session(built(specimen), handler, sites=specimen.sites):
        specimen.run(built(specimen), **short(specimen))
    assert max(worst) <= specimen.tolerance


@every()
def test_attribution_agrees_with_the_static_sites(specimen: Specimen) -> None:
    calls = record(specimen)
    known = {site.name: site for site in sites(built(specimen))}
    for call in calls:
        static = known[call.site.name]
        assert call.site.heads == call.q.shape[1]
        assert static.heads in (0, call.q.shape[1]), "0 where only a running model tells"
        assert (call.site.layer, call.site.kind) == (static.layer, static.kind)
        assert call.q.dim() == call.k.dim() == call.v.dim() == 4
        if specimen.group == "image" and static.segments:  # pictures to start a video from are no text
            assert set(static.segments) & set(call.key_segments)
    if specimen.sites is None:
        assert {call.site.name for call in calls} == set(known)
    for some in evaluations(calls):
        keys = [call.site.key for call in some]
        assert len(set(keys)) == len(keys)
        layers = [call.site.layer for call in some if call.site.layer is not None]
        assert layers == sorted(layers), "layers are numbered in the order in which they run"


@every(lambda s: s.whole)
def test_steps_timesteps_and_generations(specimen: Specimen) -> None:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Run) -> torch.Tensor:
        calls.append(call)
        return run(call)

    with Session(built(specimen), handler, sites=specimen.sites):
        specimen.run(built(specimen))
        specimen.run(built(specimen), num_inference_steps=3)
    seen = sorted({(call.generation, call.step, call.step_count) for call in calls})
    assert seen == [(0, 0, 2), (0, 1, 2), (1, 0, 3), (1, 1, 3), (1, 2, 3)]
    per_step = 2 if specimen.guidance == "separate calls" else 1
    assert [call.evaluation for call, *_ in evaluations(calls)] == [
        *range(2 * per_step),
        *range(3 * per_step),
    ]
    for generation in (0, 1):
        times = {call.step: call.timestep for call in calls if call.generation == generation}
        assert None not in times.values()
        in_order = [times[step] for step in sorted(times)]
        assert in_order in (sorted(set(in_order)), sorted(set(in_order), reverse=True))


@every(lambda s: not s.whole)
def test_steps_of_a_bare_module_are_forward_passes(specimen: Specimen) -> None:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Run) -> torch.Tensor:
        calls.append(call)
        return run(call)

    with Session(built(specimen), handler, sites=specimen.sites):
        specimen.run(built(specimen))
        specimen.run(built(specimen))
    seen = [(some[0].step, some[0].step_count) for some in evaluations(calls)]
    assert seen == [(step, None) for step in range(2 * specimen.passes)]
    assert {branch for call in calls for branch, _ in rows([call])} == {"none"}


@pytest.mark.parametrize(
    ("specimen", "name"),
    [(specimen, name) for specimen in SPECIMENS.values() for name in specimen.schedulers],
    ids=lambda value: getattr(value, "name", value),
)
def test_steps_under_other_schedulers(specimen: Specimen, name: str) -> None:
    pipe = built(specimen)
    own, found = pipe.scheduler, []

    def handler(call: AttentionCall, run: Run) -> torch.Tensor:
        if not found or found[-1].evaluation != call.evaluation:
            found.append(call)
        return run(call)

    pipe.scheduler = SCHEDULERS[name].build(own.config)
    try:
        expected = _three_steps(specimen)
        with Session(pipe, handler, sites=specimen.sites):
            seen = specimen.run(pipe, num_inference_steps=3)
        given = pipe.scheduler.timesteps.tolist()
    finally:
        pipe.scheduler = own
    per_step = 2 if specimen.guidance == "separate calls" else 1
    steps = [step for step in range(SCHEDULERS[name].steps) for _ in range(per_step)]
    assert [call.step for call in found] == steps
    assert {call.step_count for call in found} == {SCHEDULERS[name].steps}
    for one, other in product(found, repeat=2):
        if given[one.step] == given[other.step]:
            assert one.timestep == other.timestep
    assert torch.equal(expected, seen)


def _three_steps(specimen: Specimen) -> torch.Tensor:
    try:
        return specimen.run(built(specimen), num_inference_steps=3)
    except (ValueError, AssertionError) as error:
        # Older schedulers take no sigmas, or no shift, from the pipeline.
        if tiny.OLDER and (isinstance(error, AssertionError) or "custom sigmas" in str(error)):
            pytest.skip(f"diffusers {diffusers.__version__}: {str(error) or 'UniPC refuses a shift'}")
        raise


@every(lambda s: s.two and s.whole)
def test_branches_of_a_batch_of_two(specimen: Specimen) -> None:
    assert specimen.two is not None
    seen = first_step(record(specimen, **specimen.two, **short(specimen)))
    first, second = specimen.order
    if specimen.guidance == "one batch":
        assert seen == [[(first, 0), (first, 1), (second, 0), (second, 1)]]
    elif specimen.guidance == "separate calls":
        assert seen == [[(first, 0), (first, 1)], [(second, 0), (second, 1)]]
    else:
        assert seen == [[("none", 0), ("none", 1)]]


@every(lambda s: s.off and s.whole)
def test_branches_without_guidance(specimen: Specimen) -> None:
    assert specimen.off is not None
    seen = first_step(record(specimen, **specimen.off, **short(specimen)))
    assert seen == [[("none", 0), ("none", 1)]]


@every(lambda s: s.whole and s.other)
def test_guided_rows_are_those_the_condition_changes(specimen: Specimen) -> None:
    """Independent of how branches are found: only rows of the prompt may differ between two prompts."""
    assert specimen.other is not None
    one, other = (record(specimen, **changes, **short(specimen)) for changes in ({}, specimen.other))
    sides = set()
    layers = [call.site.layer for call in one if "text" in call.key_segments and call.site.layer is not None]
    for a, b in zip(one, other, strict=True):
        if a.step == 0 and a.site.layer == min(layers, default=None) and "text" in a.key_segments:
            changed = [not torch.equal(a.k[info.row], b.k[info.row]) for info in a.rows]
            assert changed == [info.branch != "uncond" for info in a.rows]
            sides |= {info.branch for info in a.rows}
    if "text" in specimen.segments:
        one_side = {"none"} if specimen.guidance in ("distilled", "none") else {"cond"}
        both = specimen.guidance not in ("distilled", "none") and specimen.unguided_text
        assert sides == ({"cond", "uncond"} if both else one_side)


@every()
def test_one_key_masked_in_one_layer_changes_only_what_comes_after(specimen: Specimen) -> None:
    expected, calls = plain(specimen), evaluations(record(specimen))[0]
    place = (len(calls) - 1) // 2
    place = next(i for i, call in enumerate(calls) if call.site.name == calls[place].site.name)
    target = calls[place]
    # The edit stays for all evaluations, some of which may have fewer keys.
    keys = min(call.k.shape[2] for call in record(specimen) if call.site.name == target.site.name)
    mass = explicit(target)[0].sum((0, 1, 2))
    if "padding" in target.key_segments:  # which may attend to itself alone
        mass = mass * ~target.key_segments["padding"].reshape(-1, len(mass)).any(0)
    # Not the first key: in causal attention the first query has no other.
    key = 1 + int(mass[1:keys].argmax()) if keys > 1 else 0
    edit = Edit(Keys((key,)), Mask(), sites=target.site.name)
    with intervene(built(specimen), edit):
        edited = evaluations(record_anew(specimen))[0]
    differs = [differ(*pair) for pair in zip(calls, edited, strict=True)]
    assert not any(differs[: place + 1])
    assert any(differs[place + 1 :]) or place == len(calls) - 1
    with intervene(built(specimen), edit):
        assert not torch.equal(specimen.run(built(specimen)), expected)
    assert torch.equal(specimen.run(built(specimen)), expected)


@every(lambda s: s.sites)
def test_what_cannot_be_seen_is_refused(specimen: Specimen) -> None:
    assert specimen.refused is not None
    with pytest.raises(UnsupportedAttentionError) as error, Session(built(specimen)):
        specimen.run(built(specimen))
    assert specimen.refused in str(error.value)
    assert torch.equal(plain(specimen), specimen.run(built(specimen)))
