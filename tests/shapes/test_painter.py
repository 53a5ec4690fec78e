import numpy as np
import pytest

from sinkscope.shapes.painter import BACKGROUND, COLORS, PALETTE, SHAPES, SIZE, Scenes, coverage, paint


def one(shape: str, color: str, radius: float = 15.0) -> Scenes:
    return Scenes(
        np.array([[SHAPES.index(shape), -1, -1, -1]]),
        np.array([[COLORS.index(color), 0, 0, 0]]),
        np.full((1, 4, 2), SIZE / 2, dtype=np.float32),
        np.full((1, 4), radius, dtype=np.float32),
    )


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi * 0.95**2),
        ("square", 1.64**2),
        ("diamond", 2 * 1.12**2),
        ("cross", 2 * 1.96 * 0.64 - 0.64**2),
    ],
)
def test_covered_area_is_the_shapes_area(shape: str, area: float) -> None:
    alpha = coverage(shape, np.full((1, 2), 128.0, np.float32), np.array([100.0], np.float32), 256)
    assert alpha.sum() == pytest.approx(area * 100**2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_within_their_reach_and_are_symmetric(shape: str) -> None:
    alpha = coverage(shape, np.full((1, 2), 32.0, np.float32), np.array([20.0], np.float32))[0]
    y, x = np.nonzero(alpha > 0.5)
    assert np.hypot(x + 0.5 - 32, y + 0.5 - 32).max() <= 20 * 1.18
    np.testing.assert_allclose(alpha, alpha[:, ::-1], atol=1e-4)


def test_colours_and_background_are_exact() -> None:
    for color in COLORS:
        image = paint(one("square", color))[0]
        assert tuple(image[32, 32]) == PALETTE[color]
        assert tuple(image[0, 0]) == BACKGROUND


def test_an_empty_scene_is_background() -> None:
    scenes = one("circle", "red")
    empty = Scenes(np.full_like(scenes.shape, -1), scenes.color, scenes.center, scenes.radius)
    assert (paint(empty) == np.array(BACKGROUND)).all()
