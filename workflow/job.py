"""Runs a command of `mixste` as a job of Snakemake's: `python job.py COMMAND …`.

It ends when Snakemake does, however that ended: a training that goes on with nobody to wait for it would keep its GPU
from the next call. Snakemake must be its parent, so the shell between them has to be replaced by it (exec).
"""

import os

from mixste.cli import main
from mixste.study import trainer

trainer.end_with(os.getppid())
main()
