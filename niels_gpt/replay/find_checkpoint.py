"""Find the checkpoint that can make a recorded reply again: at its recorded path, given, or shipped.

A candidate fits when weights, config and tokenizer are the recorded ones. A different template is accepted,
because the prompts will show what it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from niels_gpt.conversation.errors import ChatError, LoadFailed
from niels_gpt.conversation.options import DEFAULT_CHECKPOINT, ChatOptions, check_checkpoint
from niels_gpt.kernels import WeightForm
from niels_gpt.replay.environment import RecordedEnvironment
from niels_gpt.replay.verdict import INDISPENSABLE, Difference, differences
from sessions import Checkpoint

if TYPE_CHECKING:
    from niels_gpt.decoding.backend import Backend

Load = Callable[[ChatOptions], "Backend"]


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """No checkpoint was found that a reply can be made again with, and what is wrong with those that were."""

    why: str
    differing: tuple[Difference, ...]


def find_model(
    checkpoint: Checkpoint, environment: RecordedEnvironment, options: ChatOptions, load: Load
) -> Backend | Unfit:
    """Load the model that a generation was made with, from the first place that has it.

    `environment` is the generation's: it names the device and the form of the weights. Places are the given
    checkpoint (`options.checkpoint_given`) alone, or where it was last seen and the shipped one.
    """
    wanted = _as_recorded(options, environment)
    reasons: list[str] = []
    differing: tuple[Difference, ...] = ()
    for path in _places(checkpoint, options):
        try:
            model = _loaded(replace(wanted, checkpoint=path), load)
        except LoadFailed as error:
            reasons.append(str(error))
            continue
        found = missing_parts(checkpoint.parts, model)
        if not found:
            return model
        model.close()
        named = " and ".join(difference.part for difference in found)
        reasons.append(f"{str(path)!r} has other {named}")
        differing = differing or found
    return Unfit(why="; ".join(reasons), differing=differing)


def missing_parts(parts: Mapping[str, str], model: Backend) -> tuple[Difference, ...]:
    """Return the indispensable parts of a fingerprint in which a model differs."""
    found = differences(parts, model.checkpoint["parts"], {}, {})
    return tuple(difference for difference in found if difference.part in INDISPENSABLE)


def _loaded(options: ChatOptions, load: Load) -> Backend:
    if not options.checkpoint.exists():
        raise LoadFailed(f"checkpoint {str(options.checkpoint)!r} does not exist")
    check_checkpoint(options)
    try:
        return load(options)
    except LoadFailed:
        raise
    except ChatError as error:
        raise LoadFailed(str(error)) from error


def _places(checkpoint: Checkpoint, options: ChatOptions) -> Sequence[Path]:
    if options.checkpoint_given:
        return [options.checkpoint]
    return list(dict.fromkeys([Path(checkpoint.path), DEFAULT_CHECKPOINT]))


def _as_recorded(options: ChatOptions, environment: RecordedEnvironment) -> ChatOptions:
    if environment.weights in get_args(WeightForm):
        return replace(options, weights=cast("WeightForm", environment.weights))
    return options
