"""Arms that change the sampling: what they are compared with, what noise and sampler they use, what is
refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.study.small import SINK, SINKS, tiny_study

from sinkscope.errors import UsageError
from sinkscope.prompts import PromptRecord
from sinkscope.study import Arm, Study, contrasts, ladders, make_plan, run
from sinkscope.study._scheduler import build_scheduler, sampler

WEAK = {"guidance": 2.0}
ARMS: dict[str, Any] = {
    "sink": SINK,
    "random": SINK.control("count"),
    "seed": Arm(seed_shift=1),
    "weak": Arm(**WEAK),
    "weak_sink": Arm(SINK, against="weak", **WEAK),
    "weak_random": Arm(SINK.control("count"), against="weak", **WEAK),
    "heun": Arm(scheduler="FlowMatchHeunDiscreteScheduler"),
}


def pairs(study: Study) -> list[tuple[str, str, str]]:
    return [(c.arm, c.reference, c.kind) for c in contrasts(study)]


def test_round_trip_and_hash(tmp_path: Path) -> None:
    study = tiny_study(arms=ARMS)
    study.to_yaml(tmp_path / "study.yaml")
    again = Study.from_yaml(tmp_path / "study.yaml")
    assert again == study
    assert again.hash == study.hash != tiny_study(arms={**ARMS, "seed": Arm(seed_shift=2)}).hash
    assert study.to_dict()["arms"]["weak_sink"] == {
        "edits": [SINK.to_dict()],
        "against": "weak",
        "guidance": 2.0,
    }


def test_an_arm_that_changes_no_sampling_is_its_edit_and_keeps_the_hash() -> None:
    short = tiny_study(arms={"sink": SINK, "both": (SINK, SINKS), "again": None})
    long = tiny_study(arms={"sink": Arm(SINK), "both": Arm([SINK, SINKS]), "again": Arm()})
    assert long == short
    assert long.hash == short.hash


def test_a_control_in_a_file_is_sampled_like_its_treated_arm() -> None:
    arms = {
        "weak": WEAK,
        "sink": {"edits": SINK.to_dict(), "against": "weak", **WEAK},
        "random": {"control": "count", "of": "sink", "seed": 2},
    }
    study = Study.from_dict({"arms": arms, "metrics": ["ssim"]})
    assert study.arm("random") == Arm(SINK.control("count", seed=2), against="weak", **WEAK)


def test_comparisons_stay_within_one_setting() -> None:
    study = tiny_study(arms=ARMS)
    assert pairs(study) == [
        ("sink", "baseline", "arm-baseline"),
        ("random", "baseline", "arm-baseline"),
        ("seed", "baseline", "arm-baseline"),
        ("weak_sink", "weak", "arm-baseline"),
        ("weak_random", "weak", "arm-baseline"),
        ("heun", "baseline", "arm-baseline"),
        ("sink", "random", "edit-control"),
        ("weak_sink", "weak_random", "edit-control"),
    ]
    bases = {"baseline": "baseline", "weak": "weak", "weak_random": "weak", "seed": "baseline"}
    assert {arm: study.base(arm) for arm in bases} == bases


def test_an_arm_may_be_compared_with_another_edit_and_distances_start_at_the_unedited_image() -> None:
    study = tiny_study(arms={"sink": SINK, "sinks": Arm(SINKS, against="sink")})
    assert pairs(study)[1] == ("sinks", "sink", "edit-control")
    assert study.base("sinks") == "baseline"


def test_ladders_do_not_mix_settings() -> None:
    arms = {**ARMS, "sinks": SINKS, "weak_sinks": Arm(SINKS, against="weak", **WEAK)}
    found = [set(arms) for arms, _ in ladders(tiny_study(arms=arms))]
    assert found == [{"sink", "sinks"}, {"weak_sink", "weak_sinks"}]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"a": Arm(SINK, against="b")}, "Unknown arm that 'a' is compared with .against. 'b'"),
    ({"a": Arm(SINK, against="b"), "b": Arm(SINKS, against="a")}, "in a circle: a -> b -> a"),
    ({"a": Arm(SINK, guidance=3.0)}, "'a' edits and is compared with 'baseline', but is sampled differently"),
    (
        {"b": Arm(steps=3), "c": Arm(steps=4, against="b"), "a": Arm(SINK, steps=4, against="c")},
        "'c' is the unedited arm that a is compared with",
    ),
    (
        {
            "sink": SINK,
            "weak": Arm(**WEAK),
            "random": Arm(SINK.control("count"), against="weak", **WEAK),
        },
        "'random' is the 'count' control of arm 'sink', but is sampled differently: guidance=2.0 aga",
    ),
    (
        {"weak": Arm(**WEAK), "a": Arm(SINK, against="weak", **WEAK), "b": Arm(SINK, against="weak", **WEAK)},
        "'a' and 'b' are the same edit",
    ),
    ({"baseline": Arm(steps=3)}, "sampled as the study says"),
]


@pytest.mark.parametrize(("arms", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_arms_that_do_not_match(arms: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_study(arms=arms)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0: expected a whole number from 1"),
        ({"seed_shift": -1}, "seed_shift=-1"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"scheduler": 3}, "scheduler=3: expected a name"),
        ({"edits": 3}, "Arm holds 3"),
    ],
)
def test_settings_of_an_arm(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Arm(**settings)
    with pytest.raises(UsageError, match="Unknown field of an arm 'stpes'"):
        Arm.from_dict({"edits": None, "stpes": 3})


def test_a_shift_onto_another_seed_of_the_study() -> None:
    with pytest.raises(UsageError, match="seed 0 . 1 is a seed of the study"):
        tiny_study(arms={"seed": Arm(seed_shift=1)}, seeds=(0, 1))


def test_noise_of_shifted_and_prescribed_seeds() -> None:
    prompts = [PromptRecord(str(index), f"text {index}") for index in range(3)]
    keyed = make_plan(tiny_study(), prompts, 2).units[0]
    other = make_plan(tiny_study(seeds=(5,)), prompts, 2).units[0]
    assert keyed.shifted(5) == other.noise_seed != keyed.noise_seed
    counted = make_plan(tiny_study(noise_base=42), prompts, 2).units
    assert [unit.noise_seed for unit in counted] == [42, 43, 44]
    assert counted[2].shifted(1000) == 1044
    noise = torch.randn(4, generator=counted[1].generator())
    assert torch.equal(noise, torch.randn(4, generator=torch.Generator().manual_seed(43)))
    assert tiny_study(noise_base=42).hash != tiny_study().hash
    with pytest.raises(UsageError, match="prompt i the seed 42 . i, so 2 seeds"):
        tiny_study(noise_base=42, seeds=(0, 1))


# ---- samplers


GOOD = ["FlowMatchHeunDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]


@pytest.mark.parametrize("name", GOOD)
def test_a_flow_sampler_keeps_the_shift_and_recovers_a_known_target(pipe: Any, name: str) -> None:
    pipe.scheduler.register_to_config(shift=3.0)
    made = build_scheduler(pipe, name)
    pipe.scheduler.register_to_config(shift=1.0)
    assert made.config.get("flow_shift", made.config.get("shift")) == 3.0
    made.set_timesteps(6)
    target, x = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    for t in made.timesteps:
        x = made.step((x - target) / (t / 1000), t, x, return_dict=False)[0]
    assert torch.allclose(x, target, atol=0.01)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DDIMScheduler"])
def test_a_noise_sampler_is_refused_for_a_flow_model(pipe: Any, name: str) -> None:
    own = pipe.scheduler
    with pytest.raises(
        UsageError, match=f"{name}' does not solve the flow.*standard deviations from the tar"
    ):
        build_scheduler(pipe, name)
    with pytest.raises(UsageError, match="draws noise of its own"):
        build_scheduler(pipe, "FlowMatchLCMScheduler")
    with pytest.raises(UsageError, match="Unknown scheduler 'Euler'"):
        build_scheduler(pipe, "Euler")
    assert pipe.scheduler is own


def test_a_noise_model_takes_samplers_of_its_own_prediction() -> None:
    from diffusers import EulerDiscreteScheduler

    class Pipe:
        scheduler = EulerDiscreteScheduler(prediction_type="v_prediction")

    assert build_scheduler(Pipe(), "DDIMScheduler").config.prediction_type == "v_prediction"
    with pytest.raises(UsageError, match="not a solver of what this model predicts .'v_prediction'"):
        build_scheduler(Pipe(), "FlowMatchEulerDiscreteScheduler")


def test_the_pipeline_gets_its_own_sampler_back(pipe: Any) -> None:
    own = pipe.scheduler
    with pytest.raises(RuntimeError), sampler(pipe, "FlowMatchHeunDiscreteScheduler"):
        assert type(pipe.scheduler).__name__ == "FlowMatchHeunDiscreteScheduler"
        raise RuntimeError
    assert pipe.scheduler is own


# ---- a run


def test_a_run_with_arms_of_other_sampling(pipe: Any, tmp_path: Path) -> None:
    from sinkscope.metrics import get

    prompts = [{"id": name, "text": name} for name in ("cat", "dog")]
    changes: dict[str, Any] = {"arms": ARMS, "prompts": prompts, "guidance": 5.0, "observe": None}
    result = run(tiny_study(**changes), tmp_path / "run", pipe=pipe, progress=False)
    images = {arm: np.asarray(result.images(arm)["cat-s0"], dtype=int) for arm in ("baseline", *ARMS)}
    assert len({image.tobytes() for image in images.values()}) == len(images)
    stock = {"height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 2.0}
    units = result.plan.batches()[0].units
    weak = pipe(["cat", "dog"], generator=[unit.generator() for unit in units], **stock).images[0]
    assert np.array_equal(images["weak"], np.asarray(weak, dtype=int))
    shifted = pipe(
        ["cat", "dog"],
        generator=[unit.generator(1) for unit in units],
        **{**stock, "guidance_scale": 5.0},
    ).images[0]
    assert np.array_equal(images["seed"], np.asarray(shifted, dtype=int))

    scores = result.scores().set_index(["unit", "arm", "metric"])["value"]
    weak_image, edited = (result.images(arm)["cat-s0"] for arm in ("weak", "weak_sink"))
    assert scores["cat-s0", "weak", "rmse"] == 0.0
    assert scores["cat-s0", "weak_sink", "rmse"] == get("rmse").score([edited], reference=[weak_image])[0]
    effects = result.effects().query("task == 'all'")
    assert "weak_sink - weak" in set(effects["contrast"])
    info = {arm["name"]: arm for arm in result.record["arm_info"]}
    assert info["weak_sink"]["base"] == "weak"
    assert info["heun"] | {"text": ""} == {
        "name": "heun",
        "role": "sampling",
        "text": "",
        "sampling": {"scheduler": "FlowMatchHeunDiscreteScheduler"},
    }
    assert result.report().stat().st_size > 5000


def test_images_of_another_size_have_no_distance(pipe: Any, tmp_path: Path) -> None:
    arms = {"wide": Arm(width=24)}
    with pytest.raises(UsageError, match="'ssim' compares images of one size, but arm 'wide' is 16 x 24"):
        run(tiny_study(arms=arms), tmp_path / "run", pipe=pipe, progress=False)
    with pytest.raises(UsageError, match="Scheduler 'EulerDiscreteScheduler' does not solve"):
        run(
            tiny_study(arms={"euler": Arm(scheduler="EulerDiscreteScheduler")}),
            tmp_path / "run",
            pipe=pipe,
            progress=False,
        )


def test_verdicts_that_cannot_be_given(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="equivalence is asked for 'ssim', but margins has none"):
        tiny_study(equivalence=["ssim"])
    with pytest.raises(UsageError, match="Unknown metric in equivalence"):
        tiny_study(equivalence=["lpips"])
    with pytest.raises(UsageError, match="Unknown margin of rmse .* 'sed'"):
        tiny_study(margins={"rmse": "sed"})
    both = tiny_study(equivalence="rmse", margins={"rmse": "seed"}, seeds=(0, 1))
    assert both.hash == tiny_study(seeds=(0, 1)).hash
    with pytest.raises(UsageError, match="a verdict needs at least two prompts, but it has 1"):
        run(tiny_study(prompts=("a cat",)), tmp_path / "run", pipe=pipe, progress=False)


def test_a_draw_of_prompts_given_one_by_one() -> None:
    with pytest.raises(UsageError, match="one by one, so prompt_seed, prompt_order would do nothing"):
        tiny_study(prompt_seed=1, prompt_order="file")
    with pytest.raises(UsageError, match="Unknown prompt_order 'lines'"):
        tiny_study(prompts="shapes", prompt_order="lines")
    drawn = tiny_study(prompts="shapes", prompt_seed=3, prompt_tasks=["colors"])
    assert Study.from_dict(drawn.to_dict()) == drawn
    assert drawn.hash != tiny_study(prompts="shapes").hash
