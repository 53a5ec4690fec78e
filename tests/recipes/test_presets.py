"""Presets as data: what each one plans on the paper's models, checked against the protocol of the release."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_sd3, tiny_sdxl

from sinkscope.attention import Keys, Mask, RandomKeys, ReplaceValue, ScaleProbability, TopMass, Within
from sinkscope.errors import MissingDependencyError, MissingWeightsError, UsageError
from sinkscope.models import Edit
from sinkscope.recipes import Preset, defects, preset, presets
from sinkscope.recipes._facts import EMBEDDED, SD3, SDXL, facts
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper.table13 import released_steps
from sinkscope.study import Arm, Study, contrasts, resolve_prompts, run

ALL = [entry for entry in presets() if entry.name.startswith("paper/")]
CASES = [(entry, variant) for entry in ALL for variant in entry.variants]
NAMES = [f"{entry.name}:{variant}" for entry, variant in CASES]
SINGLE = {"single_object": 64}
FIRST_64 = {
    "two_object": 14,
    "single_object": 12,
    "color_attr": 10,
    "position": 10,
    "colors": 10,
    "counting": 8,
}


def full(name: str, variant: str = "as_released") -> Study:
    entry = preset(name)
    return entry.study(variant, model=entry.paper_model)


def images(study: Study) -> int:
    count = len(study.prompts) if study.n_prompts is None else study.n_prompts
    return count * len(study.seeds) * len(study.arm_names)


def only(study: Study, arm: str) -> Edit:
    (edit,) = study.edits(arm)
    return edit


# ---- as released, against the protocol


RELEASED: list[tuple[str, int, int | None, int, float | None, int]] = [
    # preset, prompts, first seed, steps, guidance, images
    ("paper/table1", 8, 42, 20, 7.0, 8),
    ("paper/table2", 553, 42, 20, 7.0, 4 * 553),
    ("paper/table3", 553, 42, 20, 7.0, 4 * 553),
    ("paper/table4", 4, 42, 20, 7.0, 6 * 4),
    ("paper/table5", 100, 1000, 20, 5.0, 3 * 100),
    ("paper/table6", 64, 1000, 20, 7.0, 5 * 64),
    ("paper/table9", 100, 1000, 20, 7.5, 6 * 100),
    ("paper/table10", 32, 42, 50, 7.0, 10 * 32),
    ("paper/table12", 32, 42, 50, 7.0, 3 * 32),
    ("paper/table13", 32, 42, 50, 7.0, 5 * 32),
    ("paper/table14", 553, 42, 20, 7.0, 2 * 553),
    ("paper/table15", 32, 1000, 20, 7.5, 10 * 32),
    ("paper/table16", 32, 1000, 20, 7.5, 4 * 32),
    ("paper/table17", 100, 42, 28, 7.0, 3 * 100),
    ("paper/table19", 64, 1000, 20, 7.0, 17 * 64),
    ("paper/table20", 64, 1000, 20, 7.0, 7 * 64),
    ("paper/qualitative", 64, 1000, 20, 7.0, 5 * 64),
]


@pytest.mark.parametrize(("name", "count", "seed", "steps", "guidance", "total"), RELEASED)
def test_prompts_seeds_steps_and_images_as_released(
    name: str, count: int, seed: int, steps: int, guidance: float, total: int
) -> None:
    study = full(name)
    assert (study.noise_base, study.seeds, study.steps, study.guidance) == (seed, (0,), steps, guidance)
    assert images(study) == total
    prompts = resolve_prompts(study)
    assert len(prompts) == count
    assert study.margins == {} and study.equivalence == ()
    from sinkscope.study import make_plan

    plan = make_plan(study, prompts, 1)
    assert [unit.noise_seed for unit in plan.units] == [seed + index for index in range(count)]
    assert plan.images == total


def test_every_preset_of_the_paper_has_its_row_here() -> None:
    assert [row[0] for row in RELEASED] == [entry.name for entry in ALL]


def test_whose_prompts_the_release_took() -> None:
    def tasks(name: str) -> dict[str, int]:
        return dict(Counter(prompt.task for prompt in resolve_prompts(full(name))))

    assert tasks("paper/table6") == tasks("paper/table19") == SINGLE
    assert tasks("paper/table15") == tasks("paper/table16") == {"single_object": 32}
    assert tasks("paper/table20") == FIRST_64
    assert set(tasks("paper/table5").values()) == {20, 15}
    texts = [prompt.text for prompt in resolve_prompts(full("paper/table9"))]
    assert texts[0] == "a photo of a yellow sports ball and a green boat"
    assert texts[-1] == "a photo of a red skis and a brown tie"
    assert resolve_prompts(full("paper/table4"))[1].text == "A cute cat sitting on a windowsill"


def test_conditions_of_the_main_result() -> None:
    study = full("paper/table2")
    found = {arm: only(study, arm) for arm in ("A1", "A2", "A3")}
    assert [edit.layers for edit in found.values()] == [(12,), (6, 12, 18), (12,)]
    assert [edit.select for edit in found.values()] == [TopMass(k) for k in (1, 1, 5)]
    assert all(edit.queries == "all" and edit.action == Mask() for edit in found.values())
    assert full("paper/table14").edits("A1") == study.edits("A1")


@pytest.mark.parametrize(
    ("name", "ks"),
    [("table6", (1, 5)), ("table19", (1, 5, 10, 20, 50)), ("table20", (1, 10, 50)), ("qualitative", (1, 5))],
)
def test_shared_budgets_and_random_keys_of_the_release(name: str, ks: tuple[int, ...]) -> None:
    study = full(f"paper/{name}")
    for k in ks:
        sink, random = only(study, f"sink_{k}"), only(study, f"random_{k}")
        assert sink.select == TopMass(shared_keys=24 * k)
        assert random.select == RandomKeys(shared_keys=24 * k)  # sinks are not excluded
        assert sink.layers == random.layers == (12,)
        assert sink.queries == random.queries == "all"
    declared = {(c.arm, c.reference) for c in contrasts(study) if c.kind == "edit-control"}
    assert {(f"sink_{k}", f"random_{k}") for k in ks} <= declared


def test_the_fixed_key_of_the_release() -> None:
    scores = full("paper/table10")
    first = Keys((0,), segment="text")
    etas = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
    assert [only(scores, f"eta_{eta:g}") for eta in etas] == [
        Edit(first, ScaleProbability(eta), layers=[12]) for eta in etas
    ]
    assert only(scores, "value_half").action == ReplaceValue(with_="mean", amount=0.5)
    multi = full("paper/table12").edits("multi")
    assert [edit.action for edit in multi] == [ScaleProbability(0.0), ReplaceValue(with_="zero")]
    assert {edit.layers for edit in multi} == {(6, 12, 18)}
    verified = full("paper/table4")
    assert [arm for arm in verified.arms] == ["eta_1", "eta_0.5", "eta_0.1", "eta_0.01", "eta_0"]


def test_steps_that_the_release_altered() -> None:
    assert released_steps(0.0, 0.2, 50) == [*range(1, 11)]
    assert released_steps(0.4, 0.6, 50) == [*range(21, 31)]
    assert released_steps(0.8, 1.0, 50) == [0, *range(41, 50)]
    assert list(full("paper/table13").edits("late")[0].steps) == [0, *range(41, 50)]
    late = only(full("paper/table13", "corrected"), "late")
    assert late.steps == (0.8, 1.0)


def test_settings_of_the_release_with_a_baseline_each() -> None:
    study = full("paper/table15")
    sampling = {arm: study.sampling(arm) for arm in study.arm_names}
    assert [sampling[arm]["guidance"] for arm in ("g3", "baseline", "g12")] == [3.0, 7.5, 12.0]
    assert [sampling[arm]["steps"] for arm in ("steps8", "baseline", "steps50")] == [8, 20, 50]
    assert study.base("sink_1_g3") == "g3"
    assert only(study, "sink_1").queries == "image"
    calibration = full("paper/table9")
    assert calibration.arm("seed") == Arm(seed_shift=1000)
    assert [calibration.arm(arm).guidance for arm in ("cfg_low", "cfg_high")] == [6.5, 8.5]
    assert not any(study.sampling(arm)["scheduler"] for arm in study.arm_names)


def test_text_and_image_sinks_of_the_release() -> None:
    study = full("paper/table16")
    top = TopMass(keys_per_head=1)
    assert only(study, "text_only").select == Within(top, "text")
    assert only(study, "image_only").select == Within(top, "image")
    assert {edit.queries for arm in study.arms for edit in study.edits(arm)} == {"image"}


def test_the_middle_block_of_sdxl() -> None:
    study = full("paper/table5")
    assert study.model == SDXL
    assert [(arm, only(study, arm).sites) for arm in study.arms] == [
        ("self_sink_1", "mid_block*attn1"),
        ("cross_sink_1", "mid_block*attn2"),
    ]


# ---- corrected


CORRECTED: dict[str, tuple[int, int]] = {
    # preset: prompts, arms
    "paper/table1": (60, 1),
    "paper/table2": (553, 17),
    "paper/table3": (553, 17),
    "paper/table4": (24, 11),
    "paper/table5": (100, 11),
    "paper/table6": (64, 12),
    "paper/table9": (100, 10),
    "paper/table10": (96, 16),
    "paper/table12": (96, 14),
    "paper/table13": (96, 14),
    "paper/table14": (480, 5),
    "paper/table15": (36, 22),
    "paper/table16": (96, 11),
    "paper/table17": (100, 6),
    "paper/table19": (64, 22),
    "paper/table20": (96, 17),
    "paper/qualitative": (64, 7),
}


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_plans_on_the_model_of_the_paper(name: str) -> None:
    study = full(name, "corrected")
    prompts = resolve_prompts(study)
    assert (len(prompts), len(study.arm_names)) == CORRECTED[name]
    assert study.noise_base is None
    counts = Counter(prompt.task for prompt in prompts)
    assert len(counts) == 6  # every task of GenEval
    if len(prompts) < 480:
        assert max(counts.values()) - min(counts.values()) <= 1
    assert set(study.margins) <= set(study.metrics)
    assert not [e for arm in study.arms for e in study.edits(arm) if isinstance(e.select, Keys)]


@pytest.mark.parametrize("name", ["table2", "table6", "table20"])
def test_every_treated_arm_has_controls_of_each_kind(name: str) -> None:
    study = full(f"paper/{name}", "corrected")
    for arm in study.arms:
        edit = only(study, arm)
        if edit.control_info is None:
            kinds = {
                info.kind
                for other in study.arms
                for info in [only(study, other).control_info]
                if info is not None and info.of == edit.hash
            }
            assert kinds - {"null"} == {"count", "segment", "mass", "persistence"}
            assert edit.select.keys_per_head is not None
    assert study.equivalence == tuple(m for m in study.metrics if m == "clip_t")
    assert study.margins["clip_t"] == 0.01


def test_budgets_and_segments_are_equal_in_every_arm_of_table_16() -> None:
    study = full("paper/table16", "corrected")
    for arm, segment in (("text_1", "text"), ("image_1", "image"), ("sink_1", None)):
        assert only(study, arm).select == TopMass(keys_per_head=1, within=segment)


# ---- every preset, every variant


@pytest.mark.parametrize(("entry", "variant"), CASES, ids=NAMES)
def test_presets_are_data_for_any_model(entry: Preset, variant: str, tmp_path: Path) -> None:
    models = [entry.paper_model, "shapes-unet", *(["shapes", SDXL] if "joint" in entry.families else [])]
    for model in models:
        study = entry.study(variant, model=model)
        study.to_yaml(tmp_path / "study.yaml")
        assert Study.from_yaml(tmp_path / "study.yaml") == study
        assert study.name == f"{entry.name}:{variant}:{'demo' if model in EMBEDDED else 'full'}"
    assert set(entry.variants) == {"corrected", "as_released"}
    assert entry.question.endswith("?")
    assert all(number.startswith("D") for number in entry.repaired)


@pytest.mark.parametrize(("entry", "variant"), CASES, ids=NAMES)
def test_a_demo_takes_minutes(entry: Preset, variant: str) -> None:
    """0.3 s for an image of 20 steps on two cores; 600 such images are three minutes, scoring not counted."""
    study = entry.study(variant)
    count = len(resolve_prompts(study)) * len(study.seeds)
    evaluations = 0
    for arm in study.arm_names:
        sampling = study.sampling(arm)
        twice = 2 if "Heun" in (sampling["scheduler"] or "") else 1
        evaluations += count * sampling["steps"] * twice
    assert evaluations <= 620 * 20
    assert count >= 4


def test_layers_and_budgets_on_a_shallow_model() -> None:
    setting = Setting(facts("shapes"), "demo")
    assert setting.three == (1, 3, 4)
    assert setting.middle == {"layers": [3]}
    assert [setting.shared(k) for k in (1, 5, 10, 20, 50)] == [1, 3, 5, 10, 26]
    assert setting.per_head(1, 5) == (1, 5)
    assert setting.per_head(1, 5, 10, 20, 50) == (1, 2, 4, 8, 15)
    assert Setting(facts(SD3), "full").per_head(1, 10, 50) == (1, 10, 50)
    small = Setting(facts("shapes-unet"), "demo")  # 16 text keys
    assert small.ladder(1, 5, 10, 20, 50) == {1: 1, 20: 2, 50: 4}
    assert small.per_head(1, 10, 50) == (1, 3, 7)
    wide = Setting(facts(SDXL), "full")  # 77 text keys, half of them stay for the control
    assert wide.per_head(1, 5) == (1, 5)
    assert wide.per_head(1, 10, 50) == (1, 6, 37)
    assert setting.guidance(15.0, usual=7.5) == 2 * setting.model.guidance


# ---- names and mistakes


def test_other_names_of_a_preset() -> None:
    for alias, name in [
        ("table7", "table6"),
        ("table18", "table9"),
        ("table11", "table10"),
        ("figure2", "table1"),
    ]:
        assert preset(f"paper/{alias}").name == f"paper/{name}"
    assert preset("table6") is preset("paper/table6")
    with pytest.raises(UsageError, match="Unknown preset 'paper/tabel6'.*Did you mean 'paper/table6'"):
        preset("paper/tabel6")


def test_what_a_preset_refuses() -> None:
    table = preset("paper/table6")
    with pytest.raises(UsageError, match="Unknown variant of paper/table6 'corect'"):
        table.study("corect")
    with pytest.raises(UsageError, match="Unknown scale 'ful'"):
        table.study(scale="ful")
    with pytest.raises(UsageError, match="Unknown field of a study 'stpes'"):
        table.study(stpes=3)
    with pytest.raises(UsageError, match="n_prompts=1: arms are compared over prompts"):
        table.study(n_prompts=1)
    with pytest.raises(UsageError, match="equivalence is asked for 'scene', but margins has none"):
        table.study(margins={})
    with pytest.raises(UsageError, match="Cannot plan for 'nobody/nothing'"):
        table.study(model="nobody/nothing")
    with pytest.raises(UsageError, match="paper/table5 asks about a model with a UNet"):
        preset("paper/table5").study(model="shapes")


def test_other_metrics_keep_what_is_declared_for_them() -> None:
    study = preset("paper/table6").study(metrics=("ssim",), n_prompts=6)
    assert (study.metrics, study.margins, study.equivalence) == (("ssim",), {"ssim": 0.05}, ())
    given = preset("paper/table20").study("as_released", model=SD3, n_prompts=5, metrics=("clip_t",))
    assert len(resolve_prompts(given)) == 5
    assert given.metric_options == {"clip_t": {"checkpoint": "openai/clip-vit-base-patch32"}}


def test_repaired_faults_are_known_faults() -> None:
    for entry in ALL:
        for number in entry.repaired:
            assert 1 <= int(number[1:]) <= 63
    assert set(defects()) <= {f"D{number}" for number in range(1, 64)}


def test_a_package_may_add_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from sinkscope.recipes import Preset, Variant\n"
        "def build(m):\n"
        "    return {**m.stratified(full=8, demo=4), 'metrics': ('ssim',), 'arms': {}}\n"
        "mine = Preset(name='mine/one', title='t', question='q?', paper='none', variants={'only': "
        "Variant(build, 'text')})\n"
        "three = [3]\n"
    )
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sinkscope.recipes]\nmine = mine:mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    study = preset("mine/one").study()
    assert (study.name, study.n_prompts) == ("mine/one:only:demo", 4)
    for wrong, kind, message in (
        ("three", UsageError, "mine:three is .3.: expected a Preset"),
        ("four", MissingDependencyError, "'mine' .mine:four. cannot be imported"),
    ):
        (about / "entry_points.txt").write_text(f"[sinkscope.recipes]\nmine = mine:{wrong}\n")
        with pytest.raises(kind, match=message):
            presets()


# ---- runs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny pipelines as folders, as a user would have them."""
    made = {}
    for name, make in (("sd3", tiny_sd3), ("sdxl", tiny_sdxl)):
        made[name] = tmp_path_factory.mktemp(name) / "pipeline"
        make().save_pretrained(made[name])
    return made


@pytest.mark.parametrize("name", EMBEDDED)
def test_facts_of_the_embedded_models_are_those_of_their_files(name: str) -> None:
    from sinkscope import shapes

    known = facts(name)
    assert known.guidance == shapes.defaults(name)["guidance_scale"]
    try:
        folder = shapes.folder(name)
    except MissingWeightsError:
        pytest.skip(f"{name} is not in this checkout")
    read = facts(str(folder))
    same = ("family", "layers", "heads", "image")
    assert [getattr(read, entry) for entry in same] == [getattr(known, entry) for entry in same]
    longer = 256 - shapes.defaults(name)["max_sequence_length"] if name == "shapes" else 0
    assert read.text - longer == known.text


def test_facts_of_a_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    joint, unet = facts(str(folders["sd3"])), facts(str(folders["sdxl"]))
    assert (joint.family, joint.layers, joint.heads, joint.image) == ("joint", 3, 2, 16)
    assert (unet.family, unet.layers, unet.heads, unet.image, unet.text) == ("unet", 2, 2, 16, 14)
    broken = shutil.copytree(folders["sd3"], tmp_path / "broken")
    (broken / "transformer" / "config.json").write_text("{")
    with pytest.raises(UsageError, match="config.json is missing or damaged"):
        facts(str(broken))


RUNS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("sd3", "paper/table6", "as_released", {}),
    ("sd3", "paper/table16", "corrected", {}),
    ("sd3", "paper/table15", "as_released", {}),
    ("sdxl", "paper/table5", "corrected", {}),
    ("sdxl", "paper/table16", "as_released", {}),
    ("sdxl", "paper/table19", "as_released", {}),
]


@pytest.mark.parametrize(("kind", "name", "variant", "changes"), RUNS)
def test_presets_run_on_small_pipelines(
    folders: dict[str, Path], tmp_path: Path, kind: str, name: str, variant: str, changes: dict[str, Any]
) -> None:
    prompts = [{"id": text, "text": text} for text in ("cat", "dog")]
    small = {"steps": 2, "height": 16, "width": 16, "draws": 100, "prompts": prompts, "n_prompts": None}
    small |= {"prompt_order": "stratified", "metrics": ("rmse",), "observe": None, **changes}
    study = preset(name).study(variant, model=str(folders[kind]), scale="demo", **small)
    if name == "paper/table15":  # its own steps would only take longer
        arms = {arm: value for arm, value in study.arms.items() if "steps" not in arm}
        study = preset(name).study(variant, model=str(folders[kind]), scale="demo", **small, arms=arms)
    result = run(study, tmp_path / "run", progress=False)
    assert result.progress() == (2 * len(study.arm_names),) * 2
    effects = result.effects().query("task == 'all'")
    assert len(effects) == len(contrasts(study))
    assert set(result.receipts()["arm"]) == {arm for arm in study.arms if study.edits(arm)}
