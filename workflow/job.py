"""Runs a command of `mixste` as a job of Snakemake's: `python job.py COMMAND …`.

It ends when Snakemake does, however that ended: a training that nothing waits for would keep its GPU from the next
call. Snakemake must be its parent, so it has to replace the shell between them (exec).
"""

import os

from mixste.cli import main
from mixste.study import trainer

trainer.end_with(os.getppid())
main()
