"""Where in the network a label sits: a linear classifier on each layer's rows, beside one on shuffled labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ...loader.errors import MissingDependencyError, UsageError
from .reader import Probe

if TYPE_CHECKING:
    import numpy

_FOLDS = 5
_SEED = 0


@dataclass(frozen=True)
class LabelScore:
    """One layer: cross-validated accuracy, and its standard deviation over the folds.

    `control` is the accuracy on shuffled labels, what such a classifier finds where there is nothing; `selectivity` is the difference.
    """

    name: str
    accuracy: float
    deviation: float
    control: float
    selectivity: float


@dataclass(frozen=True)
class LabelReport:
    """All layers. `majority`: the accuracy of always saying the commonest of the `classes`."""

    texts: int
    classes: int
    folds: int
    majority: float
    scores: tuple[LabelScore, ...]


def check_scikit_learn() -> None:
    """Raises MissingDependencyError without it."""
    if find_spec("sklearn") is None:
        raise MissingDependencyError("a probe for labels needs scikit-learn", hint='pip install "mlload[probe]"')


def check_one_row_a_text(*, pooling: str, tokens: str | None) -> None:
    """Raises UsageError where rows are of tokens."""
    if pooling == "none" or tokens is not None:
        raise UsageError("labels are of texts, but rows are of tokens", hint="--pool mean makes one row a text")


def label_probe(probe: Probe, labels: Sequence[str | None]) -> LabelReport:
    """A logistic regression on standardized rows for every kept layer, in stratified folds; the same numbers every time.

    Raises UsageError where rows are not one a text, or a label is too rare; MissingDependencyError without scikit-learn.
    """
    import numpy

    check_scikit_learn()
    check_one_row_a_text(pooling=probe.index["pooling"], tokens=probe.index["tokens"])
    whole = numpy.array([label is not None for label in labels])
    whole &= probe[probe.names[0]].tensor().isfinite().all(dim=1).numpy()
    chosen = numpy.array([str(label) for label in labels])[whole]
    counts = Counter(chosen.tolist())
    folds = min(_FOLDS, min(counts.values(), default=0))
    if len(counts) < 2 or folds < 2:
        rarest = min(counts, key=lambda label: counts[label], default="")
        hint = "two labels or more are needed, and each on two texts"
        raise UsageError(f"label '{rarest}' is on {counts.get(rarest, 0)} of {len(chosen):,} texts", hint=hint)
    shuffled = numpy.random.default_rng(_SEED).permutation(chosen)
    scores: list[LabelScore] = []
    for name in (name for name in probe.names if "attentions" not in name):
        rows = probe[name].tensor().float().numpy()[whole]
        found, control = _accuracies(rows, chosen, folds), _accuracies(rows, shuffled, folds)
        accuracy, chance = float(found.mean()), float(control.mean())
        scores.append(LabelScore(name, accuracy, float(found.std()), chance, accuracy - chance))
    return LabelReport(len(chosen), len(counts), folds, max(counts.values()) / len(chosen), tuple(scores))


def _accuracies(rows: numpy.ndarray, labels: numpy.ndarray, folds: int) -> numpy.ndarray:
    """The accuracy on each fold of a classifier that saw the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return cross_val_score(classifier, rows, labels, cv=StratifiedKFold(folds, shuffle=True, random_state=_SEED))
