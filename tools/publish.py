"""Publishes the study: copies its tables, figures, executed notebooks and records into the repository.

`python tools/publish.py PROFILE`, after `mixste reproduce`, which itself never writes there; commit what it wrote.
"""

import os
import subprocess
import sys
from pathlib import Path

import readme

from mixste.io.files import replacing
from mixste.study import notebooks, pages, records, store
from mixste.study.profiles import profile_of
from mixste.study.tables import distinct

# Of an executed notebook, everything that a reader sees is kept, and nothing that depends on the machine.
STRIP = [
    *("nbstripout", "--keep-output", "--keep-count", "--extra-keys"),
    "metadata.papermill metadata.language_info cell.metadata.papermill cell.metadata.execution",
]


def publish(profile: str) -> list[Path]:
    """Copy what the notebooks of a profile wrote into the repository, and the records of the runs behind its tables;
    renew results/README.md and the pages' tables.

    Notebooks of the default profile replace those in notebooks/, others go to results/<profile>/notebooks/. Those
    that are not up to date are left out. Returns the files written. RuntimeError if there are none, or where
    MIXSTE_POSES cuts trainings short.
    """
    if os.environ.get("MIXSTE_POSES"):
        raise RuntimeError("MIXSTE_POSES cuts the study short: unset it, and reproduce again before you publish")
    done = [path for path in notebooks.notebooks() if notebooks.fresh(path, profile, train=False)]
    if not done:
        raise RuntimeError(f"no notebook of profile {profile} is up to date in {store.output()}: nothing to publish")
    written = []
    for name in (name for path in done for name in notebooks.files_of(path, profile)):
        kind, _, file = Path(name).parts
        folder, content = store.ROOT / kind / profile, (store.output() / name).read_bytes()
        if kind == "notebooks" and profile == notebooks.DEFAULT:
            folder = notebooks.NOTEBOOKS
        elif kind == "notebooks":  # two folders further down than the notebook
            folder, content = (
                store.ROOT / "results" / profile / kind,
                content.replace(b"](../docs/", b"](../../../docs/"),
            )
        with replacing(folder / file) as temporary:
            temporary.write_bytes(content)
        written.append(folder / file)
    copies = [path for path in written if path.suffix == ".ipynb"]
    subprocess.run([sys.executable, "-m", *STRIP, *copies], check=True)
    written += records.publish(distinct(profile_of(profile)), profile)
    pages.page(store.ROOT)
    readme.main()
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected the name of a profile")
    print(f"{len(publish(sys.argv[1]))} files of profile {sys.argv[1]} published")
