"""The attention map: from configurations alone, with real modules and real shapes.

That its heads, queries and keys are those of a real run is tested for every family in `test_supported.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests import tiny
from tests.models.guard import state
from tests.zoo import SPECIMENS
from torch import Tensor, nn

from sinkscope import cli
from sinkscope.errors import MissingWeightsError, UsageError
from sinkscope.models import attention_map, sites


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pipelines of which only the configurations are left."""
    made = {}
    for name in ("sd3", "flux", "sdxl"):
        made[name] = tmp_path_factory.mktemp("bones") / name
        tiny.FAMILIES[name]().save_pretrained(made[name])
        for path in made[name].rglob("*"):
            if path.is_file() and path.name not in ("model_index.json", "config.json"):
                path.unlink()
    return made


def test_configurations_are_enough(folders: dict[str, Path]) -> None:
    found = attention_map(folders["sd3"], height=16, width=32, text=26)
    (part,) = found.parts
    assert found.pipeline == "StableDiffusion3Pipeline" and part.kind == "SD3Transformer2DModel"
    assert (found.size.height, found.size.width, found.size.assumed) == (16, 32, None)
    assert part.sites == tuple(sites(tiny.tiny_sd3()))
    assert part.calls is not None and [call.site.layer for call in part.calls] == [0, 1, 2]
    for call in part.calls:
        assert (call.site.kind, call.site.heads, call.rows) == ("joint", 2, 1)
        assert (call.queries, call.keys) == (58, 58)
        assert call.key_segments == {"image": 32, "text": 26}
    assert found.left_out == {
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "vae": "AutoencoderKL",
    }
    assert part.refused is None


def test_text_is_as_long_as_the_pipeline_makes_it(folders: dict[str, Path]) -> None:
    assert attention_map(folders["sd3"]).size.latent.text == tiny.TEXT + 256, (
        "CLIP and T5, one behind the other"
    )
    assert attention_map(folders["flux"], height=16, width=16).size.latent.text == 512
    assert attention_map(folders["sdxl"]).size.latent.text == tiny.TEXT


def test_costs_are_counted(folders: dict[str, Path]) -> None:
    (part,) = attention_map(folders["flux"], height=16, width=16, text=12).parts
    assert part.calls is not None and part.flops is not None
    for call in part.calls:
        assert call.flops == 4 * 2 * 28 * 28 * 16, "q.k and weights times v, for two heads of 16"
        assert call.measuring == call.flops // 2
        assert call.mass_bytes == 4 * 2 * 28
    model = tiny.tiny_flux().transformer
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            model(
                hidden_states=torch.randn(1, 16, 16),
                encoder_hidden_states=torch.randn(1, 12, 32),
                pooled_projections=torch.randn(1, 16),
                timestep=torch.ones(1),
                img_ids=torch.zeros(16, 3),
                txt_ids=torch.zeros(12, 3),
            )
    assert part.flops == counter.get_total_flops(), "an independent count of a real forward pass"


def test_models_that_are_built_are_not_touched() -> None:
    pipe = tiny.tiny_sdxl()
    before = state(pipe)
    found = attention_map(pipe, height=16, width=16)
    assert state(pipe) == before
    assert {parameter.device.type for parameter in pipe.unet.parameters()} == {"cpu"}
    (part,) = found.parts
    assert part.calls is not None and {call.site.kind for call in part.calls} == {"self", "cross"}
    assert attention_map(pipe.unet, height=64, width=64).size.assumed is not None


def test_denoisers_alone(folders: dict[str, Path]) -> None:
    found = attention_map(folders["flux"] / "transformer", height=64, width=64)
    assert found.pipeline == "FluxPipeline" and found.left_out == {}
    assert found.size.assumed == "8 x 8 pixels per latent, as no autoencoder is described"
    assert found.parts[0].calls is not None and found.parts[0].calls[0].key_segments["image"] == 16


def test_embedded_models_have_their_own_settings() -> None:
    (part,) = attention_map("shapes").parts
    assert part.calls is not None and part.calls[0].key_segments == {"image": 64, "text": 32}


def test_language_models() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    found = attention_map(LlamaForCausalLM(config), text=9)
    assert found.reads and not found.sees
    calls = found.parts[0].calls
    assert calls is not None
    assert [(call.site.kind, call.site.heads, call.queries, call.keys) for call in calls] == [
        ("causal", 4, 9, 9)
    ] * 2


def test_what_would_be_refused_is_said(folders: dict[str, Path]) -> None:
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=4,
        cross_attention_dim=8, caption_channels=8, sample_size=8,
    )  # fmt: skip
    (part,) = attention_map(model).parts
    assert part.refused is not None and "attn1 (Attention, SanaLinear" in part.refused
    assert part.calls is not None and [call.site.kind for call in part.calls] == ["cross"]


def test_autocast_is_as_before() -> None:
    before = torch.autocast.__init__
    attention_map(tiny.tiny_sd3(), height=16, width=16, text=26)
    assert torch.autocast.__init__ is before
    with pytest.raises(RuntimeError), torch.autocast("meta", torch.float32):
        pass


class Strange(nn.Module):
    """A model with a configuration whose inputs no rule knows."""

    config = {"size": 4}  # noqa: RUF012

    class SelfAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    def __init__(self) -> None:
        super().__init__()
        self.attn = self.SelfAttention()

    @classmethod
    def from_config(cls, config: Any) -> Strange:
        return cls()

    def forward(self, hidden_states: Tensor, weather: Tensor) -> Tensor:
        return self.attn(hidden_states + weather)


def test_inputs_that_no_rule_knows_leave_tokens_unknown() -> None:
    (part,) = attention_map(Strange()).parts
    assert part.calls is None and part.flops is None
    assert part.why == "Strange asks for 'weather'"
    assert [site.name for site in part.sites] == ["attn"]


def test_models_without_a_configuration() -> None:
    with pytest.raises(UsageError, match=r"Sequential has no config.*sinkscope.sites\(model\)"):
        attention_map(nn.Sequential(nn.MultiheadAttention(4, 1)))


@pytest.mark.parametrize("size", [{"height": 0}, {"text": -1}, {"frames": 0}])
def test_sizes_are_numbers_from_one(size: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=rf"Got {next(iter(size))}=.*expected a number from 1"):
        attention_map(tiny.tiny_sd15(), **size)


# ---- folders, files and hub ids


def test_folders_that_are_no_models(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no model: expected model_index.json or config.json"):
        attention_map(tmp_path)
    broken = Path(shutil.copytree(folders["sd3"], tmp_path / "broken"))
    (broken / "transformer" / "config.json").unlink()
    with pytest.raises(
        MissingWeightsError, match=r"transformer/config.json is missing.*SD3Transformer2DModel"
    ):
        attention_map(broken)
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "X", "vae": ["diffusers", "Y"]}))
    with pytest.raises(UsageError, match=r"has no denoiser: model_index.json names vae\."):
        attention_map(broken)
    (broken / "model_index.json").write_text("{")
    with pytest.raises(MissingWeightsError, match="No model can be built from the configurations of"):
        attention_map(broken)


def test_classes_that_this_version_lacks(folders: dict[str, Path], tmp_path: Path) -> None:
    newer = Path(shutil.copytree(folders["sd3"], tmp_path / "newer"))
    index = json.loads((newer / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "Tomorrow2DModel"]
    (newer / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"Tomorrow2DModel is no class of diffusers \d.*newer version"):
        attention_map(newer)


@pytest.fixture
def hub(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that has one pipeline and one denoiser, and writes down what is asked for."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked: list[str] = []
    repositories = {
        "owner/flux": folders["flux"],
        "owner/denoiser": folders["flux"] / "transformer",
        "stable-diffusion-v1-5/stable-diffusion-v1-5": folders["sdxl"],
    }

    def download(repository: str, name: str) -> str:
        asked.append(name)
        path = repositories[repository] / name
        if not path.is_file():
            raise EntryNotFoundError(f"404: {name}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_of_a_hub_id_only_configurations_are_fetched(hub: list[str]) -> None:
    found = attention_map("owner/flux", height=16, width=16)
    assert found.parts[0].calls is not None and len(found.parts[0].calls) == 4
    assert {name.rpartition("/")[2] for name in hub} == {"model_index.json", "config.json"}
    assert "transformer/config.json" in hub
    hub.clear()
    assert attention_map("owner/denoiser", height=64, width=64).parts[0].calls is not None
    assert hub == ["model_index.json", "config.json"]


def test_a_single_file_has_the_configuration_of_its_family(hub: list[str], tmp_path: Path) -> None:
    """Names and shapes of a checkpoint tell its family, diffusers the repository of that family."""
    path = tmp_path / "any.safetensors"
    name = "model.diffusion_model.output_blocks.11.0.skip_connection.weight"
    save_file({name: torch.zeros(320, 640, 1, 1)}, path)
    found = attention_map(path, height=16, width=16)
    assert found.parts[0].kind == "UNet2DConditionModel"
    assert "unet/config.json" in hub


def test_without_a_network_there_is_one_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args: Any, **kwargs: Any) -> None:
        raise LocalEntryNotFoundError("cannot find the requested files in the local cache\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(
        MissingWeightsError,
        match=r"'owner/name' is no folder here, and its configuration could not be fetched from the hub: "
        r"cannot find .*local cache\. Check the name.*config.json of each part into a folder\.$",
    ):
        attention_map("owner/name")
    assert cli.main(["sites", "owner/name"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# ---- the command


def test_the_command_prints_layers_tokens_cost_and_what_is_left_out(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sites", str(folders["sd3"]), "--height", "16", "--width", "16", "--text", "26"]) == 0
    out = capsys.readouterr().out
    for words in (
        "StableDiffusion3Pipeline: SD3Transformer2DModel",
        "one sample: 16 x 16 pixels, up to 26 text tokens",
        "0-2",
        "transformer_blocks.*.attn",
        "image 16, text 26",
        "% more FLOPs than a forward pass",
        "guidance: one batch: uncond, cond",
        "left out, being no denoisers: text_encoder (CLIPTextModelWithProjection)",
    ):
        assert words in out
    assert cli.main(["sites", str(folders["sd3"]), "--height", "16", "--width", "16", "--all"]) == 0
    assert "transformer_blocks.1.attn" in capsys.readouterr().out


def test_the_command_says_what_cannot_be_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sinkscope.models import _map
    from sinkscope.models._meta import skeleton

    monkeypatch.setattr(_map, "skeleton", lambda model: skeleton(Strange()))
    assert cli.main(["sites", "shapes"]) == 0
    out = capsys.readouterr().out
    assert "tokens are not known without running it: Strange asks for 'weather'" in out
    assert "Strange is in no family test" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "MODEL is missing"), (["shapes", "--families"], "both shapes and --families")],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sites", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [("lumina2", "a run has as many as its prompt"), ("kontext", "no picture to edit"), ("sd3", None)],
)
def test_lengths_that_only_a_call_brings_are_said_to_be_assumed(name: str, words: str | None) -> None:
    if name not in SPECIMENS:
        pytest.skip(f"these versions have no {name}")
    assumed = attention_map(SPECIMENS[name].build()).size.assumed
    assert assumed is None if words is None else words in (assumed or "")


def test_a_length_that_is_given_is_not_assumed() -> None:
    if "lumina2" not in SPECIMENS:
        pytest.skip("these versions have no lumina2")
    assert attention_map(SPECIMENS["lumina2"].build(), text=40).size.assumed is None
