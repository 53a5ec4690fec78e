"""observe: masses, sinks with identities, summaries; nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.tiny import FAMILIES, run, tiny_flux, tiny_sd3, tiny_sdxl

from sinkscope.attention import TopMass, reference
from sinkscope.errors import NoMatchError, NonFiniteError, UsageError
from sinkscope.models import Edit, Session, intervene, observe


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_sd3()


def latent(pipe: Any, **changes: Any) -> torch.Tensor:
    result: torch.Tensor = run(pipe, output_type="latent", **changes)
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_watching_changes_nothing_and_mass_sums_to_one(family: str) -> None:
    pipe = FAMILIES[family]()
    stock = latent(pipe)
    with observe(pipe, kind="all") as seen:
        watched = latent(pipe)
    assert torch.equal(stock, watched)
    summary, sinks = seen.summary(), seen.sinks(keys_per_head=2)
    assert set(summary["step"]) == {0, 1}
    assert set(summary["branch"]) == ({"none"} if family == "flux" else {"cond", "uncond"})
    assert (summary["max_mass"] >= 1 / summary["keys"] - 1e-6).all()
    assert (summary["entropy"] <= np.log(summary["keys"]) + 1e-5).all()
    assert (sinks["mass"] <= 1).all() and (sinks["times_uniform"] >= 1 - 1e-4)[sinks["rank"] == 0].all()
    for site in summary["site"].unique():
        mass = seen.mass(site=site)
        assert mass.dtype == torch.float32
        torch.testing.assert_close(mass.sum(-1), torch.ones(mass.shape[:3]))


def test_mass_is_the_mean_softmax_weight_of_the_image_queries(sd3: Any) -> None:
    exact = []

    def record(call: Any, run: Any) -> torch.Tensor:
        weights = reference.weights(call.q, call.k, call.mask, call.scale)
        exact.append(weights[:, :, call.query_segments["image"]].mean(2))
        return run(call)  # type: ignore[no-any-return]

    with observe(sd3, layers=[1]) as seen, Session(sd3, record, sites="transformer_blocks.1.attn"):
        latent(sd3)
    assert seen.mass().shape == (2, 2, 2, exact[0].shape[-1])
    torch.testing.assert_close(seen.mass(layer=1).double(), torch.stack(exact), atol=1e-6, rtol=1e-4)


def test_several_query_groups_in_one_pass(sd3: Any) -> None:
    with observe(sd3, layers=[1], queries=("image", "text", "all")) as seen:
        latent(sd3)
    image, text, every = (seen.mass(1, name) for name in ("image", "text", "all"))
    count = int(every.shape[-1])
    share = 16 / count
    torch.testing.assert_close(every, share * image + (1 - share) * text)
    assert set(seen.sinks()["queries"]) == {"image", "text", "all"}
    assert set(seen.sinks(queries="text")["queries"]) == {"text"}
    with pytest.raises(UsageError, match="queries="):
        seen.mass(1)
    with pytest.raises(UsageError, match="image, text, all"):
        seen.mass(1, "txt")


def test_sinks_name_their_tokens(sd3: Any) -> None:
    with observe(sd3, layers=[0]) as seen:
        latent(sd3, prompt="a cat")
    sinks, mass = seen.sinks(keys_per_head=42), seen.mass(0)
    assert list(sinks.columns[:9]) == [
        "step", "timestep", "branch", "unit", "layer", "site", "head", "rank", "key",
    ]  # fmt: skip
    assert len(sinks) == mass.numel()
    one = sinks[(sinks["step"] == 1) & (sinks["branch"] == "cond") & (sinks["head"] == 0)].set_index("key")
    row = int(seen.rows(0).query("branch == 'cond'")["row"].iloc[0])
    np.testing.assert_allclose(one["mass"].sort_index(), mass[1, row, 0], rtol=1e-6)
    assert one["mass"].is_monotonic_decreasing and list(one["rank"]) == list(range(42))
    assert list(one.loc[5, ["segment", "position", "image_row", "image_column"]]) == ["image", 5, 1, 1]
    assert list(one.loc[16, ["segment", "position", "role"]]) == ["text", 0, "bos"]
    assert "text_encoder_3" in one.loc[41, "encoder"] and one.loc[41, "role"] == "pad"
    assert list(one["timestep"].unique()) == [float(sd3.scheduler.timesteps[1])]


def test_summary_of_segments(sd3: Any) -> None:
    with observe(sd3, layers=[1]) as seen:
        latent(sd3)
    summary = seen.summary()
    assert len(summary) == 4
    np.testing.assert_allclose(summary["mass_image"] + summary["mass_text"], 1, rtol=1e-5)
    np.testing.assert_allclose(summary["mass_clip"] + summary["mass_t5"], summary["mass_text"], rtol=1e-5)
    np.testing.assert_allclose(summary["times_uniform"], summary["mean_top1"] * 42, rtol=1e-5)
    top = seen.mass(1).amax(-1)
    np.testing.assert_allclose(summary["max_mass"], top.amax(-1).flatten(), rtol=1e-6)
    np.testing.assert_allclose(summary["mean_top1"], top.mean(-1).flatten(), rtol=1e-6)
    assert (summary["max_activation"] > 0).all()


def test_generations_are_put_side_by_side(sd3: Any) -> None:
    with observe(sd3, layers=[1], units=["a", "b", "c"]) as seen:
        latent(sd3, prompt=["a cat", "a dog"])
        latent(sd3, prompt="a hen")
    rows = seen.rows(1)
    assert sorted(zip(rows["branch"], rows["unit"], strict=True)) == [
        (branch, unit) for branch in ("cond", "uncond") for unit in "abc"
    ]
    mass = seen.mass(1)
    assert mass.shape[:2] == (2, 6) and not mass.isnan().any()
    with observe(sd3, layers=[1]) as alone:
        latent(sd3, prompt="a hen")
    mine = rows.query("unit == 'c' and branch == 'cond'")["row"].iloc[0]
    other = alone.rows(1).query("branch == 'cond'")["row"].iloc[0]
    torch.testing.assert_close(mass[:, mine], alone.mass(1)[:, other])
    with observe(sd3, layers=[1]) as numbered:
        latent(sd3, prompt=["a cat", "a dog"])
        latent(sd3, prompt="a hen")
    assert set(numbered.summary()["unit"]) == {0, 1, 2}


def test_separate_guidance_calls_share_one_row_axis() -> None:
    flux = tiny_flux()
    with observe(flux, layers=[3]) as seen:
        latent(flux, true_cfg_scale=2.0, negative_prompt="blurry")
    assert sorted(seen.rows(3)["branch"]) == ["cond", "uncond"]
    assert seen.mass(3).shape[:2] == (2, 2) and not seen.mass(3).isnan().any()


def test_rows_that_a_step_did_not_run_are_not_zero(sd3: Any) -> None:
    def stop_guidance(pipe: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 0.0
        return {name: value.chunk(2)[1] if step == 0 else value for name, value in kept.items()}

    names = ["prompt_embeds", "pooled_prompt_embeds"]
    with observe(sd3, layers=[1]) as seen:
        latent(sd3, callback_on_step_end=stop_guidance, callback_on_step_end_tensor_inputs=names)
    rows, mass = seen.rows(1).set_index("branch")["row"], seen.mass(1)
    assert mass[1, rows["uncond"]].isnan().all()
    assert not mass[:, rows["cond"]].isnan().any() and not mass[0].isnan().any()
    assert set(seen.sinks().query("step == 1")["branch"]) == {"cond"}


def test_tables_are_parquet(sd3: Any, tmp_path: Path) -> None:
    with (
        observe(sd3, layers=[1]) as seen,
        intervene(sd3, Edit(TopMass(keys_per_head=1)), receipt="full") as kept,
    ):
        latent(sd3)
    tables = [seen.sinks(), seen.summary(), kept.table(), kept.edited_keys(), kept.replacements()]
    for number, table in enumerate(tables):
        table.to_parquet(tmp_path / f"{number}.parquet")
        again = pd.read_parquet(tmp_path / f"{number}.parquet")
        assert list(again.columns) == list(table.columns) and len(again) == len(table) > 0
        assert not again.columns.duplicated().any()


def test_scopes(sd3: Any) -> None:
    with observe(sd3, layers=[1, 2], heads=[1], steps=[1], keep=("entropy",)) as seen:
        latent(sd3)
    assert seen.steps == (1,) and set(seen.summary()["layer"]) == {1, 2}
    assert seen.summary()["max_activation"].isna().all() and not seen.summary()["entropy"].isna().any()
    with pytest.raises(UsageError, match="keep="):
        seen.mass(1)
    with pytest.raises(UsageError, match="keep="):
        seen.sinks()
    with observe(sd3, layers=[1], heads=[1], steps=(0.5, 1.0)) as later:
        latent(sd3)
    assert later.mass().shape[:3] == (1, 2, 1) and set(later.sinks()["head"]) == {1}


def test_bare_modules_count_forward_calls(sd3: Any) -> None:
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 5, 32),
        "pooled_projections": torch.randn(2, 32),
        "timestep": torch.full((2,), 500.0),
    }
    with observe(sd3.transformer, layers=[0]) as seen:
        for _ in range(3):
            sd3.transformer(**inputs)
    assert seen.mass().shape == (3, 2, 2, 21)
    assert set(seen.sinks()["branch"]) == {"none"} and seen.steps == (0, 1, 2)
    with (
        pytest.raises(UsageError, match="3 forward calls|1 forward calls"),
        observe(sd3.transformer, steps=[0, 4]),
    ):
        sd3.transformer(**inputs)


@pytest.mark.parametrize(
    ("scope", "says"),
    [
        ({"layers": [3]}, "Unknown layer 3"),
        ({"kind": "crossed"}, "Did you mean 'cross'?"),
        ({"sites": "*.nothing"}, "No attention site matches"),
        ({"heads": [2]}, "has 2 heads (0-1)"),
        ({"steps": [2]}, "this run has 2 steps (0-1)"),
        ({"queries": "images"}, "Did you mean 'image'?"),
        ({"queries": ()}, "queries=()"),
        ({"keep": ("masses",)}, "Did you mean 'mass'?"),
        ({"units": ["a", "a"]}, "distinct"),
    ],
)
def test_wrong_scopes_are_refused(sd3: Any, scope: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as error, observe(sd3, **scope):
        latent(sd3)
    assert says in str(error.value)


def test_more_units_than_names(sd3: Any) -> None:
    with pytest.raises(UsageError, match="Got 1 names"), observe(sd3, units=["a"]):
        latent(sd3, prompt=["a cat", "a dog"])


def test_nothing_seen(sd3: Any) -> None:
    with pytest.raises(NoMatchError, match="inside the with block"), observe(sd3) as seen:
        pass
    with pytest.raises(NoMatchError):
        seen.summary()
    with pytest.raises(KeyError, match="mine"), observe(sd3):
        raise KeyError("mine")


def test_blocks_with_several_sites_have_to_be_told_apart() -> None:
    sdxl = tiny_sdxl()
    with pytest.raises(UsageError, match="kind="), observe(sdxl):
        pass
    with observe(sdxl, kind="all", layers=[0]) as seen:
        latent(sdxl)
    with pytest.raises(UsageError, match="site="):
        seen.mass(0)
    cross = next(site for site in seen.summary()["site"] if site.endswith("attn2"))
    assert seen.mass(site=cross).shape[-1] == set(seen.summary().set_index("site").loc[cross, "keys"]).pop()


def test_not_a_number_is_named(sd3: Any) -> None:
    def spoil(call: Any, run: Any) -> torch.Tensor:
        v = call.v.clone()
        v[0, 0, 0, 0] = torch.inf if call.step else 0.0
        return run(call.replace(v=v))  # type: ignore[no-any-return]

    with pytest.raises(
        NonFiniteError, match=r"At transformer_blocks.1.attn \(layer 1\), step 1: NaN or .* of v;"
    ):
        with observe(sd3, layers=[1]), Session(sd3, spoil, sites="*.1.attn"):
            latent(sd3)


def test_budgets_beyond_the_keys(sd3: Any) -> None:
    with observe(sd3, layers=[1]) as seen:
        latent(sd3)
    with pytest.raises(UsageError, match="42 keys"):
        seen.sinks(keys_per_head=43)
    with pytest.raises(UsageError, match="at least 1"):
        seen.sinks(keys_per_head=0)
    with pytest.raises(UsageError, match="Unknown observed layer 2"):
        seen.mass(2)
