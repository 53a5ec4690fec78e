"""The trainer on a minute model: it learns, and a run that was cut off continues to the same weights."""

from pathlib import Path

import pytest
import torch

from sinkscope import shapes
from sinkscope.errors import UsageError
from sinkscope.shapes.train.build import Size, token_ids
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.denoiser import Trainee, train_denoiser
from sinkscope.shapes.train.loop import Plan
from sinkscope.shapes.train.muon import Muon, _orthogonal
from sinkscope.shapes.train.vae import build_vae, train_vae
from sinkscope.shapes.train.warm import warm_start

SMALL = Size(layers=2, heads=1, head_dim=16, clip_width=8, joint_width=16)


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = token_ids(["a photo of a red circle", "a photo of two stars"] * 8)
    names = ("clip_l", "clip_g", "t5")
    return {
        "latent": torch.randn(16, 4, 16, 16, generator=generator).half(),
        "shape": torch.randint(9, (16, 64), generator=generator, dtype=torch.uint8),
        "color": torch.randint(11, (16, 64), generator=generator, dtype=torch.uint8),
        "task": torch.arange(16, dtype=torch.uint8) % 6,
        **{name: i.to(torch.int16) for name, i in zip(names, ids, strict=True)},
    }


def train(folder: Path, data: dict[str, torch.Tensor], plan: Plan) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    return train_denoiser(folder, data, plan, size=SMALL, device=torch.device("cpu")).state_dict()


def test_a_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, data: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sinkscope.shapes.train import denoiser, loop

    plan = Plan(steps=6, batch=4)
    whole = train(tmp_path / "whole", data, plan)
    original, calls = denoiser._loss, []

    def cut(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "_SAVE_EVERY", 2)
    monkeypatch.setattr(denoiser, "_loss", cut)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", data, plan)
    monkeypatch.setattr(denoiser, "_loss", original)
    resumed = train(tmp_path / "cut", data, plan)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_muon_updates_are_orthogonal_and_reduce_a_loss() -> None:
    update = _orthogonal(torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(1)))
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.6 and singular.max() < 1.3
    weight = torch.nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))
    optimizer = Muon([weight], lr=0.2)
    before = float((weight.detach() ** 2).sum())
    for _ in range(20):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert float((weight.detach() ** 2).sum()) < 0.5 * before


def test_a_warm_start_holds_the_exported_weights(tmp_path: Path) -> None:
    model = shapes.folder().parent
    warm_start(tmp_path, model, size=Size(), vae_steps=1, clip_steps=1)
    trainee, averaged = Trainee(Size()), Trainee(Size())
    checkpoint = Checkpoint(tmp_path / "denoiser", {"model": trainee, "averaged": averaged})
    assert checkpoint.restore() == 0
    pipe = shapes.load()
    for mine, shipped in (
        (averaged.transformer, pipe.transformer),
        (trainee.conditioner.clip_g, pipe.text_encoder_2),
        (trainee.conditioner.t5, pipe.text_encoder_3),
    ):
        exported = shipped.state_dict()
        assert all(torch.equal(value, exported[name]) for name, value in mine.state_dict().items())
    assert train_vae(tmp_path, steps=1, batch=1, device=torch.device("cpu")) is not None
    with pytest.raises(UsageError, match="Expected an empty folder"):
        warm_start(tmp_path, model, size=Size(), vae_steps=1, clip_steps=1)


def test_the_autoencoder_has_sd3s_shape_at_a_quarter() -> None:
    vae = build_vae()
    with torch.inference_mode():
        latent = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
        assert latent.shape == (1, 4, 16, 16)
        assert vae.decode(latent).sample.shape == (1, 3, 64, 64)
