"""The page in a real browser: no overflow of the page at two widths, no script errors, controls that work."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sinkscope.report import build

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--allow-file-access-from-files",
    "--virtual-time-budget=8000",
    "--enable-logging=stderr",
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason=f"no browser: none of {', '.join(NAMES)} is installed; apt-get install chromium",
    ),
]

# The window of a headless browser cannot be narrower than about 500 px, so the page is measured in a frame.
PROBE = """<body style="margin:0"><iframe src="report.html" style="width:WIDTHpx;height:900px;border:0"></iframe><script>
addEventListener("load", () => {
  const inner = document.querySelector("iframe").contentWindow, page = inner.document, found = {};
  const pick = (query) => page.querySelector(query), all = (query) => [...page.querySelectorAll(query)];
  const set = (query, value) => { const n = pick(query); n.value = value; n.dispatchEvent(new inner.Event(n.type === "search" || n.type === "range" ? "input" : "change")); };
  const shown = () => all(".card:not([hidden])");
  found.client = page.documentElement.clientWidth;
  found.scroll = page.documentElement.scrollWidth;
  found.cards = shown().length;
  found.images = all(".card img").every((i) => i.src.startsWith("data:image/png"));
  found.order = shown().map((c) => JSON.parse(c.dataset.far).sink_1.ssim);
  set("#task", "colors"); found.colors = shown().length; set("#task", "");
  set("#find", "no such prompt"); found.none = shown().length; set("#find", "");
  set("#budget", "2"); found.arms = [...shown()[0].querySelectorAll("figure:not([hidden])")].map((f) => f.dataset.arm);
  set("#wipe", "20"); found.cut = pick(".stage").style.getPropertyValue("--cut");
  shown()[3].querySelector(".open").click(); found.prompt = pick(".compare .prompt").textContent === shown()[3].querySelector(".prompt").textContent;
  found.tag = pick(".tr").textContent;
  const more = pick("button.more"), rows = page.getElementById(more.getAttribute("aria-controls"));
  found.folded = rows.hidden; more.click(); found.unfolded = !rows.hidden;
  found.unnamed = all("input, select, button").filter((n) => !(n.labels && n.labels.length) && !n.ariaLabel && !n.textContent.trim()).length;
  document.body.dataset.found = JSON.stringify(found);
});
</script></body>"""  # noqa: E501


def visit(folder: Path, width: int, profile: Path, source: str = PROBE) -> tuple[dict[str, Any], str]:
    probe = folder / f"probe-{width}.html"
    probe.write_text(source.replace("WIDTH", str(width)), encoding="utf-8")
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={max(width, 600)},900",
        "--dump-dom",
        probe.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None, f"the probe did not finish: {done.stderr[-2000:]}"
    return json.loads(html.unescape(found.group(1))), done.stderr


@pytest.mark.parametrize("width", [390, 1280])
def test_page_in_chromium(whole_run: Path, tmp_path: Path, width: int) -> None:
    found, log = visit(whole_run, width, tmp_path / "profile")
    assert found["client"] <= width and found["scroll"] <= found["client"], (
        "the page itself must not scroll sideways"
    )
    assert not re.findall(r"CONSOLE.*", log), "the page logged to the console"
    assert found["cards"] == 12 and found["images"]
    assert found["order"] == sorted(found["order"], reverse=True), "sorted by distance of the sink arm"
    assert found["colors"] == 2 and found["none"] == 0
    assert found["arms"] == ["baseline", "sink_10", "random_10"] and found["tag"] == "sink_10"
    assert found["cut"] == "20%" and found["prompt"]
    assert found["folded"] and found["unfolded"] and found["unnamed"] == 0


def test_long_names_do_not_widen_the_page(run_folder: Path, tmp_path: Path) -> None:
    for name in ("traces", "summary"):
        frame = pd.read_parquet(run_folder / f"{name}.parquet")
        frame["site"] = "up_blocks.1.attentions.0.transformer_blocks." + frame["layer"].astype(str) + ".attn1"
        frame["layer"] = None
        frame.to_parquet(run_folder / f"{name}.parquet")
    scores = pd.read_parquet(run_folder / "scores.parquet")
    scores["prompt"] = "w" * 300
    scores.to_parquet(run_folder / "scores.parquet")
    build(run_folder)
    probe = """<body style="margin:0"><iframe src="report.html" style="width:390px;border:0"></iframe>
    <script>addEventListener("load", () => {
      const page = document.querySelector("iframe").contentWindow.document.documentElement;
      document.body.dataset.found = JSON.stringify({over: page.scrollWidth - page.clientWidth});
    });</script>"""
    found, log = visit(run_folder, 390, tmp_path / "profile", probe)
    assert found["over"] == 0 and "CONSOLE" not in log
