"""The progress of a batch on the terminal: a line for each job that ends, with how many are done, running and failed.

A logger plug-in of Snakemake, which passes it every event; Snakemake's own messages go to .snakemake/log in the batch's
folder instead. It also ends Snakemake when the `mixste reproduce` that started it has ended, by a kill for instance;
the jobs then end too (workflow/job.py).
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent


class LogHandler(LogHandlerBase):
    writes_to_stream, writes_to_file = True, False
    has_filter = has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.folder = Path(os.environ["MIXSTE_BATCH"])
        plan = json.loads((self.folder / "plan.json").read_text())
        self.jobs = plan["runs"] | plan["notebooks"]
        self.names, self.state, self.began = {}, {}, {}
        self.start = time.monotonic()
        threading.Thread(target=self.end_with, args=(os.getppid(),), daemon=True).start()

    def end_with(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C, on which Snakemake takes its jobs out of SLURM's queue
        time.sleep(10)
        os._exit(1)  # on one machine it waits for its jobs first

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.show(record)
        except Exception:  # a batch does not end because a line could not be shown
            self.handleError(record)

    def show(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO and record.wildcards:
            name = self.names[record.jobid] = next(iter(record.wildcards.values()))
            self.state[name], self.began[name] = "running", time.monotonic()
        elif event == LogEvent.JOB_FINISHED and record.job_id in self.names:
            self.ended(self.names[record.job_id], "done")
        elif event == LogEvent.JOB_ERROR and record.jobid in self.names:
            self.ended(self.names[record.jobid], "failed", record.rule_msg or "")
        elif record.levelno >= logging.ERROR and getattr(record, "exception", "") != "RuleException":  # shown already
            print(record.getMessage(), file=sys.stderr, flush=True)

    def ended(self, name: str, state: str, message: str = "") -> None:
        if self.state[name] == state:
            return
        self.state[name] = state
        states = list(self.state.values())
        seconds = time.monotonic() - self.began[name]
        line = f"[{states.count('done')}/{len(self.jobs)}] {self.jobs[name]['label']}: {state} after {seconds:.0f} s"
        line += f" ({states.count('running')} running, {states.count('failed')} failed{self.left()})"
        print(line, flush=True)
        if state == "failed":
            log = self.folder / "logs" / f"{name}.log"
            text = log.read_text(errors="replace").strip() if log.exists() else message.strip()
            lines = text.splitlines() or ["it was ended before it wrote anything"]
            # A kernel may still complain of being shut down after the command has said what is wrong.
            lines = [line for line in lines if line.startswith("mixste: ")] or lines
            print(f"    {lines[-1]} ({log})", flush=True)

    def left(self) -> str:
        """Time left, if the remaining jobs run as much faster or slower than estimated as the finished ones."""
        done = sum(job["seconds"] for name, job in self.jobs.items() if self.state.get(name) == "done")
        rest = sum(job["seconds"] for name, job in self.jobs.items() if self.state.get(name) in (None, "running"))
        if not done or not rest:
            return ""
        seconds = rest / done * (time.monotonic() - self.start)
        return f", about {seconds / 60:.0f} min left" if seconds < 6000 else f", about {seconds / 3600:.1f} h left"
