"""A job that is killed again and again: one process imports and loads, its forks compute until SIGKILL meets them.

Usage: kill.py MODEL WHOLE KILLED KILLS. Writes the answer to WHOLE unharmed, to KILLED with so many kills, and says how many met a job.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import mlload
from mlload.runners.probing.probe import probe_layers

WORDS = ["the", "bank", "of", "a", "river"]


def main() -> None:
    model, whole, out, kills = *sys.argv[1:4], int(sys.argv[4])
    chosen = random.Random(7)
    texts = [" ".join(random.Random(number).choices(WORDS, k=number % 29 + 1)) for number in range(400)]
    runner = mlload.load_model(model, device="cpu", attentions=False, head=False)

    def start(folder: str) -> int:
        child = os.fork()
        if child == 0:
            probe_layers(runner, texts, output=folder, pool="none", texts_per_shard=16, batch_tokens=128)
            os._exit(0)
        return child

    begun = time.perf_counter()
    os.waitpid(start(whole), 0)
    longest = (time.perf_counter() - begun) / 4
    killed = 0
    for _ in range(kills):
        child = start(out)
        time.sleep(chosen.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    os.waitpid(start(out), 0)
    sys.stdout.write(str(killed))


if __name__ == "__main__":
    main()
