"""The runs of all callers together are bounded."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

import pytest

from runtime.session.run_turns import RunTurns


def test_a_run_waits_for_a_turn_that_nobody_holds() -> None:
    turns, taken = RunTurns(2), SimpleQueue[bool]()
    held = [turns.take(), turns.take()]
    waiting = threading.Thread(target=lambda: taken.put(bool(turns.take())))
    waiting.start()
    assert taken.empty()
    held.pop()
    waiting.join(20)
    assert taken.get_nowait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_as_many_turns() -> None:
    turns, (read, write) = RunTurns(2), os.pipe()
    held = turns.take()
    if not os.fork():
        own = turns.take()
        os.write(write, f"{turns._free.qsize()}".encode())
        del own
        os.write(write, f" {turns._free.qsize()}".encode())
        os._exit(0)
    os.wait()
    assert os.read(read, 9) == b"1 2"
    del held
    assert turns._free.qsize() == 2
    os.close(read)
    os.close(write)
