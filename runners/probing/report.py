"""What came of a probe, as plain data for tables and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .statistics import LayerLine, Sums, layer_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .folder import ShardLine
    from .job import ProbeJob, Progress
    from .label_probe import LabelReport
    from .lens import LensReport
from .layer_similarity import LayerSimilarity

SCHEMA = "mlload.probe/1"


@dataclass(frozen=True)
class AttentionReport:
    """The attention maps of one short text, heads averaged: which token (row) reads which."""

    tokens: tuple[str, ...]
    maps: dict[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class ProbeReport:
    """A line for each kept layer, and what they were made of.

    `truncated_texts` lost `dropped_tokens` to `max_length`; `empty_texts` have no token. `resumed_texts` were there from an earlier run.
    `output` is the folder that holds the states, None where only sums were wanted. `layer_similarity` and `labels` are there where they
    were asked for, and so is `lens`; `attention` of a single short text whose maps are looked at.
    """

    reference: str
    revision: str | None
    class_name: str
    kind: str | None
    device: str
    dtype: str
    strategy: str
    pooling: str
    tokens: str | None
    max_length: int | None
    batch_tokens: int
    texts: int
    rows: int
    read_tokens: int
    truncated_texts: int
    dropped_tokens: int
    empty_texts: int
    layers: tuple[LayerLine, ...]
    maps: tuple[str, ...]
    output: str | None
    format: str | None
    shards: int
    resumed_texts: int
    seconds: dict[str, float]
    layer_similarity: LayerSimilarity | None = None
    labels: LabelReport | None = None
    attention: AttentionReport | None = None
    lens: LensReport | None = None

    def to_json(self) -> dict[str, object]:
        """One object of plain values."""
        seconds = {name: round(value, 4) for name, value in self.seconds.items()}
        return {"schema": SCHEMA, **asdict(self), "seconds": seconds}


def probe_report(job: ProbeJob, lines: Sequence[ShardLine], progress: Progress, *, output: str | None, format: str | None) -> ProbeReport:
    """The report of a job that is done."""
    loaded = job.runner.loaded
    return ProbeReport(
        reference=loaded.reference,
        revision=loaded.checkpoint.revision,
        class_name=type(job.runner.model).__name__,
        kind=None if loaded.kind is None else loaded.kind.value,
        device=str(job.runner.device),
        dtype=str(job.runner.dtype).removeprefix("torch."),
        strategy=loaded.strategy.value,
        pooling=job.recorder.pool,
        tokens=job.settings.tokens,
        max_length=job.max_length,
        batch_tokens=job.batch_tokens,
        texts=sum(line.texts for line in lines),
        rows=sum(line.rows for line in lines),
        read_tokens=sum(line.tokens for line in lines),
        truncated_texts=sum(line.truncated for line in lines),
        dropped_tokens=sum(line.dropped for line in lines),
        empty_texts=sum(line.empty for line in lines),
        layers=layer_lines(job, lines),
        maps=tuple(kept.name for kept in job.recorder.kept if kept.maps is not None),
        output=output,
        format=format,
        shards=len(lines) if output is not None else 0,
        resumed_texts=progress.resumed_texts,
        seconds={**loaded.seconds, **progress.seconds},
    )


def layer_lines(job: ProbeJob, lines: Sequence[ShardLine]) -> tuple[LayerLine, ...]:
    """The sums of all shards, put together in their order: the same bits whether a job was killed or not."""
    made: list[LayerLine] = []
    stack = None
    for kept in job.recorder.kept:
        if kept.maps is None:
            sums = Sums()
            for line in lines:
                sums.merge(line.sums[kept.name])
            made.append(layer_line(kept.stack, kept.layer, sums, is_first=kept.stack != stack))
            stack = kept.stack
    return tuple(made)


def short(name: str) -> str:
    """`encoder 6` for `encoder.layer.6`, `6` for `layer.6`."""
    return name.replace("layer.", "").replace(".", " ")
