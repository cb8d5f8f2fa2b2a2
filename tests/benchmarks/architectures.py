"""Every model type of transformers: what headers alone tell of it, held against the truth that running it tells."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mlload.loader.architecture import ArchitectureConfig
from mlload.loader.checkpoint import Checkpoint

ZOO = Path(__file__).parent.parent / "zoo.py"
ANSWERS = ("kind", "stacks", "layers", "embedding", "norm", "head")


def measure() -> Iterator[str]:
    """The counts, the table, and the types that can't be instantiated."""
    with tempfile.TemporaryDirectory() as scratch:
        built = subprocess.run([sys.executable, ZOO, "--out", scratch], check=True, capture_output=True, text=True)
        cases = sorted(Path(scratch).iterdir())
        rows = {case.name: (compared(case, config=True), compared(case, config=False), described(case)) for case in cases}
    right, alone = (Counter(answer for row in rows.values() for answer in ANSWERS if row[place][answer]) for place in (0, 1))
    yield f"{len(rows)} model types, tiny and random, each one run to know the truth."
    yield ""
    yield f"| told from | {' | '.join(ANSWERS)} |"
    yield f"|---|{'---|' * len(ANSWERS)}"
    for label, counts in (("config and headers", right), ("tensor names alone", alone)):
        yield f"| {label} | {' | '.join(f'{counts[answer]} of {len(rows)}' for answer in ANSWERS)} |"
    yield ""
    yield "A kind can't always be told from names: a BERT that was trained to decode stores the very tensors of one that was not."
    yield ""
    yield "Not instantiated: " + "; ".join(line.split(": ")[0] for line in built.stdout.splitlines()[:-1]) + "."
    yield ""
    yield "| task and type | kind | main stack | layers | embedding | norm | head | right |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, (by_config, _, cells) in rows.items():
        yield f"| {name} | {' | '.join(cells)} | {'yes' if all(by_config.values()) else 'no'} |"


def found(case: Path, *, config: bool) -> ArchitectureConfig:
    """What the headers tell, with the config or without it."""
    checkpoint = Checkpoint.open(case)
    return checkpoint.architecture if config else ArchitectureConfig.from_tensors(None, checkpoint.tensors)


def compared(case: Path, *, config: bool) -> dict[str, bool]:
    """Which answers are right."""
    architecture, truth = found(case, config=config), json.loads((case / "truth.json").read_text())
    main, names = architecture.structure.main, architecture.tensor_names
    stacks = sorted([stack.prefix, stack.num_layers] for stack in architecture.structure.stacks)
    return {
        "kind": architecture.kind == truth["kind"],
        "stacks": stacks == sorted(truth["stacks"]) and (main.prefix if main else None) == truth["main_stack"],
        "layers": (main.num_layers if main else None) == truth["num_layers"],
        "embedding": names.embedding == truth["embedding"],
        "norm": names.norm == (truth["norm"] and truth["norm"][0]),
        "head": names.head == truth["head"],
    }


def described(case: Path) -> tuple[str, ...]:
    """The answers themselves."""
    architecture = found(case, config=True)
    main, names = architecture.structure.main, architecture.tensor_names
    parts = (names.layers, str(main.num_layers) if main else None, names.embedding, names.norm, names.head)
    return tuple(part or "-" for part in (architecture.kind, *parts))


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in measure())
