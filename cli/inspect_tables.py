"""The report of `inspect` as tables for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..loader.architecture.kv_cache import KVCache
from ..loader.inspection import Component, InspectReport, LayerGroup, StackSummary
from ..loader.problems import Problem
from ..loader.text import counted, format_bytes, format_count, printable

if TYPE_CHECKING:
    from ..loader.adapter import Adapter

_BAR = 16  # columns of a whole share, at most
_MOST_FILES = 12
_MOST_TARGETS = 8  # modules that an adapter changes
_MOST_SHARED = 3
_MOST_ROWS = 1_000  # of parts
_LONG_CONTEXT = 8192  # tokens for which the cache is shown beside the model's own context
_SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}

_LEAST_BAR = 4
_GAP = 2  # columns between columns
_LEFT = ("part", "dtype")
_GIVING_WAY = ("share", "dtype", "tensors")  # in this order, where the terminal is too narrow
_BOUNDLESS = 1_000_000


class _Row(NamedTuple):
    """A row's style, its cells, and its share of all bytes."""

    style: str | None
    cells: tuple[str, ...]
    share: float = 0.0


def inspect_tables(report: InspectReport, *, unfold: bool = False, width: int | None = None) -> Iterator[RenderableType]:
    """Headline, facts, parts, files and problems; `unfold` gives every layer a row. `width` is the terminal's, None for no bound."""
    yield _headline(report)
    yield _facts(report)
    yield Text()
    yield _parts(report, unfold=unfold, width=width)
    if len(report.by_dtype) > 1:
        yield Text()
        yield _dtypes(report, width=width)
    yield Text()
    yield _files(report)
    yield Text()
    yield from _problems(report.problems)


def _headline(report: InspectReport) -> Text:
    if report.adapter is not None:
        return _adapter(report.adapter)
    name = _family(report)
    version = "" if report.version is None or report.family is None or report.version in name else f" {report.version}"
    class_name = "" if report.class_name is None else f"  {printable(report.class_name)}"
    return Text.assemble((f"{name}{version}", "bold cyan"), (f"  {report.kind or 'of unknown kind'}", "bold"), (class_name, "dim"))


def _family(report: InspectReport) -> str:
    """The family that the config names; without one only whose names the tensors have, which others may share."""
    if report.family is not None:
        return printable(report.family)
    if report.architecture == "other":
        return "unknown family"
    return f"{'llama' if report.architecture == 'mistral' else report.architecture}-like (by tensor names)"


def _adapter(adapter: Adapter) -> Text:
    """What the adapter is, and of what."""
    targets = ", ".join(printable(name, limit=60) for name in adapter.target_modules[:_MOST_TARGETS])
    more = " ..." if len(adapter.target_modules) > _MOST_TARGETS else ""
    parts = (
        (f"{printable(adapter.method or '', limit=20)} adapter".lstrip(), "bold cyan"),
        ("" if adapter.rank is None else f"  rank {adapter.rank}", "bold"),
        (f"  of {targets}{more}" if targets else "", "bold"),
        ("" if adapter.base_model is None else f"  for {printable(adapter.base_model, limit=200)}", "dim"),
    )
    return Text.assemble(*parts)


def _facts(report: InspectReport) -> Table:
    """The facts, a line each; those that the checkpoint does not tell are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _fact_lines(report):
        if value:
            table.add_row(label, Text(value))
    return table


def _fact_lines(report: InspectReport) -> Iterator[tuple[str, str]]:
    active = f", {format_count(report.active_parameters)} active for a token" if report.active_parameters else ""
    yield "name", printable(report.name or "", limit=120)
    partial = ", without those of the missing shards" if report.partial else ""
    yield "parameters", f"{format_count(report.parameters)} ({report.parameters:,}){active}{partial}"
    weights = [file for file in report.files if file.role == "weights"]
    shards = f" in {len(weights)} shards" if len(weights) > 1 else ""
    kind = f"{report.format} {report.file_type}" if report.file_type else report.format
    yield "weights", f"{format_bytes(report.bytes)} ({report.bytes:,} bytes), {kind}{shards}, {counted(report.tensors, 'tensor')}"
    yield "quantized", _quantization(report)
    yield "layers" if report.num_layers else "sizes", _shape(report)
    yield "experts", _experts(report)
    yield "context", _context(report)
    yield "KV cache", "" if report.kv_cache is None else _cache(report.kv_cache, report.context_length)
    own = "own head, though the config ties it" if report.ties_stored_head else "own head"
    tied = "tied embeddings" if report.tie_word_embeddings else own if report.head else ""
    marks = ("fused QKV", report.fused_qkv), ("fused gate+up", report.fused_gate_up), ("parallel residual", report.parallel_residual)
    yield (
        "blocks",
        ", ".join(
            part for part in (report.activation, report.norm_type, tied, *(word for word, on in marks if on)) if part != "other" and part
        ),
    )
    yield "shared", _shared(report.shared_tensors)
    tokenizer = report.tokenizer
    if tokenizer is not None:
        named = f"{printable(tokenizer.tokenizer_class)}, " if tokenizer.tokenizer_class else ""
        yield "tokenizer", f"{named}{printable(tokenizer.kind)} ({printable(tokenizer.file)})"
    yield "licence", printable(report.license or "")
    revision = f" @ {report.revision}" if report.revision else ""
    cost = "" if report.requests is None else f", {counted(report.requests, 'request')}, {format_bytes(report.bytes_read or 0)} read"
    yield "from", f"{report.source}: {printable(report.location)}{revision}{cost}"


def _shared(names: dict[str, str]) -> str:
    """Tensors that lie in the bytes of others."""
    first = ", ".join(f"{printable(name, limit=80)} with {printable(base, limit=80)}" for name, base in islice(names.items(), _MOST_SHARED))
    return first + (f" and {len(names) - _MOST_SHARED:,} more" if len(names) > _MOST_SHARED else "")


def _shape(report: InspectReport) -> str:
    numbers = (
        (_layers(report), report.num_layers),
        (f"hidden {report.hidden_size or 0:,}", report.hidden_size),
        (f"heads {report.num_attention_heads}", report.num_attention_heads),
        (
            f"KV heads {report.num_key_value_heads}",
            report.num_key_value_heads if report.num_key_value_heads != report.num_attention_heads else None,
        ),
        (f"head dim {report.head_dim}", report.head_dim),
        (f"vocabulary {report.vocab_size or 0:,}", report.vocab_size),
    )
    return ", ".join(words for words, value in numbers if value)


def _layers(report: InspectReport) -> str:
    """The main stack's layers, beside those of the largest stack of every other sort."""
    main = next((stack for stack in report.stacks if stack.main), None)
    beside = sorted((stack for stack in report.stacks if not stack.side and stack is not main), key=lambda stack: stack.num_layers)
    largest = {_sort(stack): stack.num_layers for stack in beside if main is None or _sort(stack) != _sort(main)}
    words = [f"{sort} {count}" for sort, count in sorted(largest.items(), reverse=True)]
    if main is None or not words:
        return f"{report.num_layers}"
    named = _sort(main) if {"encoder", "decoder"} & largest.keys() or report.kind == "seq2seq" else main.modality
    return " + ".join([*words, f"{named} {report.num_layers}"])


def _sort(stack: StackSummary) -> str:
    return stack.role if stack.modality == "text" else stack.modality


def _quantization(report: InspectReport) -> str:
    found = report.quantization
    if found is None:
        return ""
    bits = "" if found.bits is None else f", {found.bits:g} bits a weight"
    group = "" if found.group_size is None else f", group size {found.group_size}"
    double = ", double quantization" if found.details.get("double_quantization") else ""
    unknown = (
        f"; {counted(found.counted_as_stored, 'tensor')} counted as stored, what they hold is not told" if found.counted_as_stored else ""
    )
    size = f"{counted(found.quantized_tensors, 'tensor')} of {format_bytes(found.quantized_bytes)}"
    return f"{printable(found.method)}{bits}{group}{double}, {size}{unknown}"


def _experts(report: InspectReport) -> str:
    experts = report.experts
    if experts is None:
        return ""
    chosen = "" if experts.experts_per_token is None else f", {experts.experts_per_token} a token"
    return f"{experts.num_experts}{chosen}, {format_count(experts.routed_parameters)} parameters in them"


def _context(report: InspectReport) -> str:
    parts = [counted(report.context_length, "token")] if report.context_length else []
    rope = report.rope
    if rope is not None:
        theta = "" if rope.theta is None else f" theta {rope.theta:,.0f}"
        factor = "" if rope.factor is None else f" x{rope.factor:g}"
        parts.append(f"RoPE{theta}" + ("" if rope.scaling == "none" else f", {rope.scaling.value} scaling{factor}"))
    return ", ".join(parts)


def _cache(cache: KVCache, context: int | None) -> str:
    lengths = sorted({length for length in (_LONG_CONTEXT, context) if length and length <= (context or _LONG_CONTEXT)})
    sizes = ", ".join(f"{format_bytes(cache.bytes_at(length))} at {length:,}" for length in lengths)
    sliding = counted(cache.sliding_layers, "layer")
    window = "" if cache.window is None else f"; {sliding} with a window of {counted(cache.window, 'token')}"
    latent = (
        ""
        if cache.expanded_bytes_per_token is None
        else f"; {format_bytes(cache.expanded_bytes_per_token)} a token if heads are cached, not latents"
    )
    return f"{format_bytes(cache.bytes_per_token)} a token in {cache.dtype} ({sizes}{window}{latent})"


def _parts(report: InspectReport, *, unfold: bool, width: int | None) -> Table:
    """Every part in order, stacks as their layers."""
    every = _part_rows(report, unfold=unfold)
    rows = list(islice(every, _MOST_ROWS))
    rest = sum(1 for _ in every)
    if rest:
        rows.append(_Row("dim", (f"{rest:,} more lines (--json lists all)", "", "", "", "", "")))
    sizes = (f"{report.tensors:,}", format_count(report.parameters), format_bytes(report.bytes))
    rows.append(_Row("bold", ("total", *sizes, "", ", ".join(report.by_dtype))))
    return _with_bars(("part", "tensors", "parameters", "bytes", "share", "dtype"), rows, width)


def _with_bars(titles: Sequence[str], rows: Sequence[_Row], width: int | None) -> Table:
    """The rows with bars for their shares. What does not fit into `width` is left out, so that names and sizes remain."""
    columns = {title: max(map(cell_len, (title, *(row.cells[at] for row in rows)))) for at, title in enumerate(titles)}
    room = _BOUNDLESS if width is None else width
    for title in _GIVING_WAY:
        if _taken(columns) > room:
            columns.pop(title, None)
    bar = min(_BAR, room - _taken(columns) - _GAP)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in columns:
        table.add_column(title, justify="left" if title in _LEFT else "right", no_wrap=title != titles[0], overflow="fold")
    if bar >= _LEAST_BAR:
        table.add_column("", style="cyan", no_wrap=True)
    for row in rows:
        cells = (cell for title, cell in zip(titles, row.cells, strict=True) if title in columns)
        bars = ("█" * round(row.share * bar),) if bar >= _LEAST_BAR else ()
        table.add_row(*cells, *bars, style=row.style)
    return table


def _taken(columns: Mapping[str, int]) -> int:
    return sum(columns.values()) + _GAP * (len(columns) - 1)


def _part_rows(report: InspectReport, *, unfold: bool) -> Iterator[_Row]:
    groups: dict[str, list[LayerGroup]] = {}
    for group in report.layers:
        groups.setdefault(f"{group.stack}.*", []).append(group)
    for part in report.components:
        if part.role != "layers":
            yield _row(part.name, part, report, style="dim" if part.role == "other" else None)
            continue
        for group in groups.get(part.name, ()):
            yield from _layer_rows(group, report, unfold=unfold)


def _layer_rows(group: LayerGroup, report: InspectReport, *, unfold: bool) -> Iterator[_Row]:
    count = group.last - group.first + 1
    if unfold or count == 1:
        for index in range(group.first, group.last + 1):
            yield _row(f"{group.stack}.{index}", group, report)
        return
    yield _row(f"{group.stack}.{group.first} to {group.last}", group, report, count=count)
    yield _Row("dim", ("  each", f"{group.tensors:,}", format_count(group.parameters), format_bytes(group.bytes), "", ""))


def _row(name: str, part: Component | LayerGroup, report: InspectReport, *, count: int = 1, style: str | None = None) -> _Row:
    """One row for `count` parts like this one."""
    sizes = (f"{count * part.tensors:,}", format_count(count * part.parameters), format_bytes(count * part.bytes))
    share = _share(count * part.bytes, report)
    return _Row(style, (printable(name), *sizes, f"{share:.1%}", ", ".join(part.dtypes)), share)


def _share(count: int, report: InspectReport) -> float:
    return count / report.bytes if report.bytes else 0.0


def _dtypes(report: InspectReport, *, width: int | None) -> Table:
    rows: list[_Row] = []
    for dtype, amount in report.by_dtype.items():
        sizes = (f"{amount.tensors:,}", format_count(amount.parameters), format_bytes(amount.bytes))
        share = _share(amount.bytes, report)
        rows.append(_Row(None, (dtype, *sizes, f"{share:.1%}"), share))
    return _with_bars(("dtype", "tensors", "parameters", "bytes", "share"), rows, width)


def _files(report: InspectReport) -> Table:
    """The files, weights first; when there are many, only the first ones and a count."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("for", no_wrap=True)
    files = sorted(report.files, key=lambda file: (file.role != "weights", file.role != "index", file.role == "other"))
    for file in files[:_MOST_FILES]:
        table.add_row(Text(printable(file.name)), format_bytes(file.bytes) if file.bytes >= 0 else "?", file.role)
    rest = files[_MOST_FILES:]
    if rest:
        table.add_row(f"{len(rest):,} more", format_bytes(sum(max(file.bytes, 0) for file in rest)), "", style="dim")
    return table


def _problems(problems: tuple[Problem, ...]) -> Iterator[Text]:
    if all(problem.severity == "note" for problem in problems):
        yield Text("no problems found", style="green")
    for problem in problems:
        where = ": ".join(printable(part, limit=120) for part in (problem.file, problem.tensor) if part is not None)
        line = Text(f"{problem.severity}: ", style=_SEVERITY_STYLES[problem.severity])
        line.append(f"{where}: " if where else "", style="bold")
        line.append(printable(problem.message, limit=300), style="default")
        yield line
