"""Video and audio models as a user meets them: places in frames, the default queries, edits and controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from tests.zoo import SPECIMENS
from tests.zoo.records import built

import sinkscope as sk
from sinkscope.attention import default_group
from sinkscope.errors import UsageError
from sinkscope.identity import persistence
from sinkscope.models._grid import visual_places


class Config:
    """What a denoiser's configuration says about its latents."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


@pytest.mark.parametrize(
    ("shape", "count", "config", "axes", "last"),
    [
        ((1, 4, 3, 4, 6), 18, Config(patch_size=2), "cfhw", (2, 1, 2)),
        ((1, 3, 4, 4, 6), 18, Config(patch_size=2), "fchw", (2, 1, 2)),
        ((1, 4, 4, 6, 16), 24, Config(patch_size=(1, 2, 2)), "fhwc", (3, 1, 2)),
        ((1, 16, 4, 4, 6), 12, Config(patch_size=2, patch_size_t=2), "cfhw", (1, 1, 2)),
        ((1, 4, 3, 4, 6), 18, Config(patch_size=2, in_channels=4), None, (2, 1, 2)),
        ((1, 3, 4, 4, 6), 18, Config(patch_size=2, in_channels=4), None, (2, 1, 2)),
    ],
)
def test_places_in_joint_attention(
    shape: tuple[int, ...], count: int, config: Config, axes: str | None, last: tuple[int, ...]
) -> None:
    places = visual_places({"hidden_states": torch.zeros(shape)}, count, config=config, axes=axes)
    assert places is not None and len(places) == 1
    assert [places[0][0], places[0][-1]] == [(0, 0, 0), last]
    assert places[0] == sorted(set(places[0])), "frame by frame, row by row"


def test_places_of_packed_latents() -> None:
    inputs = {"hidden_states": torch.zeros(1, 12, 8), "num_frames": 2, "height": 2, "width": 3}
    places = visual_places(inputs, 12)
    assert places is not None and places[0][-1] == (1, 1, 2)


def test_places_of_folded_rows() -> None:
    inputs = {"sample": torch.zeros(2, 4, 3, 4, 6)}
    within = visual_places(inputs, 6, axes="cfhw", folds=3)
    assert within is not None
    assert [(fold[0], fold[-1]) for fold in within] == [((f, 0, 0), (f, 1, 2)) for f in range(3)]
    over_time = visual_places(inputs, 3, axes="cfhw", folds=6, temporal=True)
    assert over_time is not None
    assert over_time[4] == [(frame, 1, 1) for frame in range(3)]


@pytest.mark.parametrize(
    "given",
    [
        {"count": 17, "axes": "cfhw"},  # no whole number of tokens
        {"count": 18},  # nobody says which axis holds the channels
        {"count": 18, "config": Config(in_channels=3)},  # two axes may hold them
        {"count": 6, "axes": "cfhw", "folds": 5},  # rows that are neither frames ...
        {"count": 4, "axes": "cfhw", "folds": 6, "temporal": True},  # ... nor places
    ],
)
def test_places_are_not_guessed(given: dict[str, Any]) -> None:
    assert visual_places({"sample": torch.zeros(1, 3, 3, 4, 6)}, **{"count": 18, **given}) is None


def test_windows_of_an_image_have_no_places() -> None:
    assert visual_places({"hidden_states": torch.zeros(1, 4, 8, 8)}, 16, folds=4) is None


def test_the_default_queries_are_those_of_what_is_painted() -> None:
    assert default_group(["text", "image"]) == "image"
    assert default_group(["video", "text", "image"]) == "video", "a picture beside the video is a condition"
    assert default_group(["global", "audio"]) == "audio"
    assert default_group(["text"]) == "all"


def test_one_call_per_row_is_one_site() -> None:
    """Mochi calls its attention once per row, over as many text tokens as the row has."""
    specimen = SPECIMENS["mochi"]
    with sk.observe(built(specimen), layers=[0]) as seen:
        specimen.run(built(specimen), prompt=["a cat", "an owl"])
    table = seen.sinks()
    assert set(table["site"]) == {"transformer_blocks.0.attn1"}
    assert table.groupby(["branch", "unit"]).ngroups == 4
    mass = seen.mass(layer=0)
    assert mass.shape[1:] == (4, 2, 18 + 8), "the longest text has eight tokens"
    assert torch.allclose(mass.nansum(-1), torch.ones(mass.shape[:-1]))
    assert [int(row[0].isnan().sum()) for row in mass[0]] == [7, 7, 1, 0], "an empty text is one end mark"


@pytest.mark.parametrize("name", ["mochi", "cogvideox"])
def test_random_controls_do_not_depend_on_the_batch(name: str) -> None:
    specimen, pipe = SPECIMENS[name], built(SPECIMENS[name])
    edit = sk.Edit(sk.TopMass(keys_per_head=1), sk.Mask(), layers=[0]).control("count", seed=3)
    found = []
    for prompts in (["a cat", "an owl"], ["an owl"]):
        with sk.intervene(pipe, edit, units=prompts) as receipt:
            specimen.run(pipe, prompt=prompts)
        table = receipt.edited_keys()
        found.append(table[(table.unit == "an owl") & (table.step == 0)])
    columns = ["branch", "layer", "head", "key"]
    both, alone = (table[columns].sort_values(columns).to_numpy().tolist() for table in found)
    assert both == alone and len(alone) == 4


def test_frames_and_places_folded_into_rows_are_told_apart() -> None:
    specimen, pipe = SPECIMENS["animatediff"], built(SPECIMENS["animatediff"])
    with sk.observe(pipe, kind="all") as seen:
        specimen.run(pipe, num_inference_steps=1)
    table = seen.sinks()
    assert list(table.columns[-2:]) == ["repeat", "frame"]
    over_time = table[table["site"].str.contains("motion_modules")]
    assert (over_time["frame"] == over_time["key"]).all(), "the keys are the frames of one place"
    first = over_time[over_time["site"] == over_time["site"].iloc[0]]
    assert (4 * first["image_row"] + first["image_column"] == first["repeat"]).all()
    within = table[table["segment"].eq("video") & ~table["site"].str.contains("motion_modules")]
    assert (within["frame"] == within["repeat"]).all()
    assert (within["image_row"] * 2 + within["image_column"] == within["key"]).all()
    text = table[table["segment"] == "text"]
    assert text["frame"].isna().all() and set(text["repeat"]) == {0, 1, 2}
    place = ["step", "branch", "unit", "site", "head", "repeat"]
    assert not table.duplicated(place).any() and not seen.summary().duplicated([*place[:4], "repeat"]).any()


def test_identity_keeps_folded_rows_apart() -> None:
    """A sink of one place over time is no sink of another."""
    rows = [(step, repeat, repeat + step * repeat) for step in range(2) for repeat in range(3)]
    table = pd.DataFrame(rows, columns=["step", "repeat", "key"]).assign(site="m", layer=0, head=0, unit="a")
    assert persistence(table)["persistence"].tolist() == [1.0, 0.5, 0.5] * 2


def test_image_models_have_no_further_columns() -> None:
    specimen, pipe = SPECIMENS["sd3"], built(SPECIMENS["sd3"])
    with sk.observe(pipe, layers=[0]) as seen:
        specimen.run(pipe, num_inference_steps=1)
    assert list(seen.sinks().columns[-2:]) == ["queries", "evaluation"]
    assert not {"frame", "repeat"} & set(seen.summary().columns)


_PLACE = ["branch", "unit", "head"]


@pytest.mark.parametrize("name", ["wan22", "cogvideox", "mochi", "animatediff"])
def test_sinks_of_a_video_are_removed_and_matched(name: str) -> None:
    """Both experts, one batch, one call per row, attention over time."""
    specimen, pipe = SPECIMENS[name], built(SPECIMENS[name])
    kind = {"wan22": "self", "animatediff": "temporal"}.get(name)
    edit = sk.Edit(sk.TopMass(keys_per_head=1), sk.Mask(), kind=kind)
    plain = specimen.run(pipe)
    with sk.intervene(pipe, edit) as receipt:
        assert not torch.equal(specimen.run(pipe), plain)
    taken, table = receipt.edited_keys(), receipt.table()
    assert set(taken["queries"]) == {"video"}, "the queries of the video choose, and are counted"
    assert (table["keys"] == 1).all() and (table["mass_after"] == 0).all()
    if name == "wan22":
        assert set(table["site"].str.partition(".")[0]) == {"transformer", "transformer_2"}
    for control in ("count", "segment", "mass"):
        with sk.intervene(pipe, edit.control(control, seed=0)) as other:
            specimen.run(pipe)
        matched = other.table()
        assert len(matched) == len(table)
        if control == "mass":
            continue
        assert (matched["keys"] == 1).all()
        if control == "segment":
            # Later calls see what earlier edits did, and the treatment would take other keys there.
            first = [
                keys[(keys["step"] == 0) & (keys["site"] == table["site"].iloc[0])].sort_values(_PLACE)
                for keys in (taken, other.edited_keys())
            ]
            assert first[0]["segment"].tolist() == first[1]["segment"].tolist()
    with sk.intervene(pipe, edit.control("null")):
        assert torch.equal(specimen.run(pipe), plain)


@pytest.mark.parametrize(
    ("name", "argument", "makes"),
    [
        ("wan_i2v", "image", "makes a video from a picture or from another video"),
        ("svd", "image", "makes a video from a picture or from another video"),
        ("stable_audio", "audio_end_in_s", "makes audio"),
    ],
)
def test_a_study_refuses_what_prompts_are_not_enough_for(
    name: str, argument: str, makes: str, tmp_path: Path
) -> None:
    edit = sk.Edit(sk.TopMass(keys_per_head=1), sk.Mask(), kind="self")
    study = sk.Study(model="tiny", prompts="shapes", arms={"sink": edit}, metrics=["rmse"], n_prompts=2)
    with pytest.raises(UsageError, match=rf"it takes '{argument}'\) {makes}, but.*sinkscope.observe"):
        sk.run(study, out=tmp_path / "run", pipe=built(SPECIMENS[name]), progress=False)


def test_the_timestep_where_tokens_have_their_own() -> None:
    """Wan 2.2 tells the tokens of a given first frame that they are clean."""
    model = built(SPECIMENS["wan21"]).transformer
    timestep = torch.full((1, 18), 750.0)
    timestep[:, :6] = 0.0
    with sk.observe(model, kind="cross") as seen, torch.no_grad():
        model(torch.zeros(1, 16, 3, 4, 6), timestep, torch.zeros(1, 12, 32))
    assert set(seen.sinks()["timestep"]) == {750.0}


@pytest.mark.parametrize(("name", "windows"), [("helios", {"num_frames": 18}), ("wan_animate", {})])
def test_the_next_window_of_a_video_is_not_the_next_video(name: str, windows: dict[str, Any]) -> None:
    """Its steps run on; another call of the pipeline holds the next unit."""
    if name not in SPECIMENS:
        pytest.skip(f"diffusers lacks the classes of {name}")
    specimen, pipe = SPECIMENS[name], built(SPECIMENS[name])
    if name == "wan_animate":  # the second segment goes on from the last frame of the first
        windows = {
            "pose_video": [Image.new("RGB", (48, 32), (10 * i, 90, 50)) for i in range(17)],
            "face_video": [Image.new("RGB", (16, 16), (50, 10 * i, 90)) for i in range(17)],
        }
    with sk.observe(pipe, layers=[0], kind="self") as seen:
        specimen.run(pipe, **windows)
        specimen.run(pipe, **windows)
    told = seen.sinks()[["unit", "step"]].drop_duplicates()
    assert sorted(map(tuple, told.to_numpy().tolist())) == [(u, s) for u in (0, 1) for s in range(4)]
    assert (seen.sinks().groupby(["unit", "step"])["timestep"].nunique() == 1).all()
