"""Laws of a sampler's table that need no model: signal, noise, joints, and the precision of its numbers."""

from collections.abc import Iterator

import numpy as np

from ddimkit.plan import Plan
from ddimkit.schedule import FloatArray, NoiseSchedule

__all__ = ["check_noise_law", "check_plan", "check_precision", "reads_history"]


def check_plan(plan: Plan, schedule: NoiseSchedule) -> None:
    r"""Assert what every downward walk to the clean image obeys, with s, n at t and s', n' at t_next.

    The rows join; each keeps the signal, :math:`a s + \sum_j b_j = s'`; a row without noise and history keeps the noise,
    :math:`a n = n'`; the last is exactly a = 0, b = (1, 0, …), c = 0; no c is negative; history is read only where there is one.

    Args:
        plan: the table.
        schedule: the one it was made for.

    Raises:
        AssertionError: naming the row.
    """
    check_joints(plan)
    assert plan.a[-1] == 0, f"the last row keeps x: it has a = {plan.a[-1]}, not 0"
    assert plan.b[-1].tolist() == [1.0] + [0.0] * (plan.b.shape[1] - 1), f"the last row has b = {plan.b[-1]}, not (1, 0, …)"
    assert plan.c[-1] == 0, f"the last row adds noise: it has c = {plan.c[-1]}, not 0"
    for k, (s, n, s_next, n_next) in enumerate(_levels(plan, schedule)):
        a, b, c = float(plan.a[k]), plan.b[k], float(plan.c[k])
        tolerance = 1e-12 * (1 + abs(a) + float(np.abs(b).sum()))
        assert abs(a * s + float(b.sum()) - s_next) <= tolerance, (
            f"row {k} loses signal: a·s + Σb = {a * s + b.sum()}, not s' = {s_next} (t={plan.t[k]}, tolerance {tolerance:.1g})"
        )
        if c == 0 and not b[1:].any():
            assert abs(a * n - n_next) <= tolerance, (
                f"row {k} loses noise: a·n = {a * n}, not n' = {n_next} (t={plan.t[k]}, tolerance {tolerance:.1g})"
            )


def check_joints(plan: Plan) -> None:
    """Assert that each row begins where the one before ended, and that no row reads predictions that do not exist."""
    for k in range(len(plan) - 1):
        assert plan.t_next[k] == plan.t[k + 1], (
            f"row {k} lands on t_next = {plan.t_next[k]}, but row {k + 1} begins at t = {plan.t[k + 1]}: "
            "take t_next from the list of timesteps, not from a stride"
        )
    assert plan.t_next[-1] in (None, 0), f"the last row lands on t_next = {plan.t_next[-1]}, not on the clean image"
    for k in range(len(plan)):
        assert not plan.b[k, k + 1 :].any(), f"row {k} reads more than the {k} x0 predictions before it: b = {plan.b[k]}"


def check_noise_law(plan: Plan, schedule: NoiseSchedule) -> None:
    r"""Assert :math:`(a n)^2 + c^2 = n'^2` and a ≥ 0 in every row that reads no history.

    Args:
        plan: the table.
        schedule: the one it was made for.

    Raises:
        AssertionError: naming the row.
    """
    for k, (_, n, _, n_next) in enumerate(_levels(plan, schedule)):
        a, c = float(plan.a[k]), float(plan.c[k])
        if plan.b[k, 1:].any():
            continue
        assert a >= 0, f"row {k} turns x around: a = {a} is negative (t={plan.t[k]})"
        found = float(np.hypot(a * n, c))
        assert abs(found - n_next) <= 1e-11, (
            f"row {k} breaks the noise law: √((a·n)² + c²) = {found}, not n' = {n_next} (a·n = {a * n}, c = {c}, t={plan.t[k]}); "
            "a sampler of a larger variance sets keeps_variance = False"
        )


def check_precision(plan: Plan) -> None:
    """Assert that no column of the table went through a precision below float64.

    A column is refused where it has at least three different entries besides 0 and ±1 and all of them are float32 numbers.

    Raises:
        AssertionError: naming the column and the precision.
    """
    columns = {"a": plan.a, **{f"b[{j}]": plan.b[:, j] for j in range(plan.b.shape[1])}, "c": plan.c}
    if plan.c_max is not None:
        columns["c_max"] = plan.c_max
    for name, column in columns.items():
        entries = np.unique(column[~np.isin(column, (0.0, 1.0, -1.0))])
        for kind in (np.float16, np.float32):
            with np.errstate(over="ignore"):
                rounded = len(entries) >= 3 and bool((entries.astype(kind) == entries).all())
            assert not rounded, (
                f"column {name} went through {np.dtype(kind).name}: all {len(entries)} entries are such numbers, "
                f"as in {entries[:3]}; compute coefficients in float64"
            )


def reads_history(plan: Plan) -> bool:
    """Whether some row reads an earlier x0 prediction."""
    return bool(plan.b[:, 1:].any())


def _levels(plan: Plan, schedule: NoiseSchedule) -> Iterator[tuple[float, float, float, float]]:
    """s, n at t and s', n' at t_next of each row; 1 and 0 at the clean image."""
    signal: FloatArray = np.append(schedule.signal, 1.0)
    noise: FloatArray = np.append(schedule.noise, 0.0)
    for t, t_next in zip(plan.t, plan.t_next, strict=True):
        after = -1 if t_next is None else t_next
        yield float(signal[t]), float(noise[t]), float(signal[after]), float(noise[after])
