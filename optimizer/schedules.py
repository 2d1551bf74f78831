"""When to prune and how much. The schedules are TF-MOT's own objects; what is planned here are their parameters."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from edgesmith.errors import ConfigError, InputError
from edgesmith.frameworks import import_keras, import_tensorflow

Schedule = Callable[[int], tuple[bool, float]]
"""Step, counted from 1 -> whether masks are renewed before it, and the sparsity they get."""

Kind = Literal["polynomial", "constant"]

# Some fifty renewals make the ramp smooth; TF-MOT's fixed 100 steps would leave a short fine-tune with two or three.
_RENEWALS = 50
# The last quarter of training is for recovery at the final sparsity.
_RAMP_SHARE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePlan:
    """Parameters of a TF-MOT schedule that reaches its final sparsity.

    Attributes:
        end_step: last step at which masks may be renewed; -1 = no end (constant only).
        settled_step: first step from which on every kernel has the final sparsity.
        notes: what was changed in what the user wrote.
    """

    kind: Kind
    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int
    power: float
    settled_step: int
    notes: tuple[str, ...] = ()


def plan_schedule(
    *,
    kind: Kind,
    initial_sparsity: float,
    final_sparsity: float,
    begin_step: int | None,
    end_step: int | None,
    frequency: int | None,
    power: float,
    total_steps: int,
) -> SchedulePlan:
    """Fills in what the user left open, and makes sure that the final sparsity is reached.

    TF-MOT renews masks at `begin_step + i * frequency` up to `end_step`. Where `end_step` is not one of these, its
    ramp stops short of the final sparsity without a word; here `end_step` moves down to the last renewal instead.

    Args:
        kind: polynomial ramps from the initial to the final sparsity; constant starts with the final one.
        initial_sparsity: polynomial only.
        final_sparsity: share of zeros in every kernel, in (0, 1).
        begin_step: None = 0. TF-MOT counts training steps from 1.
        end_step: None = three quarters of training (polynomial), or no end (constant).
        frequency: None = some fifty renewals in all.
        power: exponent of the ramp.
        total_steps: training steps, at least 1.

    Raises:
        ConfigError: the final sparsity cannot be reached within training; says which figure to change.
    """
    begin = 0 if begin_step is None else begin_step
    last = end_step
    if last is None:
        last = max(round(total_steps * _RAMP_SHARE), begin + 1) if kind == "polynomial" else total_steps
    turns = max((last - begin) // _RENEWALS, 1) if frequency is None else frequency
    notes: list[str] = []
    if kind == "polynomial":
        if last <= begin:
            raise ConfigError(f"The pruning schedule's end_step {last} must come after its begin_step {begin}.")
        end = begin + (last - begin) // turns * turns
        if end == begin:
            raise ConfigError(
                f"A pruning frequency of {turns} leaves no step between begin_step {begin} and end_step {last}.",
                next_step=f"Take a frequency of at most {last - begin}.",
            )
        if end != last and end_step is not None:
            notes.append(
                f"end_step {last} is no step at which masks are renewed (every {turns} from {begin}): "
                f"the schedule ends at {end}, so that the final sparsity is reached."
            )
        settled = end
    else:
        end = -1 if end_step is None else end_step
        # Step 0 is never trained: a schedule that begins there first acts one turn later.
        settled = begin if begin > 0 else turns
        if end != -1 and settled > end:
            raise ConfigError(
                f"No step from begin_step {begin} to end_step {end} falls on a pruning frequency of {turns}.",
                next_step=f"Take a frequency of at most {max(end, 1)}, or leave end_step out.",
            )
    if settled > total_steps:
        raise ConfigError(
            f"The final sparsity would be reached at step {settled}, and training has only {total_steps} steps.",
            next_step="Train for more epochs, take a smaller batch_size, or lower end_step (or begin_step, frequency).",
        )
    return SchedulePlan(
        kind=kind,
        initial_sparsity=initial_sparsity,
        final_sparsity=final_sparsity,
        begin_step=begin,
        end_step=end,
        frequency=turns,
        power=power,
        settled_step=settled,
        notes=tuple(notes),
    )


def rounds_to(final_sparsity: float, rounds: int) -> tuple[float, ...]:
    """The sparsity of every round of iterative pruning: each takes the same share of what the one before left.

    Han, Pool, Tran & Dally, "Learning both weights and connections for efficient neural networks", arXiv:1506.02626,
    section 3.4, prune and retrain in turn; the equal shares are those of Frankle & Carbin, arXiv:1803.03635, section 2.
    """
    kept = 1.0 - final_sparsity
    return (*(1.0 - kept ** (i / rounds) for i in range(1, rounds)), final_sparsity)


def build_schedule(plan: SchedulePlan) -> Schedule:
    """TF-MOT's `PolynomialDecay` or `ConstantSparsity`, asked in Python numbers.

    Raises:
        InputError: TensorFlow or TF-MOT is not installed.
    """
    pruning_schedule = _import_pruning_schedule()
    tf = import_tensorflow()
    steps = {"begin_step": plan.begin_step, "end_step": plan.end_step, "frequency": plan.frequency}
    if plan.kind == "polynomial":
        schedule = pruning_schedule.PolynomialDecay(
            initial_sparsity=plan.initial_sparsity, final_sparsity=plan.final_sparsity, power=plan.power, **steps
        )
    else:
        schedule = pruning_schedule.ConstantSparsity(target_sparsity=plan.final_sparsity, **steps)

    def at(step: int) -> tuple[bool, float]:
        renew, sparsity = schedule(tf.constant(step, tf.int64))
        return bool(renew), float(sparsity)

    return at


def _import_pruning_schedule() -> Any:
    """TF-MOT's schedule module, with its two side effects undone.

    On import TF-MOT sets TF_USE_LEGACY_KERAS for the whole process, and makes `tf.keras` mean Keras 2 where nobody
    has touched it before.
    """
    import_keras()
    tf = import_tensorflow()
    # Touching it once pins it to Keras 3: the TFLite converter looks at it, and what it is depends on who came first.
    _ = tf.keras.Model
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # distutils, in TF-MOT's own version check
            from tensorflow_model_optimization.python.core.sparsity.keras import pruning_schedule
    except ImportError as error:
        raise InputError(
            f"Pruning needs TensorFlow Model Optimization, and it cannot be imported: {error}.",
            next_step="pip install 'edgesmith[tflite]'",
        ) from error
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return pruning_schedule
