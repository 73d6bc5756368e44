"""Progress of trainings: lines where there is no terminal, and in notebooks one that only a person gets to see."""

import queue

import pytest
from jupyter_client.manager import start_new_kernel

from mixste.study import progress
from mixste.study.progress import Progress, span


def test_without_a_terminal_a_line_every_half_minute_and_one_at_the_end(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress(3, "training") as trainings:
        for seconds, detail in ((20, "a"), (20, "b"), (20, "c")):
            now[0] += seconds
            trainings.tell(detail)
        trainings.advance()
        now[0] += 60
        trainings.advance()
        trainings.advance()
    assert capsys.readouterr().err.splitlines() == [
        "training: 0 of 3 runs trained; b",
        "training: 2 of 3 runs trained, about 60 s left",
        "training: 3 of 3 runs trained, in 2 min",
    ]


def test_nothing_to_train_says_nothing(capsys):
    with Progress(0, "training"):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (180, "3 min"), (16200, "4.5 h")])
def test_spans(seconds, text):
    assert span(seconds) == text


CELL = """
from mixste.study.progress import Progress
with Progress(2, "training") as trainings:
    trainings.advance()
    trainings.advance()
"""


def test_in_a_notebook_one_line_renews_itself_and_nothing_is_left_where_a_program_executes_it():
    """What a front end sends allows the user to be asked for input; papermill, nbval and nbconvert do not allow it."""
    manager, client = start_new_kernel(kernel_name="python3")

    def outputs(allow_stdin: bool) -> list[dict]:
        messages: queue.Queue[dict] = queue.Queue()
        client.execute_interactive(CELL, allow_stdin=allow_stdin, output_hook=messages.put, timeout=60)
        found = [messages.get() for _ in range(messages.qsize())]
        return [one for one in found if one["msg_type"] not in ("status", "execute_input")]

    try:
        shown = outputs(True)
        assert outputs(False) == []
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert [one["msg_type"] for one in shown] == ["display_data", "update_display_data", "update_display_data"]
    assert len({one["content"]["transient"]["display_id"] for one in shown}) == 1
    assert shown[1]["content"]["data"]["text/plain"].startswith("training: 1 of 2 runs trained, about ")
    assert shown[2]["content"]["data"]["text/plain"].startswith("training: 2 of 2 runs trained, in ")
