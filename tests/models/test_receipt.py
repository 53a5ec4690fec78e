"""Receipts and controls: what was edited, what it weighed, what took its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.tiny import run, tiny_flux, tiny_pixart, tiny_sd3

from sinkscope.attention import (
    BottomMass,
    Frozen,
    Keys,
    MassAbove,
    RandomKeys,
    ReplaceValue,
    ScaleProbability,
    Segment,
    TopMass,
    reference,
)
from sinkscope.errors import UsageError
from sinkscope.models import Edit, Receipt, Session, intervene, observe

TOP = TopMass(keys_per_head=2)
HEAD = ["step", "branch", "unit", "site", "head"]


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_sd3()


def latent(pipe: Any, **changes: Any) -> torch.Tensor:
    result: torch.Tensor = run(pipe, output_type="latent", **changes)
    return result


def receipt_of(pipe: Any, edits: Any, *, receipt: Any = True, **changes: Any) -> Receipt:
    with intervene(pipe, edits, receipt=receipt) as kept:
        latent(pipe, **changes)
    return kept


def test_masses_are_those_of_the_reference(sd3: Any) -> None:
    calls = []

    def listen(call: Any, run: Any) -> torch.Tensor:
        calls.append(call)
        return run(call)  # type: ignore[no-any-return]

    with intervene(sd3, Edit(TOP, ScaleProbability(0.5), layers=[1]), receipt="full") as receipt:
        with Session(sd3, listen, sites="*.1.attn"):
            latent(sd3)
    table, replaced = receipt.table(), receipt.replacements(n=3)
    assert len(table) == 8 and (table["keys"] == 2).all()
    np.testing.assert_allclose(table["share_of_keys"], 2 / 42)
    for call in calls:
        weights = reference.weights(call.q, call.k, call.mask, call.scale)[:, :, call.query_segments["image"]]
        mass = weights.mean(2)
        top = mass.topk(2).indices
        kept = weights.scatter(3, top[:, :, None].expand(-1, -1, weights.shape[2], -1), 0.0)
        share = (weights - kept).sum(-1, keepdim=True)
        after = (0.5 * (weights - kept) + kept * (1 - 0.5 * share) / (1 - share)).mean(2)
        here = table[table["step"] == call.step].sort_values(["branch", "head"])
        order = sorted(call.rows, key=lambda info: info.branch)
        for name, exact in (("mass_before", mass), ("mass_after", after)):
            want = torch.stack([exact[info.row].gather(1, top[info.row]).sum(-1) for info in order])
            np.testing.assert_allclose(here[name], want.flatten(), rtol=1e-4)
        gain = (after - mass).scatter(2, top, -1.0).topk(3)
        got = replaced[replaced["step"] == call.step].sort_values(["branch", "head", "rank"])
        np.testing.assert_allclose(
            got["gain"], torch.stack([gain.values[info.row] for info in order]).flatten(), rtol=2e-3
        )
        assert list(got["key"]) == torch.stack([gain.indices[info.row] for info in order]).flatten().tolist()


def test_columns(sd3: Any) -> None:
    receipt = receipt_of(sd3, Edit(TOP, layers=[1], branch="cond", heads=[1]), receipt="full")
    table, keys, replaced = receipt.table(), receipt.edited_keys(), receipt.replacements()
    start = ["step", "timestep", "branch", "unit", "layer", "site", "head"]
    assert list(table.columns[:11]) == [*start, "keys", "share_of_keys", "mass_before", "mass_after"]
    assert list(table.columns[11:15]) == ["outputs", "kept", "treated_keys", "treated_mass"]
    assert {"keys_image", "keys_text"} < set(table.columns) and (table["outputs"] == 0).all()
    assert (table["keys_image"] + table["keys_text"] == table["keys"]).all()
    assert table["treated_keys"].isna().all() and table["treated_mass"].isna().all()
    assert set(table["branch"]) == {"cond"} and set(table["head"]) == {1} and len(table) == 2
    assert list(keys.columns[:11]) == [*start, "key", "segment", "position", "token"]
    assert list(replaced.columns[:9]) == [*start, "rank", "key"]
    summed = keys.groupby(HEAD)[["mass_before", "mass_after"]].sum().reset_index()
    np.testing.assert_allclose(summed["mass_before"], table["mass_before"], rtol=1e-5)
    assert table["edit"].nunique() == 1 and (table["queries"] == "image").all()
    np.testing.assert_allclose(replaced["gain"], replaced["mass_after"] - replaced["mass_before"], atol=1e-7)
    assert not set(zip(replaced["step"], replaced["key"], strict=True)) & set(
        zip(keys["step"], keys["key"], strict=True)
    )


def test_lost_mass_turns_up_elsewhere(sd3: Any) -> None:
    receipt = receipt_of(sd3, Edit(TOP, layers=[1]), receipt="full")
    gained = receipt.replacements(n=42).groupby(HEAD)["gain"].sum()
    table = receipt.table().set_index(HEAD)
    lost = table["mass_before"] - table["mass_after"]
    np.testing.assert_allclose(gained.sort_index(), lost.sort_index(), rtol=1e-4)


def test_a_value_edit_moves_no_mass(sd3: Any) -> None:
    receipt = receipt_of(sd3, Edit(TOP, ReplaceValue("zero"), layers=[1]), receipt="full")
    assert (receipt.table()["mass_before"] == receipt.table()["mass_after"]).all()
    assert receipt.replacements().empty


def test_the_receipt_states_the_mass_of_the_queries_that_are_edited(sd3: Any) -> None:
    text = receipt_of(sd3, Edit(TOP, layers=[1], queries="text")).table()
    assert set(text["queries"]) == {"text"} and (text["mass_after"] < 1e-8).all()
    every = receipt_of(sd3, Edit(TopMass(keys_per_head=2, queries="all"), layers=[1])).table()
    assert set(every["queries"]) == {"all"}


def test_keys_without_measuring(sd3: Any) -> None:
    receipt = receipt_of(sd3, Edit(TOP, layers=[1]), receipt=False)
    assert receipt.table()["mass_before"].isna().all() and (receipt.table()["keys"] == 2).all()
    measured = receipt_of(sd3, Edit(TOP, layers=[1]))
    pd.testing.assert_series_equal(receipt.edited_keys()["key"], measured.edited_keys()["key"])
    with pytest.raises(UsageError, match="full"):
        measured.replacements()
    with pytest.raises(UsageError, match="at least 1"):
        measured.replacements(0)


def test_no_key_above_the_threshold_is_a_finding(sd3: Any) -> None:
    receipt = receipt_of(sd3, Edit(MassAbove(share=0.999), layers=[1]), receipt="full")
    assert (receipt.table()["keys"] == 0).all() and (receipt.table()["mass_before"] == 0).all()
    assert receipt.edited_keys().empty and receipt.replacements().empty
    assert "mass_after" in receipt.edited_keys().columns


def test_several_edits_and_several_evaluations(sd3: Any) -> None:
    edits = [Edit(Keys((0,)), layers=[0]), Edit(Keys((1,)), layers=[0], branch="cond")]
    receipt = receipt_of(sd3, edits, skip_guidance_layers=[1], skip_layer_guidance_stop=1.0)
    table = receipt.table()
    assert table["edit"].nunique() == 2
    cond = table[(table["branch"] == "cond") & (table["head"] == 0) & (table["step"] == 1)]
    assert sorted(cond["evaluation"]) == [0, 0, 1, 1]
    assert set(table[table["branch"] == "uncond"]["evaluation"]) == {0}
    with observe(sd3, layers=[0]) as seen:
        latent(sd3, skip_guidance_layers=[1], skip_layer_guidance_stop=1.0)
    assert seen.mass().shape[:2] == (2, 2) and not seen.mass().isnan().any()
    assert set(seen.summary().query("branch == 'cond'")["evaluation"]) == {0, 1}


def test_separate_guidance_calls_are_told_apart() -> None:
    flux = tiny_flux()
    receipt = receipt_of(
        flux, Edit(TOP, layers=[0], branch="uncond"), true_cfg_scale=2.0, negative_prompt="dog"
    )
    assert set(receipt.table()["branch"]) == {"uncond"} and len(receipt) == 2


def test_segments_by_name() -> None:
    pixart = tiny_pixart()
    receipt = receipt_of(
        pixart, Edit(Keys((0,), segment="text"), kind="cross", branch="cond"), prompt="a cat"
    )
    keys = receipt.edited_keys()
    assert set(keys["segment"]) == {"text"} and set(keys["role"]) == {"content"}
    # Padding is masked out by the model, so it does not count among the keys.
    assert (receipt.table()["share_of_keys"] > 1 / 8).all()


def per_head(receipt: Receipt, column: str = "key") -> pd.Series:
    return receipt.edited_keys().groupby(HEAD)[column].agg(lambda part: sorted(part))


@pytest.mark.parametrize(
    "select",
    [
        TOP,
        TopMass(shared_keys=3),
        MassAbove(times_uniform=1.3),
        Frozen(TOP),
        RandomKeys(keys_per_head=2, seed=5),
        Keys((0, 20)),
    ],
)
@pytest.mark.parametrize("kind", ["count", "segment"])
def test_random_controls_match_and_avoid_the_treated_keys(sd3: Any, select: Any, kind: str) -> None:
    # An edit of the first step and the first layer has the same inputs in both arms.
    edit = Edit(select, layers=[0], steps=[0])
    treated, control = receipt_of(sd3, edit), receipt_of(sd3, edit.control(kind, seed=3))
    keys, other = per_head(treated), per_head(control)
    assert keys.index.equals(other.index)
    assert all(len(a) == len(b) and not set(a) & set(b) for a, b in zip(keys, other, strict=True))
    if kind == "segment":
        assert per_head(treated, "segment").equals(per_head(control, "segment"))
    assert not per_head(receipt_of(sd3, edit.control(kind, seed=4))).equals(other)
    assert per_head(receipt_of(sd3, edit.control(kind, seed=3))).equals(other)
    if getattr(select, "shared_keys", None) or isinstance(select, Keys):
        assert (
            other.groupby(["step", "branch"])
            .agg(lambda part: len({tuple(keys) for keys in part}))
            .eq(1)
            .all()
        )


@pytest.mark.parametrize("select", [TOP, TopMass(shared_keys=3), MassAbove(times_uniform=1.3), Frozen(TOP)])
def test_persistence_controls_match_segments_and_avoid_the_treated_keys(sd3: Any, select: Any) -> None:
    edit = Edit(select, layers=[0], steps=[0])
    treated, control = receipt_of(sd3, edit), receipt_of(sd3, edit.control("persistence", seed=3))
    assert per_head(treated, "segment").equals(per_head(control, "segment"))
    pairs = zip(per_head(treated), per_head(control), strict=True)
    assert not any(set(a) & set(b) for a, b in pairs)
    assert not per_head(receipt_of(sd3, edit.control("persistence", seed=4))).equals(per_head(control))


def test_a_persistence_control_stays_while_the_treated_keys_stay(sd3: Any) -> None:
    # Named keys never change, and nor do their stand-ins; fresh draws do.
    edit = Edit(Keys((0, 20, 21)), layers=[0, 1])
    for kind, stays in (("persistence", True), ("segment", False)):
        keys = per_head(receipt_of(sd3, edit.control(kind), num_inference_steps=3)).unstack("step")
        assert bool((keys[0] == keys[1]).all() and (keys[0] == keys[2]).all()) is stays


@pytest.mark.parametrize(
    "select",
    [
        TopMass(keys_per_head=1),
        TopMass(shared_keys=3),
        BottomMass(keys_per_head=4),
        RandomKeys(keys_per_head=5),
        MassAbove(times_uniform=1.3),
        Frozen(TOP),
        Keys((0, 20)),
        Segment("text"),
    ],
)
def test_mass_controls_hold_the_mass_of_the_treated_keys(sd3: Any, select: Any) -> None:
    edit = Edit(select, layers=[0], steps=[0])
    treated, control = receipt_of(sd3, edit), receipt_of(sd3, edit.control("mass", seed=3))
    ours, theirs = control.table(), treated.table()
    assert (ours[HEAD] == theirs[HEAD]).all().all()
    reachable = theirs["mass_before"] < 0.45
    if not isinstance(select, BottomMass):  # four of the lightest keys may weigh less than any others
        np.testing.assert_allclose(
            ours["mass_before"][reachable], theirs["mass_before"][reachable], rtol=0.01
        )
    assert (ours["keys"] >= (theirs["keys"] > 0)).all()
    pairs = per_head(treated).to_frame("a").join(per_head(control).rename("b"))
    assert not any(set(a) & set(b) for a, b in zip(pairs["a"], pairs["b"], strict=True))


def test_the_mass_control_stays_in_the_segments_that_hold_enough(sd3: Any) -> None:
    edit = Edit(TopMass(keys_per_head=3), layers=[0], steps=[0])
    treated, control = receipt_of(sd3, edit).table(), receipt_of(sd3, edit.control("mass", seed=1)).table()
    for segment in ("keys_image", "keys_text"):
        # With near-uniform attention every segment holds enough.
        assert ((treated[segment] == 0) == (control[segment] == 0)).all()
    # Text holds most of the mass left beside all image keys, so it has to give some.
    whole = Edit(Segment("image"), layers=[0], steps=[0])
    table = receipt_of(sd3, whole.control("mass")).table()
    assert (table["keys_image"] == 0).all() and (table["keys_text"] > 0).all()
    np.testing.assert_allclose(table["mass_before"], table["treated_mass"], rtol=0.01)


def test_the_mass_control_follows_the_queries_that_are_edited(sd3: Any) -> None:
    edit = Edit(TOP, layers=[0], steps=[0], queries="text")
    treated, control = receipt_of(sd3, edit).table(), receipt_of(sd3, edit.control("mass")).table()
    assert set(control["queries"]) == {"text"}
    np.testing.assert_allclose(control["mass_before"], treated["mass_before"], rtol=0.01)


@pytest.mark.parametrize("kind", ["count", "segment", "mass", "persistence", "bottom", "next"])
@pytest.mark.parametrize("select", [TOP, Frozen(TOP, step=1)])
def test_a_control_states_what_the_treatment_would_have_taken(sd3: Any, kind: str, select: Any) -> None:
    edit = Edit(select, layers=[0], steps=[1])
    treated, control = receipt_of(sd3, edit).table(), receipt_of(sd3, edit.control(kind)).table()
    assert len(control) == len(treated) == 4
    assert (control["treated_keys"] == treated["keys"]).all()
    np.testing.assert_allclose(control["treated_mass"], treated["mass_before"], rtol=1e-5)
    if kind == "mass":
        np.testing.assert_allclose(control["mass_before"], control["treated_mass"], rtol=0.01)


def test_kept_is_the_share_of_keys_that_were_there_in_the_step_before(sd3: Any) -> None:
    edit = Edit(TopMass(keys_per_head=6), ScaleProbability(0.5), layers=[0, 1])
    receipt = receipt_of(sd3, edit, num_inference_steps=4)
    table = receipt.table().set_index(HEAD)["kept"]
    keys = per_head(receipt)
    for place, now in keys.items():
        before = keys.get((place[0] - 1, *place[1:]))
        want = np.nan if before is None else len(set(now) & set(before)) / len(now)
        np.testing.assert_allclose(table[place], want)
    gap = receipt_of(sd3, Edit(TOP, layers=[0], steps=[0, 2, 3]), num_inference_steps=4).table()
    assert gap.groupby("step")["kept"].apply(lambda part: part.isna().all()).tolist() == [True, True, False]


def test_the_query_control_replaces_outputs_and_says_so(sd3: Any) -> None:
    edit = Edit(TOP, layers=[0], steps=[0])
    calls = []

    def listen(call: Any, run: Any) -> torch.Tensor:
        if call.site.layer == 0 and call.step == 0:
            calls.append(call)
        return run(call)  # type: ignore[no-any-return]

    plain = latent(sd3)
    with intervene(sd3, edit.control("query")) as receipt, Session(sd3, listen):
        changed = latent(sd3)
    assert not torch.equal(plain, changed)
    table = receipt.table()
    assert (table["outputs"] == 2).all() and (table["keys"] == 0).all() and (table["mass_before"] == 0).all()
    assert receipt.edited_keys().empty
    queries = receipt.edited_queries()
    assert list(queries.columns) == [
        *["step", "timestep", "branch", "unit", "layer", "site", "head", "query", "edit", "evaluation"]
    ]
    (call,) = calls
    weights = reference.weights(call.q, call.k, call.mask, call.scale)
    top = weights[:, :, call.query_segments["image"]].amax(-1).topk(2).indices.sort().values
    found = queries.groupby(["branch", "head"])["query"].agg(list)
    for info in call.rows:
        for head in range(call.q.shape[1]):
            assert found[info.branch, head] == top[info.row, head].tolist()


def test_the_next_control_takes_the_keys_below_the_top(sd3: Any) -> None:
    with observe(sd3, layers=[0], steps=[0]) as seen:
        latent(sd3)
    receipt = receipt_of(sd3, Edit(TOP, layers=[0], steps=[0]).control("next"))
    sinks = seen.sinks(keys_per_head=4)
    below = sinks[sinks["rank"] >= 2].groupby(HEAD)["key"].agg(lambda part: sorted(part))
    assert per_head(receipt).equals(below)


@pytest.mark.parametrize("kind", ["mass", "persistence"])
def test_draws_of_matched_controls_do_not_depend_on_the_batch(sd3: Any, kind: str) -> None:
    edit = Edit(TOP, layers=[0], steps=[0], branch="cond").control(kind)

    def keys(prompts: list[str], units: list[str]) -> pd.DataFrame:
        noise = torch.zeros(len(prompts), 4, 8, 8)
        with intervene(sd3, edit, units=units) as receipt:
            latent(sd3, prompt=prompts, latents=noise)
        return receipt.edited_keys().groupby(["unit", "head"])["key"].agg(lambda part: sorted(part))

    both = keys(["a cat", "a dog"], ["x", "y"])
    turned = keys(["a dog", "a cat"], ["y", "x"])
    assert turned.loc["x"].equals(both.loc["x"]) and turned.loc["y"].equals(both.loc["y"])
    assert keys(["a dog"], ["y"]).loc["y"].equals(both.loc["y"])
    assert not keys(["a dog"], ["z"]).loc["z"].equals(both.loc["y"])


def test_a_control_without_enough_keys_says_so(sd3: Any) -> None:
    for kind, needed in (("persistence", 26), ("segment", 26)):
        with pytest.raises(UsageError, match=f"needs {needed} keys .* but only 0 .* 'count' control"):
            receipt_of(sd3, Edit(Segment("text"), layers=[0]).control(kind))
    with pytest.raises(UsageError, match="needs 2 keys .* but only 1"):
        receipt_of(sd3, Edit(TopMass(keys_per_head=41), layers=[0]).control("mass"))


def test_the_bottom_control_takes_the_lightest_keys(sd3: Any) -> None:
    with observe(sd3, layers=[0], steps=[0]) as seen:
        latent(sd3)
    receipt = receipt_of(sd3, Edit(TOP, layers=[0], steps=[0]).control("bottom"))
    sinks = seen.sinks(keys_per_head=42)
    lightest = sinks[sinks["rank"] >= 40].groupby(HEAD)["key"].agg(lambda part: sorted(part))
    assert per_head(receipt).equals(lightest)


def test_the_null_control_edits_nothing_through_the_masked_path(sd3: Any) -> None:
    masked = []

    def listen(call: Any, run: Any) -> torch.Tensor:
        masked.append(call.mask is not None and bool((call.mask == 0).all()))
        return run(call)  # type: ignore[no-any-return]

    stock = latent(sd3)
    with Session(sd3, listen, sites="*.1.attn"):
        with intervene(sd3, Edit(Segment("text"), layers=[1]).control("null"), receipt="full") as receipt:
            drifted = latent(sd3)
    torch.testing.assert_close(drifted, stock, atol=1e-5, rtol=1e-4)
    assert masked == [True, True]
    assert (receipt.table()["keys"] == 0).all() and len(receipt) == 2


def test_frozen_controls_stay(sd3: Any) -> None:
    edit = Edit(Frozen(TOP), layers=[0])
    for kind in ("count", "segment"):
        keys = per_head(receipt_of(sd3, edit.control(kind), num_inference_steps=3)).unstack("step")
        assert (keys[0] == keys[1]).all() and (keys[0] == keys[2]).all()
    moving = per_head(receipt_of(sd3, Edit(TOP, layers=[0]).control("count"))).unstack("step")
    assert not (moving[0] == moving[1]).all()
