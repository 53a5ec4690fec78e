"""intervene: what changes, what keeps its bits, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import FAMILIES, run, tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl

from sinkscope.attention import (
    BottomMass,
    Frozen,
    Keys,
    Mask,
    MassAbove,
    RandomKeys,
    ReplaceOutput,
    ReplaceValue,
    ScaleLogit,
    ScaleProbability,
    Segment,
    TopConcentration,
    TopMass,
    reference,
)
from sinkscope.errors import NoMatchError, NonFiniteError, UsageError
from sinkscope.models import AttentionCall, Edit, Session, intervene, observe

TOP = TopMass(keys_per_head=1)


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_sd3()


@pytest.fixture(scope="module")
def stock(sd3: Any) -> torch.Tensor:
    return latent(sd3)


def latent(pipe: Any, **changes: Any) -> torch.Tensor:
    result: torch.Tensor = run(pipe, output_type="latent", **changes)
    return result


def outputs(pipe: Any, edits: Any, **options: Any) -> tuple[list[AttentionCall], list[torch.Tensor]]:
    """The unedited calls and the edited outputs of one forward pass each step."""
    calls, found = [], []

    def listen(call: AttentionCall, run: Any) -> torch.Tensor:
        calls.append(call)
        found.append(run(call))
        return found[-1]

    with intervene(pipe, edits, **options), Session(pipe, listen):
        latent(pipe)
    return calls, found


@pytest.fixture(scope="module")
def plain(sd3: Any) -> list[torch.Tensor]:
    return outputs(sd3, [])[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_changes_no_bit(family: str) -> None:
    pipe = FAMILIES[family]()
    before = latent(pipe)
    nothing = [
        Edit(TOP, action, kind="all")
        for action in (ScaleLogit(), ScaleProbability(1.0), ReplaceValue("noise", amount=0.0))
    ]
    nothing.append(Edit(TopConcentration(queries_per_head=1), ReplaceOutput("mean_value", 0.0), kind="all"))
    for edits in ([], nothing[0], nothing, Edit(MassAbove(share=1.0), kind="all")):
        with intervene(pipe, edits, receipt="full"):
            assert torch.equal(latent(pipe), before)
    assert torch.equal(latent(pipe), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_masking_sinks_changes_the_image_and_nothing_stays_behind(family: str) -> None:
    pipe = FAMILIES[family]()
    before = latent(pipe)
    with intervene(pipe, Edit(TOP, kind="all")) as receipt:
        edited = latent(pipe)
    assert not torch.equal(edited, before) and edited.isfinite().all()
    table = receipt.table()
    assert (table["keys"] == 1).all() and (table["mass_before"] > 0).all()
    assert (table["mass_after"] < 1e-8).all()
    assert torch.equal(latent(pipe), before)


def test_replaced_outputs_are_the_mean_value_and_all_others_keep_their_bits(
    sd3: Any, plain: list[torch.Tensor]
) -> None:
    for with_, queries in (("mean_value", "text"), ("mean_output", None)):
        select = TopConcentration(queries_per_head=3, queries=queries)
        calls, found = outputs(sd3, Edit(select, ReplaceOutput(with_), layers=[0], steps=[0], branch="cond"))
        call, edited = calls[0], found[0]
        weights = reference.weights(call.q, call.k, call.mask, call.scale)
        inside = call.query_segments[queries or "image"]
        best = weights.amax(-1).masked_fill(~inside, -1.0).topk(3).indices
        rows = torch.tensor([info.branch == "cond" for info in call.rows])
        taken = torch.zeros(best.shape[0], 2, 42, dtype=torch.bool).scatter(-1, best, True)
        taken &= rows[:, None, None]
        assert torch.equal(edited[~taken], plain[0][~taken]) and int(taken.sum()) == 6
        mean = call.v if with_ == "mean_value" else weights @ call.v.double()
        want = mean.double().mean(2, keepdim=True).expand(-1, -1, 42, -1)[taken]
        torch.testing.assert_close(edited[taken].double(), want, atol=1e-5, rtol=1e-4)


def test_the_output_is_the_softmax_without_the_sink(sd3: Any) -> None:
    calls, found = outputs(sd3, Edit(TOP, layers=[1], queries="image"))
    for call, output in zip(calls, found, strict=True):
        if call.site.layer != 1:
            continue
        weights = reference.weights(call.q, call.k, call.mask, call.scale)
        top = weights[:, :, call.query_segments["image"]].mean(2).argmax(-1)
        weights[:, :, :16].scatter_(3, top[:, :, None, None].expand(-1, -1, 16, 1), 0.0)
        weights = weights / weights.sum(-1, keepdim=True)
        torch.testing.assert_close(output.double(), weights @ call.v.double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "scope",
    [{"branch": "cond"}, {"branch": "uncond"}, {"heads": [1]}, {"queries": "image"}, {"queries": "text"}],
)
@pytest.mark.parametrize("action", [Mask(), ScaleProbability(0.5), ReplaceValue("mean")])
def test_what_an_edit_does_not_reach_keeps_its_bits(
    sd3: Any, plain: list[torch.Tensor], scope: dict[str, Any], action: Any
) -> None:
    calls, edited = outputs(sd3, Edit(TOP, action, layers=[0], steps=[0], **scope))
    # The first call is the only one whose inputs are the same in both runs.
    reach = torch.zeros_like(plain[0], dtype=torch.bool)
    rows = [info.row for info in calls[0].rows if info.branch == scope.get("branch", info.branch)]
    heads = scope.get("heads", [0, 1])
    mask = (
        calls[0].query_segments[scope["queries"]] if "queries" in scope else torch.ones(42, dtype=torch.bool)
    )
    for row in rows:
        for head in heads:
            reach[row, head, mask] = True
    assert torch.equal(plain[0][~reach], edited[0][~reach])
    assert (plain[0][reach] != edited[0][reach]).float().mean() > 0.9


def test_steps_outside_the_window_are_untouched(sd3: Any, plain: list[torch.Tensor]) -> None:
    _, edited = outputs(sd3, Edit(TOP, steps=(0.5, 1.0)))
    half = len(plain) // 2
    assert all(torch.equal(a, b) for a, b in zip(plain[:half], edited[:half], strict=True))
    assert not torch.equal(plain[half], edited[half])


def test_several_edits_choose_on_the_unedited_call(sd3: Any) -> None:
    both = [
        Edit(TOP, layers=[1]),
        Edit(TopMass(keys_per_head=1), ReplaceValue("zero"), layers=[1], branch="cond"),
    ]
    with intervene(sd3, both) as receipt:
        latent(sd3)
    keys = receipt.edited_keys()
    first = keys[(keys["step"] == 0) & (keys["branch"] == "cond")]
    assert first.groupby("head")["key"].nunique().eq(1).all() and first["edit"].nunique() == 2


def test_nested_blocks_compose(sd3: Any, stock: torch.Tensor) -> None:
    edits = [Edit(Keys((0,)), layers=[1]), Edit(Keys((20,)), layers=[1])]
    with intervene(sd3, edits):
        together = latent(sd3)
    with intervene(sd3, edits[0]), intervene(sd3, edits[1]):
        nested = latent(sd3)
    torch.testing.assert_close(together, nested)
    with pytest.raises(UsageError, match="one intervene"):
        with intervene(sd3, edits[0]), intervene(sd3, Edit(TOP, layers=[1], queries="image")):
            latent(sd3)
    assert torch.equal(latent(sd3), stock)


def test_an_outer_observation_sees_masked_keys_masked(sd3: Any) -> None:
    with observe(sd3, layers=[1]) as seen, intervene(sd3, Edit(Keys((3,)), layers=[1], branch="cond")):
        latent(sd3)
    rows = seen.rows(1).set_index("branch")["row"]
    mass = seen.mass(1)
    assert (mass[:, rows["cond"], :, 3] == 0).all() and (mass[:, rows["uncond"], :, 3] > 0).all()
    assert len(seen) == 2
    with observe(sd3, layers=[1]) as partial, intervene(sd3, Edit(Keys((3,)), layers=[1], queries="text")):
        latent(sd3)
    assert (partial.mass(1)[..., 3] > 0).all() and len(partial) == 2


def chosen(pipe: Any, edit: Edit, **changes: Any) -> dict[tuple[Any, ...], set[int]]:
    units = changes.pop("units", None)
    with intervene(pipe, edit, units=units, receipt=False) as receipt:
        latent(pipe, **changes)
    table = receipt.edited_keys()
    names = ["unit", "step", "branch", "site", "head"]
    return {tuple(name): set(group["key"]) for name, group in table.groupby(names)}


@pytest.mark.parametrize(
    "select", [RandomKeys(keys_per_head=3, seed=1), RandomKeys(shared_keys=3, exclude=TOP)]
)
def test_random_keys_belong_to_the_unit_not_to_the_batch(sd3: Any, select: Any) -> None:
    prompts = {"a": "a cat", "b": "a dog", "c": "two hens"}
    edit = Edit(select, ScaleLogit(shift=1e-6), layers=[1])
    batch = chosen(sd3, edit, prompt=list(prompts.values()), units=list(prompts))
    turned = chosen(sd3, edit, prompt=list(prompts.values())[::-1], units=list(prompts)[::-1])
    assert batch.keys() == turned.keys() and len(batch) == 3 * 2 * 2 * 2
    if select.exclude is None:
        assert batch == turned
    for unit, prompt in prompts.items():
        alone = chosen(sd3, edit, prompt=prompt, units=[unit])
        if select.exclude is None:
            assert alone == {name: keys for name, keys in batch.items() if name[0] == unit}
    distinct = {frozenset(keys) for keys in batch.values()}
    assert len(distinct) > 8 if select.shared_keys is None else len(distinct) > 4
    assert (
        chosen(sd3, Edit(RandomKeys(keys_per_head=3, seed=2), layers=[1]), prompt="a cat", units=["a"])
        != alone
    )


def test_noise_belongs_to_the_unit_not_to_the_batch(sd3: Any) -> None:
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    edit = Edit(TOP, ReplaceValue("noise", seed=2), layers=[1])
    with intervene(sd3, edit, units=["a", "b"]):
        batch = latent(sd3, prompt=["a cat", "a dog"], latents=noise)
    with intervene(sd3, edit, units=["b"]):
        alone = latent(sd3, prompt="a dog", latents=noise[1:])
    torch.testing.assert_close(alone[0], batch[1], atol=1e-4, rtol=1e-4)
    with intervene(sd3, edit, units=["c"]):
        other = latent(sd3, prompt="a dog", latents=noise[1:])
    assert (other - alone).abs().max() > 1e-3


def test_frozen_keys_stay_for_a_generation(sd3: Any) -> None:
    edit = Edit(Frozen(TopMass(keys_per_head=2)), layers=[2], steps=(0.3, 1.0))
    with observe(sd3, layers=[2], steps=[0]) as seen:
        latent(sd3, prompt=["a cat", "a dog"], num_inference_steps=3)
    picked = chosen(sd3, edit, prompt=["a cat", "a dog"], num_inference_steps=3)
    first = seen.sinks(keys_per_head=2).groupby(["unit", "branch", "head"])["key"].agg(set)
    assert {name[1] for name in picked} == {1, 2}
    for (unit, _, branch, _, head), keys in picked.items():
        assert keys == first[unit, branch, head]
    with intervene(sd3, edit, receipt=False) as receipt:
        latent(sd3, prompt="a cat", num_inference_steps=3)
        latent(sd3, prompt="two old hens", num_inference_steps=3)
    kept = receipt.edited_keys().groupby(["unit", "branch", "head"])["key"].agg(set)
    assert kept.map(len).eq(2).all()
    assert not kept[0].equals(kept[1])


def test_frozen_at_a_step_that_is_never_edited_again(sd3: Any) -> None:
    with pytest.raises(UsageError, match=r"Unknown step 7: this run has 2 steps \(0-1\)"):
        with intervene(sd3, Edit(Frozen(TOP, step=7), layers=[1])):
            latent(sd3)
    with pytest.raises(NoMatchError, match="chosen only after all steps"):
        with intervene(sd3, Edit(Frozen(TOP, step=1), layers=[1], steps=[0])):
            latent(sd3)


def test_masked_padding_is_never_chosen() -> None:
    pixart = tiny_pixart()
    picked = chosen(pixart, Edit(BottomMass(keys_per_head=2), kind="cross", branch="cond"), prompt="a cat")
    assert max(max(keys) for keys in picked.values()) < 8
    # The empty negative prompt has one open key, which a budget of two exceeds.
    with pytest.raises(UsageError, match="only 1 of 12 keys"):
        chosen(pixart, Edit(BottomMass(keys_per_head=2), kind="cross"), prompt="a cat")


def test_bare_modules(sd3: Any) -> None:
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 5, 32),
        "pooled_projections": torch.randn(2, 32),
        "timestep": torch.full((2,), 500.0),
    }
    module = sd3.transformer
    plain = module(**inputs).sample
    with intervene(module, Edit(TOP, layers=[0], steps=[1])) as receipt:
        first, second = module(**inputs).sample, module(**inputs).sample
    assert torch.equal(first, plain) and not torch.equal(second, plain)
    assert set(receipt.table()["step"]) == {1}
    with pytest.raises(UsageError, match="bare module"), intervene(module, Edit(TOP, steps=(0.0, 0.5))):
        module(**inputs)


def test_gradients_flow_and_recomputation_takes_the_same_keys(sd3: Any) -> None:
    module = tiny_sd3().transformer
    torch.manual_seed(1)
    inputs = {
        "encoder_hidden_states": torch.randn(2, 5, 32),
        "pooled_projections": torch.randn(2, 32),
        "timestep": torch.full((2,), 500.0),
    }
    image = torch.randn(2, 4, 8, 8)
    gradients = []
    for checkpointing in (False, True):
        (module.enable_gradient_checkpointing if checkpointing else module.disable_gradient_checkpointing)()
        module.train(checkpointing)
        latents = image.clone().requires_grad_()
        with intervene(module, [Edit(RandomKeys(keys_per_head=2)), Edit(TOP, layers=[1])]) as receipt:
            module(latents, **inputs).sample.square().sum().backward()
        assert len(receipt) == 4
        gradients.append(latents.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Edit(TOP, branch="cond"), "branch='cond' never ran, only none"),
        (Edit(TOP, sites="*.nothing"), "No attention site matches"),
        (Edit(TOP, steps=(0.9, 0.95)), "none of the steps"),
    ],
)
def test_an_edit_without_a_call_is_refused(edit: Edit, says: str) -> None:
    flux = tiny_flux()
    with pytest.raises(NoMatchError) as error, intervene(flux, edit):
        latent(flux)
    assert says in str(error.value)


def test_an_error_inside_the_block_is_the_one_raised(sd3: Any) -> None:
    with pytest.raises(KeyError, match="mine"), intervene(sd3, Edit(TOP)):
        raise KeyError("mine")
    with pytest.raises(NoMatchError, match="inside the with block"), intervene(sd3, Edit(TOP)):
        pass


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Edit(TOP, layers=[3]), "Unknown layer 3"),
        (Edit(TOP, heads=[2]), "has 2 heads (0-1)"),
        (Edit(TOP, steps=[1, 2]), "Unknown step 2: this run has 2 steps (0-1)"),
        (Edit(TOP, queries="images"), "Did you mean 'image'?"),
        (Edit(TopMass(keys_per_head=1, queries="txt")), "'text'"),
        (Edit(Segment("register")), "Unknown segment 'register'"),
        (Edit(TopMass(keys_per_head=43)), "keys_per_head=43, but only 42"),
        (Edit(RandomKeys(keys_per_head=42, exclude=TOP)), "only 41 of 42"),
        (Edit(TopMass(keys_per_head=20)).control("segment"), "needs"),
        (Edit(TopMass(keys_per_head=22)).control("count"), "only 20 of 42"),
        (Edit(Keys((42,))), "42 keys (0..41)"),
    ],
)
def test_wrong_edits_are_refused(sd3: Any, edit: Edit, says: str) -> None:
    with pytest.raises(UsageError) as error, intervene(sd3, edit):
        latent(sd3)
    assert says in str(error.value)
    assert error.value.exit_code == 2


def test_wrong_arguments_are_refused(sd3: Any) -> None:
    with pytest.raises(UsageError, match="Expected an Edit"), intervene(sd3, [TOP]):  # type: ignore[list-item]
        pass
    with pytest.raises(UsageError, match="receipt"), intervene(sd3, [], receipt="all"):  # type: ignore[arg-type]
        pass
    with pytest.raises(UsageError, match="same edit twice"), intervene(sd3, [Edit(TOP), Edit(TOP)]):
        pass
    with pytest.raises(UsageError, match="kind="), intervene(tiny_sdxl(), Edit(TOP)):
        pass
    with pytest.raises(UsageError, match="Got 1 names"), intervene(sd3, Edit(TOP), units=["a"]):
        latent(sd3, prompt=["a cat", "a dog"])


@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("select", [TOP, RandomKeys(keys_per_head=1)])
def test_not_a_number_is_named(sd3: Any, name: str, select: Any) -> None:
    def spoil(call: AttentionCall, run: Any) -> torch.Tensor:
        tensor = getattr(call, name).clone()
        if call.step == 1:
            tensor[0, 0, 0, 0] = torch.nan
        return run(call.replace(**{name: tensor}))  # type: ignore[no-any-return]

    with pytest.raises(NonFiniteError, match=rf"in {name} at transformer_blocks.1.attn \(layer 1\), step 1"):
        with intervene(sd3, Edit(select, layers=[1]), receipt=False), Session(sd3, spoil, sites="*.1.attn"):
            latent(sd3)
