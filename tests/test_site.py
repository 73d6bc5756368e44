"""The site: built without a warning, whole, and tried in a browser."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from mixste.data.sources.people import subjects
from mixste.study import records, tidy
from mixste.study.profiles import PROFILES
from mixste.study.tables import TABLES

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytest.importorskip("myst_nb", reason="the site needs the extra docs")
pytestmark = pytest.mark.slow
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open pages with")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The site, built once; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run([sys.executable, ROOT / "docs" / "build.py", folder], check=True, env=environment)
    return folder


def test_no_link_inside_the_site_is_dead(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    names = {path: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for path, text in pages.items()}
    dead = []
    for path, text in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]*)"', re.sub(r'srcdoc="[^"]*"', "", text)):
            url = urlsplit(html.unescape(link))
            if url.scheme or url.netloc:
                continue
            goal = (path.parent / unquote(url.path)).resolve() if url.path else path
            goal = goal / "index.html" if goal.is_dir() else goal
            if not goal.exists() or (url.fragment and goal in names and unquote(url.fragment) not in names[goal]):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert len(pages) > 200
    assert not dead


def test_pages_fetch_nothing_from_elsewhere(site):
    """No script, style, picture or font: links to other sites are followed only when clicked."""
    fetched = r'<(?:script|img|iframe|video|source)\b[^>]*\bsrc="(?:https?:)?//|<link\b[^>]*\bhref="(?:https?:)?//'
    for path in site.rglob("*.html"):
        assert not re.findall(fetched, path.read_text(encoding="utf-8")), path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_the_site_and_its_pages_are_small(site):
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 60e6
    for page in site.rglob("*.html"):
        shown = re.findall(r'<(?:img|script)\b[^>]*\bsrc="(?!data:)([^"?]+)', page.read_text(encoding="utf-8"))
        parts = {(page.parent / unquote(name)).resolve() for name in shown}
        assert sizes[page] + sum(sizes[part] for part in parts) < 3e6, page


def test_the_search_knows_the_words_of_the_field(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    [terms] = re.findall(r'\bterms:(\{.*?\})[,}]|"terms":\s*(\{.*?\})', index)
    assert "wmpjpe" in "".join(terms)


def test_of_a_partial_table_the_page_says_how_much_there_is(site):
    """Table 1 of `open`: how many trainings there are, and which rows are not trained yet."""
    plain = re.sub("<[^>]*>", "", (site / "study" / "open" / "02_table1.html").read_text(encoding="utf-8"))
    runs = [run for row in TABLES["table1"].rows(PROFILES["open"]) for run in row.runs if run.poses]
    published = {record.spec for record in map(records.read, records.folder("open").glob("*.json"))}
    made = len(published.intersection(runs))
    assert (f"{made} of {len(runs)} trainings so far." in plain) == (0 < made < len(runs))
    lacking = [
        row.label for row in TABLES["table1"].rows(PROFILES["open"]) if row.trained and published.isdisjoint(row.runs)
    ]
    assert (f"Not trained yet: {'; '.join(lacking)}." in plain) == bool(lacking)
    assert "not trained here" not in plain


def test_every_table_names_its_runs_and_links_their_records(site):
    page = (site / "study" / "smoke" / "02_table1.html").read_text(encoding="utf-8")
    records = re.findall(r'href="(\.\./\.\./_downloads/[^"]*/(\w+)\.json)"', page)
    assert len(records) >= 5
    for link, run in records:
        assert json.loads((site / "study" / "smoke" / link).read_text(encoding="utf-8"))["id"] == run
    assert "mixste reproduce --profile smoke --notebook 02" in re.sub("<[^>]*>", "", page)
    assert "notebooks/02_table1.html" in page


def test_a_page_shows_every_row_and_metric_of_its_table(site):
    """Also those without an average, as the joints of Figure 4."""
    for path in tidy.files("smoke"):
        page = (site / "study" / "smoke" / f"{path.stem}.html").read_text(encoding="utf-8")
        page = re.sub("<[^>]*>", "", page[page.index("<article") : page.index('<section id="runs">')])
        page = html.unescape(page).replace("’", "'")
        table = tidy.read("smoke", path.stem)
        metrics = () if path.stem == "14_claims" else set(table["metric"])
        names = {*(row.partition(", ")[0] for row in table["row"]), *metrics}  # what rows share is said once
        assert [name for name in names if name not in page] == [], path.stem


def test_every_published_figure_is_on_one_page(site):
    """Those of Table 8 on the pages of their tables: no two pages have one title."""
    pages = {path: path.read_text(encoding="utf-8") for path in (site / "study" / "smoke").glob("[0-9]*.html")}
    shown = [name for page in pages.values() for name in re.findall(r'<img [^>]*src="[^"]*/(\d\d_\w+)\.png"', page)]
    assert len(shown) == len(set(shown)) == len(list((ROOT / "figures" / "smoke").glob("[0-9]*.png")))
    titles = [re.search("<title>(.*?)</title>", page)[1] for page in pages.values()]
    assert len(titles) == len(set(titles))


def test_formulas_are_drawn(site):
    assert "<math" in (site / "notebooks" / "20_conventions.html").read_text(encoding="utf-8")


# --- in a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def served(site):
    """The address of the site on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def visit(site: Path, served: str, script: str) -> tuple[dict, list[str]]:
    """What `script` puts into `found`, on a page of the site's own origin, and what the console says."""
    page = f"""<!doctype html><body><pre id=found></pre><script>onload = async () => {{
const found = {{}};
const open = (url, width) => new Promise(done => {{
  const frame = document.createElement('iframe');
  frame.style.width = width + 'px';
  frame.style.height = '800px';
  frame.onload = () => setTimeout(() => done(frame), 100);
  frame.src = url;
  document.body.append(frame);
}});
try {{ {script} }} catch (error) {{ found.error = String(error); }}
document.getElementById('found').textContent = JSON.stringify(found);
}}</script>"""
    (site / "visit.html").write_text(page, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=120000"]
    command = [CHROMIUM, *options, "--window-size=1300,900", "--dump-dom", f"{served}/visit.html"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    (site / "visit.html").unlink()
    found = re.search(r'<pre id="found">(.*?)</pre>', ran.stdout, re.DOTALL)[1]
    said = [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]
    # What Chromium says when a viewer's frame changes its size again while it is laid out.
    return json.loads(html.unescape(found)), [line for line in said if "ResizeObserver loop completed" not in line]


@browser
def test_no_page_scrolls_sideways_on_a_phone_or_complains(site, served):
    pages = [str(path.relative_to(site)) for path in sorted(site.rglob("*.html")) if "_modules" not in path.parts]
    # One module's page stands for the other's.
    pages = [page for page in pages if not page.startswith("api/") or page == "api/mixste.model.html"]
    found, console = visit(
        site,
        served,
        f"""
found.wide = [];
for (const page of {json.dumps(pages)}) {{
  const frame = await open(page, 390);
  const root = frame.contentDocument.documentElement;
  if (root.scrollWidth > 390) found.wide.push([page, root.scrollWidth]);
  frame.remove();
}}
found.pages = {len(pages)};
""",
    )
    assert found == {"wide": [], "pages": len(pages)}
    assert not console


@browser
def test_a_table_sorts_and_is_copied(site, served):
    found, console = visit(
        site,
        served,
        """
const frame = await open('study/smoke/02_table1.html', 1300), page = frame.contentDocument;
const table = page.querySelector('article table');
const column = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() === 'MPJPE, mm');
const values = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[column].textContent));
const head = table.tHead.rows[0].cells[column];
found.before = values();
head.click();
found.up = values();
head.click();
found.down = values();
let copied;
Object.defineProperty(frame.contentWindow.navigator, 'clipboard', { value: { writeText: text => { copied = text; } } });
const [csv, latex] = page.querySelectorAll('.table-tools button');
csv.click();
found.csv = copied;
latex.click();
found.latex = copied;
""",
    )
    assert found["up"] == sorted(found["before"]) != found["before"]
    assert found["down"] == sorted(found["before"], reverse=True)
    first, *lines = found["csv"].splitlines()
    assert first.startswith('row,"MPJPE, mm",paper,')
    assert len(lines) == len(found["before"])
    assert "\\toprule" in found["latex"]
    assert "95 %" not in found["latex"]
    assert not console


@browser
def test_clips_play_and_attention_is_browsed(site, served):
    found, console = visit(
        site,
        served,
        """
const wait = () => new Promise(done => setTimeout(done, 1000));
const clips = (await open('clips.html', 1300)).contentDocument;
const viewer = clips.querySelector('iframe.viewer');
found.clips = clips.querySelectorAll('a[target=viewer]').length;
found.played = [];
for (const link of [null, clips.querySelector('tr:last-child a[target=viewer]')]) {
  link?.click();
  await wait();
  const page = viewer.contentDocument, start = page.getElementById('now').textContent;
  page.getElementById('play').click();
  viewer.contentWindow.eval('clock = performance.now(); tick(clock + 1000)');  // headless, no frame is drawn by itself
  found.played.push([viewer.contentWindow.location.pathname, start, page.getElementById('now').textContent]);
}
const attention = (await open('attention.html', 1300)).contentDocument.querySelector('iframe.viewer');
await wait();
const page = attention.contentDocument, picture = () => page.getElementById('stage').toDataURL();
found.changed = {};
for (const name of ['layer', 'joint']) {
  const list = page.getElementById(name), before = picture();
  list.value = 5;
  list.onchange();
  found.changed[name] = [list.options.length, picture() !== before];
}
""",
    )
    assert found["clips"] == 3 * len(subjects("test"))
    (first, start, later), (last, _, at) = found["played"]
    assert first != last
    assert start.startswith("frame 0 ")
    assert later != start != at
    assert found["changed"] == {"layer": [8, True], "joint": [17, True]}
    assert not console


@browser
def test_curves_are_switched_off(site, served):
    found, console = visit(
        site,
        served,
        """
const curves = (await open('study/smoke/curves.html', 1300)).contentDocument;
const lines = () => curves.querySelectorAll('.curves polyline').length;
found.lines = [lines()];
curves.querySelector('.curves input:checked').click();
found.lines.push(lines());
const filter = curves.querySelector('.curves input[type=search]');
filter.value = 'poseformer';
filter.oninput();
found.names = [...curves.querySelectorAll('.curves label:not([hidden])')].map(label => label.textContent);
""",
    )
    assert found["lines"][1] == found["lines"][0] - 1 > 0
    assert found["names"]
    assert all("poseformer" in name for name in found["names"])
    assert not console


@browser
def test_the_search_finds_wmpjpe(site, served):
    found, console = visit(
        site,
        served,
        """
const frame = await open('search.html?q=WMPJPE', 1300);
await new Promise(done => setTimeout(done, 3000));
found.hits = frame.contentDocument.querySelectorAll('#search-results li').length;
""",
    )
    assert found["hits"] > 0
    assert not console
