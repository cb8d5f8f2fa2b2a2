"""Train the embedded model `tiny` on the project's primer and write its checkpoint beside this script.

    python configs/tiny/train.py                 # about six minutes on two idle CPU cores
    python configs/tiny/train.py --steps 20 --output /tmp/tiny    # a quick trial

Needs torch 2.9 or newer (for its Muon optimizer) and transformers 5. The same seed, threads and library versions give the same bytes.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon, Optimizer
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

HERE = Path(__file__).resolve().parent
PRIMER = HERE.parents[1] / "docs" / "primer.md"

# A token's id is the value of its byte; the special tokens follow.
BOS, EOS, PAD = 256, 257, 258
SPECIAL_TOKENS = {"<|bos|>": BOS, "<|eos|>": EOS, "<|pad|>": PAD}
CONTEXT_LENGTH = 512
SHARDS = 3

PROMPTS = ("A checkpoint is", "Q: What is a shard?", "The KV cache")


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training run."""

    steps: int = 1200
    warmup: int = 60
    tokens_per_batch: int = 4096
    muon_lr: float = 1e-2
    adam_lr: float = 3e-3
    weight_decay: float = 0.01
    # Share of input bytes replaced by others, so that a prompt the primer never wrote does not lead astray.
    noise: float = 0.02
    seed: int = 0
    threads: int = 2


# The tokenizer


def byte_characters() -> list[str]:
    """Return for each byte value the printable character that stands for it in byte-level vocabularies."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    unprintable = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + unprintable.index(byte)) for byte in range(256)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte, without merges, so that decode(encode(text)) == text."""
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    bos, eos, pad = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        model_max_length=CONTEXT_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


# The text


@dataclass(frozen=True)
class Corpus:
    """The primer as bytes, and as documents: its sections, and each of its questions with the answer."""

    text: Tensor
    documents: list[Tensor]
    starts: list[tuple[int, int]]

    @classmethod
    def from_text(cls, text: str) -> Corpus:
        """Cut `text` into documents that end in EOS, and note (document, offset) of every sentence's start."""
        pieces = [piece.strip() for piece in re.split(r"\n(?=## )|\n\n(?=Q: )", text)]
        documents = [torch.tensor([*piece.encode(), EOS]) for piece in pieces]
        starts = [(number, len(piece[:at].encode())) for number, piece in enumerate(pieces) for at in sentence_starts(piece)]
        return cls(torch.tensor(list(text.encode())), documents, starts)


def sentence_starts(piece: str) -> list[int]:
    """Return where the sentences of `piece` begin; an answer is no start of its own, its question is."""
    return [0, *(match.end() for match in re.finditer(r"\n\n|(?<=[.?!:]) (?=[A-Z])", piece) if not piece.startswith("Q: "))]


def pick(upper: int, generator: torch.Generator) -> int:
    """Return a random integer below `upper`."""
    return int(torch.randint(upper, (1,), generator=generator))


def running_window(corpus: Corpus, length: int, generator: torch.Generator) -> Tensor:
    """Return `length` bytes from anywhere in the text."""
    start = pick(len(corpus.text) - length, generator)
    return corpus.text[start : start + length]


def document_window(corpus: Corpus, length: int, generator: torch.Generator) -> Tensor:
    """Return a window that begins with a sentence, with or without BOS, and goes on with whole documents in random order."""
    number, offset = corpus.starts[pick(len(corpus.starts), generator)]
    parts = [corpus.documents[number][offset:]]
    if pick(2, generator):
        parts.insert(0, torch.tensor([BOS]))
    while sum(map(len, parts)) < length:
        parts += [torch.tensor([BOS]), corpus.documents[pick(len(corpus.documents), generator)]]
    return torch.cat(parts)[:length]


def batches(corpus: Corpus, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets: windows of half the context, and in every fourth step of all of it."""
    generator = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.steps):
        length = CONTEXT_LENGTH if step % 4 == 3 else CONTEXT_LENGTH // 2
        rows = range(recipe.tokens_per_batch // length)
        windows = torch.stack([(document_window if row % 2 else running_window)(corpus, length + 1, generator) for row in rows])
        inputs, targets = windows[:, :-1].clone(), windows[:, 1:]
        wrong = (torch.rand(inputs.shape, generator=generator) < recipe.noise) & (inputs < BOS)
        inputs[wrong] = torch.randint(ord(" "), ord("~"), (int(wrong.sum()),), generator=generator)
        yield inputs, targets


# The model


def build_model(seed: int) -> LlamaForCausalLM:
    """Return a small random Llama; every matrix side is a multiple of 64, so that common group sizes divide it."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL_TOKENS),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def build_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[Optimizer]:
    """Return Muon for the matrices inside the layers and AdamW for the embedding and the norms."""
    matrices = [parameter for name, parameter in model.named_parameters() if parameter.ndim == 2 and "embed_tokens" not in name]
    others = [parameter for name, parameter in model.named_parameters() if parameter.ndim == 1 or "embed_tokens" in name]
    return [
        Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay),
    ]


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Return the share of the full learning rate at `step`: a linear warmup under a cosine that ends at zero."""
    return min(1.0, (step + 1) / recipe.warmup) * (1 + math.cos(math.pi * step / recipe.steps)) / 2


def train(model: LlamaForCausalLM, corpus: Corpus, recipe: Recipe) -> None:
    """Train `model` in place, with a line on stdout every fifty steps."""
    optimizers = build_optimizers(model, recipe)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    began = time.monotonic()
    for step, (inputs, targets) in enumerate(batches(corpus, recipe)):
        logits = model(input_ids=inputs, use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate_factor(step, recipe)
            optimizer.step()
        model.zero_grad()
        if step % 50 == 0 or step == recipe.steps - 1:
            say(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - began:6.1f} s")


@torch.no_grad()
def text_loss(model: PreTrainedModel, text: Tensor) -> float:
    """Return the mean loss in nats a byte over `text`, read in windows of the context length that each start afresh."""
    total = 0.0
    for window in text.split(CONTEXT_LENGTH):
        logits = model(input_ids=window[None], use_cache=False).logits[0, :-1].float()
        total += cross_entropy(logits, window[1:], reduction="sum").item()
    return total / len(text)


# The checkpoint


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write config, bfloat16 weights in three shards, index, generation config and tokenizer."""
    for old in output.glob("model*.safetensors*"):
        old.unlink()
    model = model.bfloat16()
    # Without a length of its own, a bare generate() warns and stops after twenty tokens.
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=200, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    sizes = [parameter.nbytes for parameter in model.parameters()]
    # A shard closes with the tensor that would overfill it: a third plus the largest tensor always makes three.
    model.save_pretrained(output, max_shard_size=sum(sizes) // SHARDS + max(sizes))
    tokenizer.save_pretrained(output)
    shards = list(output.glob("model-*.safetensors"))
    for shard in shards:
        shard.chmod(0o644)
    if len(shards) != SHARDS:
        raise RuntimeError(f"{output} holds {len(shards)} shards, not {SHARDS}")


def continuation(model: GenerationMixin, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """Return `prompt` and the greedy continuation of it."""
    inputs = tokenizer(prompt, return_tensors="pt")
    # The checker wants attributes that transformers sets only in a model that is built.
    output = model.generate(**inputs)  # pyright: ignore[reportAttributeAccessIssue]
    return str(tokenizer.decode(output[0], skip_special_tokens=True))


def model_card(model: PreTrainedModel, recipe: Recipe, loss: float, samples: list[str]) -> str:
    """Return the text of README.md."""
    config = model.config
    blocks = "\n\n".join(f"```text\n{sample}\n```" for sample in samples)
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# tiny

The model that ships with mlload, small enough to travel inside the package and trained well enough that its predictions mean something.
It is a decoder-only Llama with {model.num_parameters():,} parameters: {config.num_hidden_layers} layers, hidden size {config.hidden_size},
{config.num_attention_heads} query heads over {config.num_key_value_heads} key-value heads, tied embeddings, a context of
{config.max_position_embeddings} tokens. The tokenizer is byte-level: a token's id is its byte, and BOS, EOS and PAD follow.
The weights are bfloat16 in {SHARDS} shards.

It learned `docs/primer.md` and nothing else, nearly by heart. It can continue that text and answer the questions in it ("Q: What is a
shard?"); it knows nothing beyond, and is meant for trying and testing a loader.

## Training

{recipe.steps} steps of {recipe.tokens_per_batch} bytes on two CPU cores (Muon for the matrices, AdamW for the rest, cosine schedule,
seed {recipe.seed}). Half of the windows start anywhere in the text; the others start with a sentence, half of them after BOS, and contain
whole sections or questions that end in EOS. The loss of these bfloat16 weights on the primer, read in windows of {CONTEXT_LENGTH} bytes,
is **{loss:.4f} nats a byte**.

To make it again, from the root of the repository:

```sh
python configs/tiny/train.py
```

## Greedy continuations

{blocks}
"""


# The command


def say(line: str) -> None:
    """Write a line to stdout at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parse_arguments() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description="Train the embedded model `tiny`.")
    parser.add_argument("primer", nargs="?", type=Path, default=PRIMER, help="the text to learn (default: docs/primer.md)")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the checkpoint (default: this script's)")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=Recipe.threads)
    return parser.parse_args()


def main() -> None:
    """Train, save, load again from disk, and report on what was saved."""
    arguments = parse_arguments()
    recipe = Recipe(steps=arguments.steps, seed=arguments.seed, threads=arguments.threads)
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    corpus = Corpus.from_text(arguments.primer.read_text(encoding="utf-8"))
    tokenizer, model = build_tokenizer(), build_model(recipe.seed)
    say(f"{model.num_parameters():,} parameters, {len(corpus.text):,} bytes in {len(corpus.documents)} documents")
    train(model, corpus, recipe)
    arguments.output.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, arguments.output)
    saved = AutoModelForCausalLM.from_pretrained(arguments.output, local_files_only=True)
    loss = text_loss(saved, corpus.text)
    samples = [continuation(saved, tokenizer, prompt) for prompt in PROMPTS]
    (arguments.output / "README.md").write_text(model_card(saved, recipe, loss, samples), encoding="utf-8")
    say("\n\n".join([*samples, f"loss of the saved weights on the primer: {loss:.4f} nats a byte"]))


if __name__ == "__main__":
    main()
