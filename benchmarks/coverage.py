"""Do the intervals hold what they promise? Simulated studies with a known truth.

    OMP_NUM_THREADS=1 nice -n 5 python benchmarks/coverage.py [--studies 2000] [--draws 2000] [--only ratio]

Prints the tables of docs/power.md: how often 95 % intervals hold the true mean, how often equivalence is
accepted when the true effect lies exactly at the margin, how often the tests reject when nothing is there,
and the same for ratios, thresholds and margins measured from seeds. One study is `n` prompts. Studies are
analysed in chunks that share bootstrap draws. The default interval of the table of effects is "combined", for
0/1 scores "proportions".
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from sinkscope import stats
from sinkscope.stats import _bootstrap as bootstrap

SIZES = (16, 32, 48, 96, 200)
CHUNK = 250
METHODS = ("combined", "t", "studentised", "bca", "percentile")
Draw = Callable[[np.random.Generator, int, int], np.ndarray]
MARGIN = 4
"""Margins in standard errors: far enough that only one side of the margin matters."""


def binary(down: float, up: float) -> Draw:
    """Differences of two 0/1 scores."""
    share = [down, 1 - down - up, up]
    return lambda rng, rows, n: rng.choice([-1.0, 0.0, 1.0], p=share, size=(rows, n))


def seeds_of_flips(change: float, alike: float, up: float, seeds: int, *, fixed: bool) -> Draw:
    """Mean differences of 0/1 scores over seeds `[study, prompt]`.

    Each prompt has its own chance to change (beta with mean `change` and correlation `alike` between seeds);
    a change goes up with chance `up`, drawn once per prompt (`fixed`) or anew for each seed.
    """

    def draw(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
        spread = 1 / alike - 1
        chance = rng.beta(change * spread, (1 - change) * spread, size=(rows, n, 1))
        changed = rng.random((rows, n, seeds)) < chance
        signs = rng.random((rows, n, 1 if fixed else seeds)) < up
        return (changed * np.where(signs, 1.0, -1.0)).mean(axis=2)

    return draw


def clustered(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Means of 4 seeds: a skewed effect of the prompt and twice as much noise between seeds."""
    return rng.exponential(size=(rows, n)) + 2 * rng.normal(size=(rows, n, 4)).mean(axis=2)


def lognormal(sigma: float) -> tuple[Draw, float]:
    return (
        lambda rng, rows, n: rng.lognormal(0, sigma, size=(rows, n)),
        float(np.exp(sigma**2 / 2)),
    )


def mostly_zero(share: float) -> tuple[Draw, float]:
    """Most images are the same in both arms, the others change by 1 on average."""
    return (
        lambda rng, rows, n: (rng.random((rows, n)) < share) * rng.normal(1, 1, size=(rows, n)),
        share,
    )


CASES: dict[str, tuple[Draw, float]] = {
    # name: (draws [study, prompt], true mean)
    "normal": (lambda rng, rows, n: rng.normal(size=(rows, n)), 0.0),
    "heavy tails (t, 3 degrees of freedom)": (lambda rng, rows, n: rng.standard_t(3, size=(rows, n)), 0.0),
    "skewed (exponential)": (lambda rng, rows, n: rng.exponential(size=(rows, n)), 1.0),
    "log-normal, sigma 0.5": lognormal(0.5),
    "log-normal, sigma 0.75": lognormal(0.75),
    "log-normal, sigma 1": lognormal(1.0),
    "difference of log-normals": (
        lambda rng, rows, n: rng.lognormal(0, 0.75, size=(rows, n)) - rng.lognormal(0, 0.5, size=(rows, n)),
        float(np.exp(0.75**2 / 2) - np.exp(0.5**2 / 2)),
    ),
    "30 % of prompts change": mostly_zero(0.3),
    "10 % of prompts change": mostly_zero(0.1),
    "4 seeds per prompt, skewed": (clustered, 1.0),
}
FLIPS = {
    # name: (lose, gain)
    "2 % change": (0.015, 0.005),
    "6 % change": (0.05, 0.01),
    "6 % change, as many each way": (0.03, 0.03),
    "10 % lose": (0.10, 0.0),
    "14 % change": (0.12, 0.02),
    "25 % change": (0.20, 0.05),
    "60 % change": (0.40, 0.20),
}
SEEDED = {
    # name: (share of images that change, correlation between seeds, of these gain, seeds, one way per prompt)
    "2 seeds, 6 % change, alike": (0.06, 0.5, 0.15, 2, True),
    "2 seeds, 25 % change, alike": (0.25, 0.5, 0.2, 2, True),
    "4 seeds, 6 % change, alike": (0.06, 0.5, 0.15, 4, True),
    "4 seeds, 6 % change": (0.06, 0.1, 0.15, 4, False),
    "4 seeds, 25 % change": (0.25, 0.1, 0.2, 4, False),
    "4 seeds, 50 % change": (0.5, 0.05, 0.4, 4, False),
}


def chunks(seed: str, n: int, draw: Draw, studies: int) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    for start in range(0, studies, CHUNK):
        rng = stats.keyed_generator(2026, seed, n, start)
        yield draw(rng, min(CHUNK, studies - start), n), rng


def moments(rows: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`resampled_means(spread=True)` of many studies as two matrix products."""
    n = rows.shape[1]
    share = np.concatenate([bootstrap.counts(index, n) for index in bootstrap.resamples(n, draws, rng)]) / n
    center = rows.mean(axis=1, keepdims=True)
    gaps = rows - center
    means, squares = ((share @ (gaps**power).T).T for power in (1, 2))
    spreads = np.sqrt(np.maximum(squares - means**2, 0) * n / (n - 1))
    spreads[spreads <= 1e-7 * np.abs(gaps).max(axis=1, keepdims=True)] = 0
    return means + center, spreads


def intervals(rows: np.ndarray, draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Method -> 95 % ends `[2, study]`, as `mean_interval` makes them, all from the same draws."""
    mean = rows.mean(axis=1)
    found = {name: np.stack([mean, mean]) for name in METHODS}
    varied = ~bootstrap.is_constant(rows)
    live, level = rows[varied], (0.95,)
    means, spreads = moments(live, draws, rng)
    ends = {
        "combined": bootstrap.combined_ends(means, spreads, live, level),
        "studentised": bootstrap.studentised_ends(means, spreads, live, level),
        "bca": bootstrap.bca_ends(means, mean[varied], bootstrap.acceleration(-live), level),
        "percentile": bootstrap.percentile_ends(means, level),
    }
    for name, (pair,) in ends.items():
        found[name][:, varied] = pair
    found["t"] = np.stack(stats.mean_interval(rows, method="t", rng=rng)[0])
    return found


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"\n**{title}**\n")
    for line in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(line) + " |")
    sys.stdout.flush()


def percent(values: list[np.ndarray]) -> str:
    return f"{100 * np.concatenate(values).mean():.1f}"


def holds(ends: np.ndarray, truth: float) -> np.ndarray:
    return (ends[0] <= truth + 1e-12) & (truth <= ends[1] + 1e-12)


def coverage(studies: int, draws: int) -> None:
    out, accepted = [], []
    for name, (draw, truth) in CASES.items():
        for n in SIZES:
            hits: dict[str, list[np.ndarray]] = {m: [] for m in METHODS}
            false: dict[str, list[np.ndarray]] = {f"{k}{s}": [] for k in ("tost", "rule") for s in "+-"}
            width = []
            for rows, rng in chunks(name, n, draw, studies):
                found = intervals(rows, draws, rng)
                for method, ends in found.items():
                    hits[method].append(holds(ends, truth))
                low, high = found["combined"]
                width.append((high - low) / np.subtract(*found["t"][::-1]))
                margin = MARGIN * rows.std() / np.sqrt(n)
                for side, sign in ((margin, "+"), (-margin, "-")):
                    p = stats.tost(rows - truth + side, margin).p < 0.05
                    inside = (low - truth + side > -margin) & (high - truth + side < margin)
                    false["tost" + sign].append(p)
                    false["rule" + sign].append(p & inside)
            label = name if n == SIZES[0] else ""
            wider = f"{np.nanmedian(np.concatenate(width)):.2f}"
            out.append([label, str(n), *(percent(hits[m]) for m in METHODS), wider])
            accepted.append([label, str(n), *map(percent, false.values())])
    head = ["differences", "n", "combined (default)", "t", "studentised", "BCa", "percentile", "width / t"]
    table("95 % intervals: how many of 100 hold the true mean", head, out)
    head = ["differences", "n", "TOST, +m", "TOST, -m", "the rule, +m", "the rule, -m"]
    table("True effect at the margin: accepted as equivalent, of 100", head, accepted)


def flips(studies: int, draws: int) -> None:
    """0/1 scores, one seed: coverage, and equivalence where the true change is the margin itself."""
    out = []
    for name, (down, up) in FLIPS.items():
        for n in SIZES:
            hits: dict[str, list[np.ndarray]] = {m: [] for m in ("proportions", "t", "bca", "tost", "rule")}
            for rows, rng in chunks(name, n, binary(down, up), studies):
                ends = np.stack(stats.paired_proportions(rows))
                others = intervals(rows, draws, rng)
                hits["proportions"].append(holds(ends, up - down))
                hits["t"].append(holds(others["t"], up - down))
                hits["bca"].append(holds(others["bca"], up - down))
                if down != up:
                    margin = abs(up - down)
                    p = stats.tost(rows, margin).p < 0.05
                    hits["tost"].append(p)
                    hits["rule"].append(p & (ends[0] > -margin) & (ends[1] < margin))
            label = name if n == SIZES[0] else ""
            out.append([label, str(n), *(percent(hits[k]) if hits[k] else "" for k in hits)])
    head = ["0/1 scores", "n", "paired proportions (default)", "t", "BCa"]
    head += ["at the margin: TOST", "at the margin: the rule"]
    table("0/1 scores, one seed: coverage; accepted as equivalent at the margin", head, out)
    out = []
    for n in (32, 48, 96, 200, 553):
        cells = []
        for margin in (0.05, 0.1):
            for share in (0.0, 0.03):
                held = []
                for rows, _ in chunks("same", n, binary(share, share), studies):
                    low, high = stats.paired_proportions(rows)
                    held.append((low > -margin) & (high < margin) & (stats.tost(rows, margin).p < 0.05))
                cells.append(percent(held))
        out.append([str(n), *cells])
    head = ["n", "margin 0.05, none", "margin 0.05, 6 %", "margin 0.1, none", "margin 0.1, 6 %"]
    table("0/1 scores, no true change, so many prompts flip: shown to be equivalent, of 100", head, out)


def seeded(studies: int, draws: int) -> None:
    """0/1 scores averaged over several seeds."""
    out = []
    for name, (change, alike, up, count, fixed) in SEEDED.items():
        truth = change * (2 * up - 1)
        draw = seeds_of_flips(change, alike, up, count, fixed=fixed)
        for n in SIZES:
            hits: dict[str, list[np.ndarray]] = {m: [] for m in ("proportions", "combined", "t", "rule")}
            for rows, rng in chunks(name, n, draw, studies):
                ends = np.stack(stats.paired_proportions(rows, seeds=count))
                others = intervals(rows, draws, rng)
                hits["proportions"].append(holds(ends, truth))
                hits["combined"].append(holds(others["combined"], truth))
                hits["t"].append(holds(others["t"], truth))
                inside = (ends[0] > truth) & (ends[1] < -truth)
                hits["rule"].append(inside & (stats.tost(rows, -truth).p < 0.05))
            out.append([name if n == SIZES[0] else "", str(n), *map(percent, hits.values())])
    head = ["0/1 scores", "n", "paired proportions (default)", "combined", "t", "at the margin: the rule"]
    table("0/1 scores, several seeds: coverage; accepted as equivalent at the margin", head, out)


def gamma_pair(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    share = rng.gamma(4, size=n)  # prompts that are easy to change are so in both arms
    return 6 * share * rng.gamma(6, size=n) / 3, share * rng.gamma(2, size=n), 6.0


def skewed_pair(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    common, own = rng.normal(size=n), rng.normal(size=(2, n))
    y, x = np.exp(0.75 * (0.6 * common + 0.8 * own))
    return 6 * y, x, 6.0


def uneven_pair(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The control is far more skewed than the edit, and independent of it."""
    y, x = np.exp(0.5 * rng.normal(size=n)), np.exp(rng.normal(size=n))
    return 6 * y, x, 6 * float(np.exp(0.125 - 0.5))


def zero_pair(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The control changes half of the images only."""
    return rng.gamma(4, size=n), (rng.random(n) < 0.5) * rng.gamma(2, size=n), 4.0


def ratio(studies: int, draws: int) -> None:
    out = []
    pairs = {
        "gamma": gamma_pair,
        "log-normal, both": skewed_pair,
        "log-normal, the control more so": uneven_pair,
        "control half zero": zero_pair,
    }
    for name, draw in pairs.items():
        for n in SIZES:
            combined, fieller, bounded, open_ = [], [], [], []
            for index in range(studies):
                rng = stats.keyed_generator(7, "ratio", name, n, index)
                edit, control, truth = draw(rng, n)
                found = stats.ratio_of_means(edit, control, draws=max(draws // 2, 100), rng=rng)
                bounded.append(np.isfinite(found.low))
                open_.append(np.isinf(found.high))
                combined.append(found.low <= truth <= found.high)
                fieller.append(found.fieller_low <= truth <= found.fieller_high)
            kept = np.array(bounded)
            cells = [f"{100 * np.mean(np.array(hit)[kept]):.1f}" for hit in (combined, fieller)]
            cells += [f"{100 * np.mean(open_):.1f}", f"{100 * (1 - kept.mean()):.1f}"]
            out.append([name if n == SIZES[0] else "", str(n), *cells])
    head = ["distances", "n", "combined (default)", "Fieller", "no upper bound", "no interval"]
    table("Ratio of mean distances: how many of 100 intervals hold the true ratio", head, out)


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
        for n in SIZES[1:]:
            hits: dict[str, list[np.ndarray]] = {"t": [], "wilcoxon": [], "flip": []}
            for rows, rng in chunks("null " + name, n, draw, studies):
                hits["t"].append(stats.paired_t(rows) < 0.05)
                hits["wilcoxon"].append(stats.wilcoxon(rows) < 0.05)
                hits["flip"].append(stats.sign_flip(rows, draws=draws, rng=rng) < 0.05)
            out.append([name if n == SIZES[1] else "", str(n), *map(percent, hits.values())])
    table("No effect: rejected at 5 %, of 100", ["differences", "n", "t", "Wilcoxon", "sign flip"], out)


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
    for n in SIZES[1:]:
        rows: dict[str, list[np.ndarray]] = {"low end": [], "estimate": []}
        for start in range(0, studies, CHUNK):
            rng = stats.keyed_generator(9, "seed margin", n, start)
            base = rng.normal(size=(CHUNK, n, 2))
            noise = np.abs(base[..., 0] - base[..., 1])
            low = stats.bca_interval(noise, levels=(0.90,), draws=draws, rng=rng)[0].low
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
    for n in SIZES[1:4]:
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
        assert np.allclose(ours, theirs, rtol=1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per case")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap draws")
    parser.add_argument("--only", help="coverage, flips, seeded, ratio, tests, threshold, seeds")
    arguments = parser.parse_args()
    began = time.perf_counter()
    check_moments()
    for part in (coverage, flips, seeded, ratio, tests, threshold, seeds):
        if arguments.only is None or part.__name__ in arguments.only.split(","):
            fewer = part not in (coverage, flips, seeded)
            part(arguments.studies // (2 if fewer else 1), arguments.draws)
    print(f"\n{arguments.studies} studies per case, half of them from the ratios on", end=", ")
    print(f"{arguments.draws} draws", end=", ")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
