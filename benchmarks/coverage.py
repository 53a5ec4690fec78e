"""Do the intervals hold what they promise? Simulated studies with a known truth.

    OMP_NUM_THREADS=1 nice -n 5 python benchmarks/coverage.py [--studies 4000] [--draws 2000]

Prints the tables of docs/power.md: how often 95 % intervals hold the true mean, how often TOST accepts
equivalence when the true effect lies exactly at the margin, how often the tests reject when nothing is there,
and the same for ratios, thresholds and margins measured from seeds. One study is `n` prompts. Studies are
analysed in chunks that share bootstrap draws.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from sinkscope import stats
from sinkscope.stats import _bootstrap as bootstrap

SIZES = (32, 64, 96, 553)
CHUNK = 250
METHODS = ("bca", "percentile", "studentised", "t")
Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def binary(down: float, up: float) -> Draw:
    """Differences of two 0/1 scores."""
    share = [down, 1 - down - up, up]
    return lambda rng, rows, n: rng.choice([-1.0, 0.0, 1.0], p=share, size=(rows, n))


def clustered(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Means of 4 seeds: a skewed effect of the prompt and twice as much noise between seeds."""
    return rng.exponential(size=(rows, n)) + 2 * rng.normal(size=(rows, n, 4)).mean(axis=2)


CASES: dict[str, tuple[Draw, float, float]] = {
    # name: (draws [study, prompt], true mean, true standard deviation)
    "normal": (lambda rng, rows, n: rng.normal(size=(rows, n)), 0.0, 1.0),
    "skewed (exponential)": (lambda rng, rows, n: rng.exponential(size=(rows, n)), 1.0, 1.0),
    "very skewed (log-normal)": (
        lambda rng, rows, n: rng.lognormal(0, 0.75, size=(rows, n)),
        float(np.exp(0.75**2 / 2)),
        float(np.exp(0.75**2 / 2) * np.sqrt(np.exp(0.75**2) - 1)),
    ),
    "0/1, 25 % change": (binary(0.05, 0.20), 0.15, float(np.sqrt(0.25 - 0.15**2))),
    "0/1, 6 % change": (binary(0.01, 0.05), 0.04, float(np.sqrt(0.06 - 0.04**2))),
    "4 seeds per prompt": (clustered, 1.0, float(np.sqrt(1 + 1))),
}


def chunks(seed: str, n: int, draw: Draw, studies: int) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    for start in range(0, studies, CHUNK):
        rng = stats.keyed_generator(2024, seed, n, start)
        yield draw(rng, min(CHUNK, studies - start), n), rng


def moments(rows: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`resampled_means(spread=True)` as two matrix products over how often each prompt was drawn."""
    n = rows.shape[1]
    index = np.concatenate(list(bootstrap.resamples(n, draws, rng)))
    flat = np.bincount((index + n * np.arange(draws)[:, None]).ravel(), minlength=draws * n)
    share = flat.reshape(draws, n) / n
    center = rows.mean(axis=1, keepdims=True)
    means, squares = ((share @ ((rows - center) ** power).T).T for power in (1, 2))
    spreads = np.sqrt(np.maximum(squares - means**2, 0) * n / (n - 1))
    # A resample of equal values has no spread; the products leave rounding in its place.
    spreads[spreads < 1e-6 * np.abs(rows).max(axis=1, keepdims=True)] = 0
    return means + center, spreads


def intervals(
    rows: np.ndarray, draws: int, rng: np.random.Generator, levels: tuple[float, ...]
) -> dict[str, np.ndarray]:
    """Method -> `[level, 2, study]`, as `mean_interval` makes them, all from the same draws."""
    mean = rows.mean(axis=1)
    found = {name: np.stack([np.stack([mean, mean])] * len(levels)) for name in METHODS}
    varied = ~bootstrap.is_constant(rows)
    live = rows[varied]
    means, spreads = moments(live, draws, rng)
    skew = bootstrap.acceleration(-live)
    found["bca"][:, :, varied] = bootstrap.bca_ends(means, mean[varied], skew, levels)
    found["percentile"][:, :, varied] = bootstrap.percentile_ends(means, levels)
    found["studentised"][:, :, varied] = bootstrap.studentised_ends(means, spreads, live, levels)
    for i, interval in enumerate(stats.mean_interval(rows, method="t", levels=levels, rng=rng)):
        found["t"][i] = interval
    return found


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"\n**{title}**\n")
    for line in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(line) + " |")
    sys.stdout.flush()


def percent(values: list[np.ndarray]) -> str:
    return f"{100 * np.concatenate(values).mean():.1f}"


def coverage(studies: int, draws: int) -> None:
    out, accepted = [], []
    for name, (draw, truth, sd) in CASES.items():
        for n in SIZES:
            hits: dict[str, list[np.ndarray]] = {m: [] for m in (*METHODS, "proportions")}
            false: dict[str, list[np.ndarray]] = {"tost": [], "bca": [], "rule": []}
            for rows, rng in chunks(name, n, draw, studies):
                found = intervals(rows, draws, rng, (0.95, 0.90))
                for method, ends in found.items():
                    hits[method].append((ends[0, 0] <= truth) & (truth <= ends[0, 1]))
                if name.startswith("0/1"):
                    low, high = stats.paired_proportions(rows)
                    hits["proportions"].append((low <= truth) & (truth <= high))
                if name.startswith("0/1"):
                    continue
                # The true effect is put at either margin; four standard errors keep the other one out of it.
                margin = 4 * sd / np.sqrt(n)
                for side in (margin, -margin):
                    p = stats.tost(rows - truth + side, margin).p < 0.05
                    false["tost"].append(p)
                    for methods, key in ((("bca",), "bca"), (("bca", "studentised"), "rule")):
                        ends = [found[method][1] - truth + side for method in methods]
                        held = [(low > -margin) & (high < margin) for low, high in ends]
                        false[key].append(p & np.all(held, axis=0))
            cells = [percent(hits[m]) if hits[m] else "" for m in hits]
            out.append([name if n == SIZES[0] else "", str(n), *cells])
            if name.startswith("0/1"):
                continue
            sides = [f"{100 * np.concatenate(false[k][s::2]).mean():.1f}" for k in false for s in (0, 1)]
            accepted.append([name if n == SIZES[0] else "", str(n), *sides])
    head = ["differences", "n", "BCa", "percentile", "studentised", "t", "paired proportions"]
    table("95 % intervals: how many of 100 hold the true mean", head, out)
    parts = ("TOST", "and BCa", "the rule")
    head = ["differences", "n", *(f"{part}, {side}" for part in parts for side in ("+m", "-m"))]
    table("True effect at the margin: accepted as equivalent, of 100", head, accepted)


def flips(studies: int, draws: int) -> None:
    """0/1 scores whose accuracy truly changes by the margin 0.1 (12 % of the prompts gain, 2 % lose)."""
    out = []
    for n in (*SIZES, 1000):
        accepted: dict[str, list[np.ndarray]] = {"tost": [], "bca": [], "t and proportions": [], "power": []}
        for rows, rng in chunks("flips", n, binary(0.02, 0.12), studies):
            p = stats.tost(rows, 0.1).p < 0.05
            bca = stats.Interval(*intervals(rows, draws, rng, (0.90,))["bca"][0])
            wide = stats.paired_proportions(rows, level=0.90)
            rule = p & (bca.low > -0.1) & (bca.high < 0.1)
            accepted["tost"].append(p)
            accepted["bca"].append(rule)
            accepted["t and proportions"].append(rule & (wide.low > -0.1) & (wide.high < 0.1))
            same = binary(0.03, 0.03)(rng, len(rows), n)
            low, high = stats.paired_proportions(same, level=0.90)
            accepted["power"].append((stats.tost(same, 0.1).p < 0.05) & (low > -0.1) & (high < 0.1))
        out.append([str(n), *map(percent, accepted.values())])
    head = [
        "n",
        "TOST",
        "TOST and BCa",
        "the rule: and paired proportions",
        "the rule, true change 0 (6 % flip)",
    ]
    table("0/1 scores, true change at the margin 0.1: accepted as equivalent, of 100", head, out)


def tests(studies: int, draws: int) -> None:
    nulls: dict[str, Draw] = {
        "normal": CASES["normal"][0],
        "skewed, both signs": lambda rng, rows, n: (
            rng.exponential(size=(rows, n)) - rng.exponential(size=(rows, n))
        ),
        "0/1, 20 % change": binary(0.1, 0.1),
        "0/1, 4 % change": binary(0.02, 0.02),
    }
    out = []
    for name, draw in nulls.items():
        for n in SIZES:
            hits: dict[str, list[np.ndarray]] = {"t": [], "wilcoxon": [], "flip": []}
            for rows, rng in chunks("null " + name, n, draw, studies):
                hits["t"].append(stats.paired_t(rows) < 0.05)
                hits["wilcoxon"].append(stats.wilcoxon(rows) < 0.05)
                hits["flip"].append(stats.sign_flip(rows, draws=draws, rng=rng) < 0.05)
            out.append([name if n == SIZES[0] else "", str(n), *map(percent, hits.values())])
    table("No effect: rejected at 5 %, of 100", ["differences", "n", "t", "Wilcoxon", "sign flip"], out)


def ratio(studies: int, draws: int) -> None:
    out = []
    for n in SIZES[:3]:
        bca, fieller, ratios = [], [], []
        for index in range(studies):
            rng = stats.keyed_generator(7, "ratio", n, index)
            share = rng.gamma(4, size=n)  # prompts that are easy to change are so in both arms
            control = share * rng.gamma(2, size=n)
            edit = 6 * share * rng.gamma(6, size=n) / 3
            found = stats.ratio_of_means(edit, control, draws=draws, rng=rng)
            bca.append(found.low <= 6 <= found.high)
            fieller.append(found.fieller_low <= 6 <= found.fieller_high)
            ratios.append(found.ratio)
        cells = [f"{100 * np.mean(hit):.1f}" for hit in (bca, fieller)]
        out.append([str(n), *cells, f"{np.median(ratios):.2f}"])
    table("Ratio of mean distances, truth 6", ["n", "BCa", "Fieller", "median estimate"], out)


def seeds(studies: int, draws: int) -> None:
    """Two-level resampling, and a margin measured from seeds with the true effect at the true noise."""
    out = []
    for n in (32, 96):
        prompt = np.repeat(np.arange(n), 4)
        plain, double = [], []
        for index in range(studies):
            rng = stats.keyed_generator(8, "two-level", n, index)
            values = np.repeat(rng.exponential(size=n), 4) + 2 * rng.normal(size=4 * n)
            for within, hits in ((False, plain), (True, double)):
                low, high = stats.clustered_interval(
                    values, prompt, within=within, draws=max(draws // 10, 100), rng=rng
                )[0]
                hits.append(low <= 1 <= high)
        out.append([str(n), *(f"{100 * np.mean(hits):.1f}" for hits in (plain, double))])
    table("4 seeds per prompt, values of units", ["n", "prompts", "prompts, then seeds"], out)
    out = []
    truth = 2 / np.sqrt(np.pi)  # mean absolute difference of two standard normals
    for n in SIZES:
        rows: dict[str, list[np.ndarray]] = {"low end": [], "estimate": []}
        for start in range(0, studies, CHUNK):
            rng = stats.keyed_generator(9, "seed margin", n, start)
            base = rng.normal(size=(CHUNK, n, 2))
            noise = np.abs(base[..., 0] - base[..., 1])
            low = stats.mean_interval(noise, levels=(0.90,), draws=draws, rng=rng)[0].low
            d = (truth + rng.normal(size=(CHUNK, n, 2)) - base).mean(axis=2)
            for key, margin in (("low end", low), ("estimate", noise.mean(axis=1))):
                rows[key].append(
                    np.array([float(stats.tost(x, m).p) < 0.05 for x, m in zip(d, margin, strict=True)])
                )
        out.append([str(n), *map(percent, rows.values())])
    head = ["n", "margin: low end (default)", "margin: estimate"]
    table('Margin "seed", true effect at the true noise: accepted, of 100', head, out)


def threshold(studies: int, draws: int) -> None:
    doses = np.array([1.0, 2, 4, 8, 16, 32])
    means = np.array([0.0, 0.05, 0.15, 0.35, 0.6, 0.9])  # leaves the margin 0.25 at dose 8
    out = []
    for n in SIZES[:3]:
        held, early, reached, within = [], [], [], []
        for index in range(studies):
            rng = stats.keyed_generator(10, "threshold", n, index)
            noise = 0.6 * rng.normal(size=(1, n)) + 0.8 * rng.normal(size=(6, n))
            d = means[:, None] + noise
            found = stats.find_boundary(d, doses, 0.25, draws=max(draws // 4, 100), rng=rng)
            held.append(found.threshold_low <= 8 <= found.threshold_high)
            early.append(found.boundary < 8)
            reached.append(np.isfinite(found.boundary))
            within.append(found.within >= 8)
        out.append([str(n), *(f"{100 * np.mean(x):.1f}" for x in (held, early, within, reached))])
    head = ["n", "threshold interval holds 8", "boundary below 8", "`within` reaches 8", "boundary reached"]
    table("Ladder of doses, the mean leaves the margin at dose 8; of 100", head, out)


def check_moments() -> None:
    """The matrix products give what the library gives."""
    rows = np.random.default_rng(0).exponential(size=(3, 40))
    expected = bootstrap.resampled_means(rows, 300, stats.keyed_generator(1), spread=True)
    for ours, theirs in zip(moments(rows, 300, stats.keyed_generator(1)), expected, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000, help="simulated studies per case")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap draws")
    parser.add_argument("--only", help="coverage, flips, tests, ratio, threshold, seeds")
    arguments = parser.parse_args()
    began = time.perf_counter()
    check_moments()
    for part in (coverage, flips, tests, ratio, threshold, seeds):
        if arguments.only is None or part.__name__ in arguments.only.split(","):
            fewer = part not in (coverage, flips)
            part(arguments.studies // (2 if fewer else 1), arguments.draws)
    print(f"\n{arguments.studies} studies per case, half of them from the tests on", end=", ")
    print(f"{arguments.draws} draws", end=", ")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
