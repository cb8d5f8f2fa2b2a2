"""`probe_layers`: hidden states of texts, in a table or in a folder, from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ...loader.errors import UsageError
from ..base import BaseModelRunner
from ..models import load_model
from .folder import OutputFolder
from .formats import find_format
from .job import ProbeJob, Progress
from .label_probe import check_one_row_a_text, check_scikit_learn, label_probe
from .layer_similarity import FEWEST_ROWS, check_similarity, layer_similarity
from .lens import lens_texts, look_through
from .pictures import check_picture, draw
from .ray_engine import check_ray, run_on_ray
from .reader import Probe, open_probe
from .report import AttentionReport, ProbeReport, layer_lines, probe_report
from .settings import ProbeSettings
from .texts import Example, as_examples

if TYPE_CHECKING:
    import torch

    from ...loader.registry import ModelSpec


ON_TERMINAL = "-"  # no file: what a picture shows is in the report
_MOST_TOKENS_SHOWN = 32


def probe_layers(
    model: str | os.PathLike[str] | ModelSpec | BaseModelRunner | Callable[[], BaseModelRunner],
    texts: str | Iterable[str | Example],
    settings: ProbeSettings | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    format: str = "safetensors",
    labels: Sequence[str] | None = None,
    similarity: str | None = None,
    plot: str | os.PathLike[str] | None = None,
    logit_lens: bool = False,
    actors: int | None = None,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
    **asked: object,
) -> ProbeReport:
    """Run texts through a model and look at its layers; `output` keeps their states, for `open_probe`.

    `settings` or, by name, its fields: layers, stack, pool, tokens, max_length, batch_tokens, attentions, cross_attentions,
    texts_per_shard. `texts` may be any number: a window of them is in memory at a time. Run again after it was killed, it goes on. `model`
    is what `load_model` takes, a runner, or a function that loads one. `labels`, one a text: a linear probe for them on each layer.
    `similarity`: `cosine` or `cka` of each layer with each. `logit_lens`: the likeliest tokens after each layer, of a few texts. `plot`: a
    picture of it all, .png, .svg or .pdf; with `-` the report alone has what a picture shows. `actors`: so many processes compute, on Ray;
    the files that they write are the same.

    Raises UsageError for what is unknown or does not go together, and whatever loading raises.
    """
    settings = settings or _settings(asked)
    seen = lens_texts(texts) if logit_lens else []
    shape = find_format(format)
    shape.writer()  # its package is missed now, or never
    _check_looks(labels, similarity, plot)
    texts = [texts] if isinstance(texts, str) else texts
    load = _loading(model, device, dtype, settings)
    if actors is not None:
        check_ray(texts, model, output)
    job = ProbeJob(load(), settings)
    if labels is not None:
        check_one_row_a_text(pooling=job.recorder.pool, tokens=settings.tokens)
    heard = Progress(progress or (lambda texts: None))
    looks = (labels, similarity, plot) != (None, None, None)
    with ExitStack() as scratch:  # states that are only looked at are not kept
        kept = output if output is not None or not looks else scratch.enter_context(TemporaryDirectory()) + "/probe"
        folder = None if kept is None else OutputFolder(Path(kept), job.identity, shape)
        with nullcontext() if folder is None else folder.opened():
            if actors is None or folder is None:
                lines = job.run(as_examples(texts), folder, heard)
            else:
                lines = run_on_ray(job, load, texts, folder, heard, actors=actors)
            if folder is not None:
                folder.finish(lines, [asdict(line) for line in layer_lines(job, lines)])
        where = None if output is None else os.fspath(output)
        report = probe_report(job, lines, heard, output=where, format=None if output is None else format)
        report = replace(report, lens=look_through(job.runner, seen) if seen else None)
        if kept is None or not looks:
            return report
        probe = open_probe(kept)
        return _looked_at(replace(report, attention=_attention(job, probe)), probe, labels, similarity, plot)


def _check_looks(labels: Sequence[str] | None, similarity: str | None, plot: str | os.PathLike[str] | None) -> None:
    """What can't be made is known before anything is computed."""
    if plot is not None and plot != ON_TERMINAL:
        check_picture(Path(plot))
    if similarity is not None:
        check_similarity(similarity)
    if labels is not None:
        check_scikit_learn()


def _looked_at(
    report: ProbeReport, probe: Probe, labels: Sequence[str] | None, similarity: str | None, plot: str | os.PathLike[str] | None
) -> ProbeReport:
    """The report with what was asked about the states; a picture always shows how alike layers are, where there are rows enough."""
    if labels is not None and len(labels) != report.texts:
        raise UsageError(f"there are {len(labels):,} labels for {report.texts:,} texts", hint="give one a text")
    if similarity is not None or (plot is not None and report.rows >= FEWEST_ROWS):
        report = replace(report, layer_similarity=layer_similarity(probe, similarity or "cosine"))
    if labels is not None:
        report = replace(report, labels=label_probe(probe, labels))
    if plot is not None and plot != ON_TERMINAL:
        draw(report, probe, Path(plot))
    return report


def _attention(job: ProbeJob, probe: Probe) -> AttentionReport | None:
    names = [name for name in probe.names if "attentions" in name]
    if not names or len(probe) > 1 or int(probe.lengths[0]) > _MOST_TOKENS_SHOWN:
        return None
    tokens = tuple(str(token) for token in job.runner.tokenizer.convert_ids_to_tokens(probe.input_ids.tolist()))
    maps = {name: tuple(tuple(line) for line in probe[name][0].float().mean(dim=0).tolist()) for name in names}
    return AttentionReport(tokens, maps)


def _loading(
    model: str | os.PathLike[str] | ModelSpec | BaseModelRunner | Callable[[], BaseModelRunner],
    device: str | int | torch.device | None,
    dtype: str | torch.dtype | None,
    settings: ProbeSettings,
) -> Callable[[], BaseModelRunner]:
    """What loads the model."""
    if isinstance(model, BaseModelRunner):
        return lambda: model
    if callable(model):
        return model
    return partial(load_model, model, device, dtype=dtype, attentions=settings.wants_maps, head=False)


def _settings(asked: dict[str, object]) -> ProbeSettings:
    from dataclasses import fields

    from ...loader.text import did_you_mean

    known = [field.name for field in fields(ProbeSettings)]
    for name in asked:
        if name not in known:
            raise UsageError(f"unknown setting '{name}'", hint=did_you_mean(name, known) or f"known: {', '.join(known)}")
    return ProbeSettings(**asked)  # pyright: ignore[reportArgumentType]  # checked by name above
