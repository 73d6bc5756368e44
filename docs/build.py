"""The site of the study: python docs/build.py [FOLDER].

The sources are put together in .cache/site: what is shown as it is in the repository, and pages written from the
results, see study.py. Sphinx makes the site from them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import api
import clips
import pandas as pd
from study import ROOT, about, claims, contents, earlier, study, write

from mixste.study import pages, tidy
from mixste.study.profiles import PROFILES
from mixste.study.tables import distinct

COPIED = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "docs", "notebooks", "results", "figures", "mixste/weights")
SCRIPTS = ("api.py", "build.py", "clips.py", "conf.py", "study.py")
# Of GitHub's links, those to folders and to modules lead to pages of the site.
LINKS = {
    r"\]\([./]*results/README\.md\)": r"](/results.md)",
    r"\]\([\w./-]*?([\w-]+)/(?:notebooks|records)\)": r"](/study/\1/index.md)",
    r"\]\((?:\.\./)*mixste/([\w/]+)\.py\)": lambda match: f"](/api/mixste.{match[1].replace('/', '.')}.rst)",
    r"\]\((?:\.\./)+docs/([\w-]+\.md)": r"](/docs/\1",  # from the notebooks of any profile
    r"(?<!`)`(mixste(?:\.\w+)+)`": r"{py:obj}`\1`",
}


def main(folder: str = "site") -> None:
    """Write the site into a folder, and its sources into .cache/site. A warning of Sphinx is an error."""
    source = ROOT / ".cache" / "site"
    os.environ["MIXSTE_RUNS"] = str(ROOT / ".cache" / "site-runs")  # of what is in the repository alone
    shutil.rmtree(source, ignore_errors=True)
    copy(source)
    api.write(source / "api")
    profiles = [name for name in pages.by_size() if tidy.files(name)]
    for profile in profiles:
        study(profile, source)
    write(source / "claims.md", claims(profiles))
    viewers = clips.write(ROOT / ".cache" / "site-extra" / "clips")
    for name, page in viewers.items():
        write(source / f"{name}.md", page)
    entries = ["claims", *viewers, *(f"/study/{name}/index" for name in profiles)]
    write(source / "results.md", results(profiles, entries))
    write(source / "index.md", start(profiles))
    options = ["-b", "html", "-c", str(ROOT / "docs"), "-d", str(ROOT / ".cache" / "doctrees"), "-W", "--keep-going"]
    command = [sys.executable, "-m", "sphinx", *options, "-q", "-E", "-j", "2", str(source), folder]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if subprocess.run(command, env=environment).returncode:
        raise SystemExit("the site has faults, see above")
    print(f"{folder}/index.html: {len(list(Path(folder).rglob('*.html')))} pages")


def results(profiles: list[str], entries: list[str]) -> str:
    """The page that leads to all results. entries: the pages below it."""
    lines = [
        "- [The paper's claims](claims.md): the verdict on each.",
        "- [Clips to play](clips.md): poses of two networks beside the truth, for test subjects of `open`.",
        "- [Attention, by layer and joint](attention.md): that of a bundled network, to browse.",
    ]
    for name in profiles:
        tables = pd.concat([tidy.read(name, path.stem) for path in tidy.files(name)])
        lines.append(f"- [Profile {name}](study/{name}/index.md): {about(name, tables).partition(': ')[2]}")
    text = "A profile is the study on one source of data, at one scale. Each of its tables and figures has a page."
    return "\n\n".join(["# Results", text, "\n".join(lines), contents(entries)]) + "\n"


def copy(source: Path) -> None:
    """What the site shows as it is in the repository, with links that lead on within the site."""
    ignored = shutil.ignore_patterns("*.safetensors", "*.npz", *SCRIPTS, "*.css", "*.js", "__pycache__")
    for name in COPIED:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, source / name)
    (source / "results" / "README.md").unlink()  # each of its tables has a page
    for path in source.rglob("*.md"):
        write(path, linked(path.read_text(encoding="utf-8")))
    for path in source.rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if made_with := earlier(path):
            profile = f"/study/{path.parent.parent.name}/index.md"
            about = f"**An earlier version: {made_with}.** [The profile as it is now]({profile})"
            notebook["cells"][0]["source"] = "".join(notebook["cells"][0]["source"]).replace("\n", f"\n\n{about}.\n", 1)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = linked("".join(cell["source"]))
                for name in re.findall(r"\]\((\d\d_\w+\.ipynb)\)", cell["source"]):
                    if not (path.parent / name).exists():  # this profile lacks the notebook
                        cell["source"] = cell["source"].replace(f"]({name})", f"](/notebooks/{name})")
        write(path, json.dumps(notebook))


def linked(text: str) -> str:
    for pattern, link in LINKS.items():
        text = re.sub(pattern, link, text)
    return text


def start(profiles: list[str]) -> str:
    """The first page, from README: its first screen, how to lift a video, and where the results are.

    profiles: profiles that have results.
    """
    readme = linked((ROOT / "README.md").read_text(encoding="utf-8"))
    intro, *sections = re.split(r"^## ", readme, flags=re.MULTILINE)
    of = {section.partition("\n")[0]: section.partition("\n")[2] for section in sections}
    intro = re.sub(r"\]\(#(?!lift-a-video)", "](README.md#", intro)
    guides = sorted(f"/docs/{path.stem}" for path in (ROOT / "docs").glob("*.md"))
    cards = sorted(f"/mixste/weights/{path.stem}" for path in (ROOT / "mixste" / "weights").glob("*.md"))
    parts = [
        intro.strip(),
        "## Lift a video",
        of["Lift a video"].strip(),
        "## Results",
        "What follows from the numbers, and what the profiles are, is in the [overview](README.md#what-came-out). "
        "Every [table and figure](results.md) has a page that names the runs behind it; the paper's "
        "[claims](claims.md) are on a page of their own. [Clips of the test subjects](clips.md) can be played, and a "
        "network's [attention](attention.md) browsed by layer and joint.",
        *[
            f"Profile `{name}` as it is now: [{progress}](study/{name}/index.md)."
            for name in profiles
            if (progress := pages.so_far(distinct(PROFILES[name]), name))
        ],
        contents(["Overview </README>", "/results", *guides, *cards, "/api/index", "/CONTRIBUTING"]),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
