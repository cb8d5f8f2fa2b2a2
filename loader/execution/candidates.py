"""The classes that a model may be of, best first; the checkpoint decides which one it fills."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from ..plan import LoadPlan
from ..settings import Head
from .model_class import classes_with
from .skeleton import Skeleton

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def candidates(
    head: Head, own: type[PreTrainedModel], config: PretrainedConfig
) -> Iterator[tuple[type[PreTrainedModel], PretrainedConfig]]:
    """Each class that may be taken for `head`, with a config of its own to be built from."""
    return ((each, copy.deepcopy(config)) for each in classes_with(head, own, config))


def first_filled(skeletons: Iterator[Skeleton], plan_of: Callable[[Skeleton], LoadPlan]) -> tuple[Skeleton, LoadPlan]:
    """The first of the models that the checkpoint fills, with its plan; where it fills none, the last."""
    skeleton = next(skeletons)
    plan = plan_of(skeleton)
    filled = not plan.mismatched and not skeleton.truly_missing(plan.missing)
    following = None if filled else next(skeletons, None)
    return (skeleton, plan) if following is None else first_filled(chain((following,), skeletons), plan_of)
