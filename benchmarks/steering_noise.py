"""How late this machine wakes idle processes: `python -m benchmarks.steering_noise`, until standard input ends.

Two processes exchange a byte through pipes every 20 ms. What they need for it is what the machine adds to any work that
passes through several processes, e.g. a directive. Prints the durations in milliseconds as a JSON list.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_INTERVAL_S = 0.02


@contextmanager
def measured_noise() -> Iterator[list[float]]:
    """Measures beside the `with` block; the list has the durations in milliseconds at its end."""
    found: list[float] = []
    program = [sys.executable, "-m", "benchmarks.steering_noise"]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield found
    finally:
        found += json.loads(process.communicate()[0])


def main() -> None:
    """Measures until standard input ends."""
    (there, here_in), (here_out, back) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(here_in)
        while byte := os.read(there, 1):
            os.write(back, byte)
        os._exit(0)
    found: list[float] = []
    while not (found and select.select([sys.stdin], [], [], _INTERVAL_S)[0]):
        began = time.perf_counter()
        os.write(here_in, b".")
        os.read(here_out, 1)
        found.append(1e3 * (time.perf_counter() - began))
    os.close(here_in)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
