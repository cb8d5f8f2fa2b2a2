"""Cases of what stands in a folder beside or instead of weights, of links, and of what may be asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from hostile.case import Case, Writer
from hostile.writing import CONFIG, INDEX, LLAMA_CONFIG, SHARDS, WEIGHTS, both, config, files, llama, mapped, nothing, safetensors

_LLAMA = safetensors(llama())
_TINY = safetensors({"w": ("F32", [2])})
_COMMIT = "0123456789abcdef" * 2 + "01234567"


def _bind(path: Path) -> None:
    """A socket's name; its folder may lie too deep for a whole path to fit."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def _instead(name: str, make: Callable[[Path], object]) -> Writer:
    """A correct LLaMA in whose folder `name` is something else."""

    def write(folder: Path) -> None:
        config()(folder)
        # A single file comes before an index, which would not be read beside it.
        (folder / (WEIGHTS if name == INDEX else name)).unlink(missing_ok=True)
        make(folder / name)

    return write


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


# What can be there in place of a file, how it is made, and what the error calls it.
_SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "fifo"),
    "socket": (_bind, "socket"),
    "folder": (Path.mkdir, "folder"),
    "link-to-a-folder": (_link(".."), "folder"),
    "link-to-itself": (lambda path: path.symlink_to(path.name), "loop"),
    "link-to-nothing": (_link("../blobs/0123"), "link"),
    "link-to-zero": (_link("/dev/zero"), "device"),
    "link-to-random": (_link("/dev/urandom"), "device"),
    "link-to-the-terminal": (_link("/dev/tty"), "device"),
    "link-to-proc": (_link("/proc/self/mem"), ""),
    "link-to-stdin": (_link("/proc/self/fd/0"), ""),
}


def _special_cases(file: str) -> tuple[Case, ...]:
    return tuple(Case("hostile", f"{file}-is-a-{what}", _instead(file, make), 4, (file, word)) for what, (make, word) in _SPECIAL.items())


def _in_cache(folder: Path) -> None:
    """The layout of the hub's cache: blobs, and a snapshot of links to them."""
    snapshot, blobs = folder / "models--org--name/snapshots" / _COMMIT, folder / "models--org--name/blobs"
    for each in (snapshot, blobs, folder / "models--org--name/refs"):
        each.mkdir(parents=True)
    (folder / "models--org--name/refs/main").write_text(_COMMIT)
    config()(blobs)
    for name in (WEIGHTS, CONFIG):
        (snapshot / name).symlink_to(f"../../blobs/{name}")


def _cache_with_a_ref(text: str) -> Writer:
    """The same with something else for main's commit, and a second snapshot, so that only the ref can tell."""

    def write(folder: Path) -> None:
        _in_cache(folder)
        (folder / "models--org--name/snapshots" / ("f" * 40)).mkdir()
        (folder / "models--org--name/refs/main").write_text(text)

    return write


def _elsewhere(folder: Path) -> None:
    """A folder of links to a model somewhere else."""
    (folder / "real").mkdir()
    config()(folder / "real")
    (folder / "linked").symlink_to("real")
    (folder / "links").mkdir()
    for name in (WEIGHTS, CONFIG):
        (folder / "links" / name).symlink_to(f"../real/{name}")


def _good(name: str, write: Writer, *codes: str, reference: str = "{}", args: tuple[str, ...] = ("--json",)) -> Case:
    return Case("good", name, write, 0, codes, args, reference)


def _odd(name: str, write: Writer, *codes: str) -> Case:
    return Case("broken", name, write, 0, codes)


def _not_found(name: str, write: Writer, *words: str, reference: str = "{}", args: tuple[str, ...] = ("--json",)) -> Case:
    return Case("broken", name, write, 3, words, args, reference)


def _usage(name: str, reference: str, *words: str) -> Case:
    return Case("hostile", name, nothing, 2, words, ("--json",), reference)


_BESIDE = {
    "README.md": "---\nlicense: mit\n---\n",
    "tokenizer.json": "{}",
    "training_args.bin": b"\x80\x02cposix\nsystem\nX\x05\x00\x00\x00false\x85R.",
    "optimizer.pt": b"PK\x03\x04",
    ".gitattributes": "",
}

LAYOUTS = (
    _good("beside-other-files", both(config(), files(_BESIDE))),
    _good("folder-with-a-slash", config(), reference="{}/"),
    _good("folder-behind-a-link", _elsewhere, reference="{}/linked"),
    _good("folder-of-links", _elsewhere, reference="{}/links"),
    _good("file-given", config(), reference="{}/" + WEIGHTS),
    _good("index-given", mapped(), reference="{}/" + INDEX),
    _good("shard-given", mapped(), reference="{}/" + SHARDS[0]),
    _good("file-option", both(config(), files({"other.safetensors": _LLAMA})), args=("--json", "--file", "other.safetensors")),
    _good("cache-folder", _in_cache, reference="{}/models--org--name"),
    _good("cache-snapshot", _in_cache, reference="{}/models--org--name/snapshots/" + _COMMIT),
    _good(
        "shards-without-index",
        files(
            {
                SHARDS[0]: safetensors(llama((0,))),
                SHARDS[1]: safetensors({k: v for k, v in llama().items() if ".1." in k}),
                CONFIG: LLAMA_CONFIG,
            }
        ),
        "no-index",
    ),
    _odd("several-layouts", both(config(), files({"pytorch_model.bin": b"PK\x03\x04", "model.gguf": b"GGUF"})), "several-layouts"),
    _odd("file-and-index", both(mapped(), files({WEIGHTS: _LLAMA})), "several-layouts"),
    _odd("file-and-a-shard-left-over", both(config(), files({SHARDS[0]: _TINY})), "several-layouts"),
    Case("broken", "two-single-files", files({"a.safetensors": _TINY, "b.safetensors": _TINY, CONFIG: {}}), 2, ("b.safetensors", "--file")),
    _odd("shards-without-index-one-missing", files({SHARDS[0]: _LLAMA, CONFIG: LLAMA_CONFIG}), "missing-shard"),
    _odd("readme-of-binary", both(config(), files({"README.md": bytes(range(256)) * 100}))),
    _odd(
        "names-with-control-characters",
        both(config(), files({"\x1b[31m.txt": "", "a\nb": "", "[red].safetensors": _TINY, "\u202egnp.md": ""})),
        "several-layouts",
    ),
    _odd(
        "name-not-utf8",
        both(config(), lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.safetensors")).write_bytes(_TINY)),
        "several-layouts",
    ),
    Case(
        "hostile",
        "names-with-control-characters-as-tables",
        both(config(), files({"\x1b[31m.txt": "", "a\nb": "", "\u202egnp.md": ""})),
        0,
        ("x1b[31m.txt",),
        (),
    ),
)

SPECIAL = (
    *_special_cases(WEIGHTS),
    *_special_cases(CONFIG),
    Case("hostile", "index-is-a-fifo", _instead(INDEX, os.mkfifo), 4, (INDEX, "fifo")),
    Case(
        "hostile",
        "shard-is-a-fifo",
        both(mapped(), _unlinked := lambda folder: (folder / SHARDS[1]).unlink(), lambda folder: os.mkfifo(folder / SHARDS[1])),
        4,
        (SHARDS[1], "fifo"),
    ),
    Case("hostile", "shard-is-a-folder", both(mapped(), _unlinked, lambda folder: (folder / SHARDS[1]).mkdir()), 4, (SHARDS[1], "folder")),
    Case("hostile", "readme-is-a-fifo", both(config(), lambda folder: os.mkfifo(folder / "README.md")), 0, ()),
    Case("hostile", "tokenizer-config-is-a-fifo", both(config(), lambda folder: os.mkfifo(folder / "tokenizer_config.json")), 0, ()),
    Case("hostile", "fifo-given", lambda folder: os.mkfifo(folder / WEIGHTS), 4, (WEIGHTS, "fifo"), reference="{}/" + WEIGHTS),
    Case("hostile", "cache-ref-leads-away", _cache_with_a_ref("../../../../etc"), 3, ("weights",), reference="{}/models--org--name"),
    Case("hostile", "cache-ref-of-binary", _cache_with_a_ref("\udcff\0"[1:] * 40), 3, ("weights",), reference="{}/models--org--name"),
)

REFERENCES = (
    _not_found("folder-empty", nothing, "no weights", "downloaded whole"),
    _not_found("folder-of-config-alone", files({CONFIG: LLAMA_CONFIG}), "no weights"),
    _not_found("folder-of-foreign-formats", files({"tf_model.h5": b"\x89HDF", CONFIG: LLAMA_CONFIG}), "tf_model.h5", "safetensors"),
    _not_found("folder-of-trainer-state", files({"optimizer.bin": b"", "training_args.bin": b""}), "no weights"),
    _not_found("path-to-nothing", nothing, "no such file", reference="{}/nowhere/model"),
    _not_found("path-relative-to-nothing", nothing, "no such file", reference="../../x"),
    _not_found("path-in-no-home", nothing, "no such file", reference="~nosuchuser/model"),
    _not_found("path-through-a-file", config(), "no such file", reference="{}/config.json/model"),
    _not_found("path-with-escapes", nothing, "\\x1b", reference="./\x1b[31m/\u202ex"),
    _not_found("file-of-another-kind", config(), "config.json", reference="{}/config.json"),
    _not_found("file-option-to-nothing", config(), "ghost.safetensors", args=("--json", "--file", "ghost.safetensors")),
    _not_found("file-option-leading-away", config(), "../x.safetensors", args=("--json", "--file", "../x.safetensors")),
    _not_found("device-given", nothing, "/dev/zero", reference="/dev/zero"),
    _not_found("link-loop-given", lambda folder: (folder / "loop").symlink_to("loop"), "loop", reference="{}/loop"),
    _not_found("hub-id-offline", nothing, "org/name", "HF_HUB_OFFLINE", reference="org/name"),
    _usage("reference-empty", "", "empty"),
    _usage("reference-a-space", " ", "hub id"),
    _usage("reference-with-a-space", "a b", "hub id"),
    _usage("reference-with-a-space-in-the-name", "org/na me", "hub id"),
    _usage("reference-with-two-dots", "org/na..me", "hub id"),
    _usage("reference-with-markup", "[/red]", "hub id"),
    _usage("reference-with-escapes", "\x1b[31mred", "\\x1b", "hub id"),
    _usage("reference-with-a-newline", "a\nerror: b", "hub id"),
    _usage("reference-of-100000-characters", "a" * 100_000, "hub id"),
    _usage("reference-not-utf8", os.fsdecode(b"\xff\xfe"), "hub id"),
    _usage("revision-empty", "org/name@", "revision"),
    _usage("revision-leading-away", "org/name@../../x", "revision"),
    _usage("page-of-another-scheme", "file:///etc/passwd", "page"),
    _usage("page-of-another-host", "https://evil.example/org/name", "hub"),
)

CASES = (*LAYOUTS, *SPECIAL, *REFERENCES)
