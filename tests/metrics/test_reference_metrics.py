"""SSIM, MS-SSIM, RMSE and LPIPS against scikit-image and explicit formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tests.metrics.helpers import image, noisy, random_lpips

from sinkscope import metrics
from sinkscope.errors import MissingWeightsError, UsageError
from sinkscope.metrics import ImageError
from sinkscope.metrics._ssim import WEIGHTS, scales_for

NAMES = ["ssim", "ms_ssim", "rmse", "psnr"]
OPTIONS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return random_lpips(tmp_path_factory.mktemp("alex"))


@pytest.fixture(scope="module")
def lpips(files):
    return metrics.get("lpips", checkpoint=files, batch=2)


@pytest.mark.parametrize("size", [(64, 64), (97, 33), (11, 40)])
def test_ssim_equals_scikit_image(size):
    a = image(0, size)
    b = noisy(a)
    theirs = structural_similarity(np.asarray(a), np.asarray(b), channel_axis=-1, **OPTIONS)
    assert metrics.get("ssim").score([a], None, [b])[0] == pytest.approx(theirs, abs=1e-12)


def test_ms_ssim_on_64_pixels_uses_three_renormalised_scales():
    a = image(0)
    b = noisy(a)
    x, y = np.asarray(a).astype(float), np.asarray(b).astype(float)
    terms = []
    for _ in range(3):
        _, full = structural_similarity(x, y, channel_axis=-1, full=True, **OPTIONS)
        terms.append((x, y, full[5:-5, 5:-5]))
        x, y = (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2, 3).mean(axis=(1, 3)) for z in (x, y))
    weights = np.array(WEIGHTS[:3]) / sum(WEIGHTS[:3])
    # Contrast-structure alone: the SSIM map of a scale over its luminance map.
    expected = np.ones(3)
    for scale, (p, q, full) in enumerate(terms):
        term = full if scale == 2 else full / luminance(p, q)
        expected *= term.mean(axis=(0, 1)) ** weights[scale]
    assert metrics.get("ms_ssim").score([a], None, [b])[0] == pytest.approx(expected.mean(), abs=1e-12)


def luminance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    mx, my = (gaussian_filter(z, sigma=(1.5, 1.5, 0), truncate=3.5)[5:-5, 5:-5] for z in (x, y))
    c1 = (0.01 * 255) ** 2
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1)


@pytest.mark.parametrize(
    ("side", "count"), [(11, 1), (22, 2), (43, 2), (44, 3), (64, 3), (88, 4), (175, 4), (176, 5)]
)
def test_scales_that_fit(side, count):
    assert scales_for(side) == count


def test_ms_ssim_identity_tells_its_scales():
    scales = metrics.get("ms_ssim").identity()["scales"]
    assert scales == {
        "176 pixels or more": 5,
        "88 pixels or more": 4,
        "44 pixels or more": 3,
        "22 pixels or more": 2,
        "11 pixels or more": 1,
    }
    assert metrics.get("ms_ssim", scales=2).identity()["scales"] == 2
    with pytest.raises(ImageError, match="expected 176 for 5 scales"):
        metrics.get("ms_ssim", scales=5).score([image(0)], None, [image(1)])
    with pytest.raises(UsageError, match="scales=6"):
        metrics.get("ms_ssim", scales=6)


def test_rmse_known_answers():
    black, white = (Image.new("RGB", (8, 8), color) for color in ("black", "white"))
    half = Image.new("RGB", (8, 8), (255, 0, 0))
    values = metrics.get("rmse").score([black, black, half], None, [white, black, black])
    assert values == pytest.approx([1, 0, (1 / 3) ** 0.5])


@pytest.mark.parametrize("name", NAMES)
def test_identical_images(name):
    same = metrics.get(name).score([image(0)], None, [image(0)])
    best = {"rmse": 0.0, "psnr": 10 * np.log10(255**2 * 64 * 64 * 3)}
    assert same[0] == pytest.approx(best.get(name, 1.0), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_order_matches_direction(name):
    a = image(0)
    near, far = metrics.get(name).score([noisy(a, 5), noisy(a, 60)], None, [a, a])
    assert (near > far) == (metrics.get(name).direction == "higher")


@pytest.mark.parametrize("name", NAMES)
def test_references_are_needed_one_each_and_of_one_size(name):
    metric = metrics.get(name)
    with pytest.raises(UsageError, match="needs one reference per image"):
        metric.score([image(0)])
    with pytest.raises(UsageError, match="1 images and 2 references"):
        metric.score([image(0)], None, [image(0), image(1)])
    with pytest.raises(ImageError, match="64x64 and its reference 32x64"):
        metric.score([image(0)], None, [image(0, (32, 64))])


@pytest.mark.parametrize("name", ["ssim", "ms_ssim"])
def test_too_small_for_the_window(name):
    with pytest.raises(ImageError, match="at least 11"):
        metrics.get(name).score([image(0, (10, 64))], None, [image(1, (10, 64))])


def explicit_lpips(a: Image.Image, b: Image.Image, state: dict[str, torch.Tensor]) -> float:
    """AlexNet LPIPS written out once more, step by step."""
    layers = [("features.0", 4, 2), ("features.3", 1, 2), *((f"features.{i}", 1, 1) for i in (6, 8, 10))]
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = [(torch.tensor(np.array(z)) / 127.5 - 1 - shift) / scale for z in (a, b)]
    x = [z.permute(2, 0, 1)[None] for z in x]
    total = 0.0
    for index, (name, stride, padding) in enumerate(layers):
        if index in (1, 2):
            x = [F.max_pool2d(z, 3, 2) for z in x]
        x = [F.relu(F.conv2d(z, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)) for z in x]
        unit = [z / z.norm(dim=1, keepdim=True).clamp_min(1e-10) for z in x]
        weight = state[f"lin{index}.model.1.weight"].flatten()
        total += float(torch.einsum("bchw,c->bhw", (unit[0] - unit[1]) ** 2, weight).mean())
    return total


def test_lpips_equals_the_formula(lpips, files):
    state = load_file(files / "model.safetensors")
    images, others = [image(i) for i in range(3)], [image(i + 10) for i in range(3)]
    found = lpips.score(images, None, others)
    assert found == pytest.approx(
        [explicit_lpips(a, b, state) for a, b in zip(images, others, strict=True)], rel=1e-5
    )
    assert lpips.score(images, None, images).tolist() == [0, 0, 0]


def test_lpips_takes_images_of_several_sizes(lpips):
    pairs = [(image(0), image(1)), (image(2, (48, 70)), image(3, (48, 70))), (image(4), image(5))]
    together = lpips.score([a for a, _ in pairs], None, [b for _, b in pairs])
    assert together == pytest.approx([lpips.score([a], None, [b])[0] for a, b in pairs], rel=1e-5)
    with pytest.raises(ImageError, match="31 or more"):
        lpips.score([image(0, (30, 64))], None, [image(1, (30, 64))])


def test_lpips_identity_names_its_files(lpips):
    identity = lpips.identity()
    assert [source["file"] for source in identity["source"]] == ["backbone.pth", "linear.pth"]
    assert identity["released_weights"] is False and len(identity["sha256"]) == 64


@pytest.mark.slow
def test_vgg_runs(tmp_path):
    metric = metrics.get("lpips", net="vgg", checkpoint=random_lpips(tmp_path, "vgg"))
    near, far = metric.score([noisy(image(0), 3), image(1)], None, [image(0), image(0)])
    assert 0 < near < far


def test_absent_lpips_weights_say_what_and_how(monkeypatch, tmp_path):
    monkeypatch.setenv("SINKSCOPE_WEIGHTS", str(tmp_path))
    with pytest.raises(
        MissingWeightsError,
        match=r"alexnet-owt-7be5be79.pth \(244 MB\) and alex.pth .*curl -fLO https.*convert lpips-alex",
    ):
        metrics.get("lpips").score([image(0)], None, [image(1)])
    with pytest.raises(MissingWeightsError, match=r"vgg16-397923af.pth \(553 MB\)"):
        metrics.get("lpips", net="vgg").identity()


def test_the_wrong_network_is_named(files, tmp_path):
    with pytest.raises(UsageError, match=r"lacks 'features.2.weight' and \d+ more.*Name the right folder"):
        metrics.get("lpips", net="vgg", checkpoint=files).score([image(0)], None, [image(1)])
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UsageError, match=r"cannot be read.*curl"):
        metrics.get("lpips", checkpoint=tmp_path).score([image(0)], None, [image(1)])
    with pytest.raises(UsageError, match="Unknown LPIPS network"):
        metrics.get("lpips", net="squeeze")
    with pytest.raises(UsageError, match="batch=0"):
        metrics.get("lpips", batch=0)


@pytest.mark.parametrize("size", [(64, 64), (97, 33)])
def test_psnr_equals_scikit_image(size):
    a = image(0, size)
    theirs = peak_signal_noise_ratio(np.asarray(a), np.asarray(noisy(a)), data_range=255)
    assert metrics.get("psnr").score([noisy(a)], None, [a])[0] == pytest.approx(theirs, abs=1e-12)


def test_psnr_of_identical_images_is_that_of_one_grey_level():
    a = image(0, (8, 4))
    other = np.asarray(a).copy()
    other[0, 0, 0] ^= 1
    metric = metrics.get("psnr")
    same, least = metric.score([a, Image.fromarray(other)], None, [a, a])
    assert same == least == pytest.approx(48.1308036 + 10 * np.log10(3 * 8 * 4), abs=1e-6)
