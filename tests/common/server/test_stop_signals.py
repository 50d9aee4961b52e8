"""The signals that stop a server, at any moment of the wait for them."""

import subprocess
import sys

_SIGNAL_WHILE_WAITING = """
import os, signal, threading, time
from common.server.stop_signals import StopSignals

for trial in range(300):
    number = (signal.SIGTERM, signal.SIGINT)[trial % 2]
    signals = StopSignals()
    threading.Timer(trial % 7 / 1e4, os.kill, (os.getpid(), number)).start()
    assert signals.wait(poll_s=0) == number  # a wait that begins over and over
print("received all")
"""


def test_a_signal_at_any_moment_of_the_wait_ends_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _SIGNAL_WHILE_WAITING], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.stdout == "received all\n", ended.stderr
