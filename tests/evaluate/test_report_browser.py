"""The report page in a real browser: no sideways scrolling on a phone, nothing from the network, print to PDF."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from altpo_ds.evaluate.report import write_report
from altpo_ds.evaluate.runs import read_runs
from tests.evaluate.test_report import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")

# A frame is a viewport of its own: a headless window is never narrower than 500 pixels.
MEASURE = """<body><iframe src="{page}" style="width:{width}px;height:900px"></iframe><pre></pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("body *")].filter(
    e => !e.closest(".scroll") && e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.tagName);
  const broken = [...page.images].filter(image => !image.naturalWidth).length;
  document.querySelector("pre").textContent = JSON.stringify({{scroll: root.scrollWidth, width: root.clientWidth,
    wide, broken, images: page.images.length, sections: page.querySelectorAll("section").length}});
}};
</script></body>"""


def browse(folder: Path, *options: str) -> str:
    assert CHROMIUM is not None
    # No name resolves: a page that asked the network for something would show it as broken.
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    common += ["--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}"]
    result = subprocess.run([CHROMIUM, *common, *options], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with long words and paths, which must not widen the page."""
    folder = tmp_path_factory.mktemp("browser")
    runs = [make_run(folder / name) for name in ("a-run-with-a-" + "very-" * 20 + "long-name", "b")]
    evaluation = json.loads((runs[1] / "evaluation.json").read_text())
    evaluation["per_example"]["forget"][0]["generation"] = "x" * 400
    evaluation["settings"]["model"] = "/a/path/" + "that/never/ends/" * 20
    evaluation["metrics"]["a_metric_of_another_suite_" * 4] = 0.5
    (runs[1] / "evaluation.json").write_text(json.dumps(evaluation))
    write_report(folder / "report.html", read_runs(runs))
    return folder / "report.html"


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_reaches_beyond_the_window(page: Path, width: int) -> None:
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(MEASURE.format(page=page.name, width=width))
    dom = browse(page.parent, "--dump-dom", "--virtual-time-budget=5000", "--window-size=1400,1000", frame.as_uri())
    found = re.search(r"<pre>(.*?)</pre>", dom)
    assert found
    measured = json.loads(html.unescape(found.group(1)))
    assert width - 30 < measured["width"] <= width
    assert measured["scroll"] <= measured["width"], measured["wide"]
    assert not measured["wide"]
    assert (measured["broken"], measured["images"], measured["sections"]) == (0, 9, 2)


def test_it_prints(page: Path) -> None:
    pdf = page.with_suffix(".pdf")
    browse(page.parent, f"--print-to-pdf={pdf}", page.as_uri())
    assert pdf.read_bytes().startswith(b"%PDF")
