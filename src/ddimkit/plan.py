r"""A sampler's table: one row of float64 coefficients per transition, made without a model.

Row k asks the model at ``t[k]`` and lands on ``t_next[k]``:

.. math:: x' = a_k x + \sum_j b_{kj}\, \hat x_0(\text{j calls ago}) + c_k z, \qquad z \sim N(0, I).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ddimkit._numbers import AGREEMENT, frozen_array, integer, unlike
from ddimkit._repr import short_repr
from ddimkit.schedule import FloatArray, NoiseSchedule
from ddimkit.timesteps import TimestepsField, pairs

__all__ = ["Levels", "Plan"]

_SCHEMA = 2
_OPTIONAL = ("c_max", "signal", "noise")

if TYPE_CHECKING:
    # Fields that take any real numbers and read back as read-only float64 arrays.
    _Numbers = FloatArray | Any
else:
    _Numbers = FloatArray


@dataclass(frozen=True, eq=False)
class Plan:
    r"""The coefficients of a whole run; compared and hashed by value, signal and noise aside.

    Args:
        t: (S,) the timestep the model is called with.
        t_next: (S,) the timestep a row lands on, None for the clean image.
        a: (S,) on x.
        b: (S, K) on x0_hat now, one call ago, … K−1 ago; zero where history is missing. (S,) is taken as (S, 1).
        c: (S,) on z, the standard deviation of the noise added.
        c_max: (S,) for a learned range only: the standard deviation is ``c^(1−f)·c_max^f``, f from the model.
        signal: (S,) the schedule's signal at t; another schedule is refused by it. None for a table of no schedule.
        noise: (S,) the schedule's noise at t; given if and only if ``signal`` is.

    Raises:
        TypeError: a timestep is no int, or a coefficient no real number.
        ValueError: shapes that do not agree, an entry that is not finite, a negative c, one of signal and noise alone.

    >>> Plan(t=(9, 4), t_next=(4, None), a=[0.5, 0], b=[0.4, 1], c=[0, 0]).b.shape
    (2, 1)
    """

    t: TimestepsField
    t_next: tuple[int | None, ...]
    a: _Numbers
    b: _Numbers
    c: _Numbers
    c_max: _Numbers | None = None
    signal: _Numbers | None = None
    noise: _Numbers | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        t = tuple(integer(u, "a plan's timestep") for u in self.t)
        t_next = tuple(None if u is None else integer(u, "a plan's timestep") for u in self.t_next)
        size = len(t)
        if not size:
            raise ValueError("a plan needs at least one row, got none")
        given = [name for name in ("a", "b", "c", *_OPTIONAL) if getattr(self, name) is not None]
        if ("signal" in given) != ("noise" in given):
            raise ValueError(
                f"a plan knows both signal and noise or neither, got only {'signal' if 'signal' in given else 'noise'}"
            )
        arrays = {name: frozen_array(getattr(self, name), name) for name in given}
        if arrays["b"].ndim == 1:
            arrays["b"] = frozen_array(arrays["b"][:, None], "b")
        for name, array in arrays.items():
            wanted = f"({size}, K)" if name == "b" else f"({size},)"
            if array.shape[:1] != (size,) or array.ndim != 1 + (name == "b") or not array.size:
                raise ValueError(f"a plan of {size} rows needs {name} of shape {wanted}, got {array.shape}")
            if name in ("c", "c_max") and array.min() < 0:
                raise ValueError(
                    f"{name} is a standard deviation and must be at least 0, got {array.min()} in row {array.argmin()}"
                )
        if len(t_next) != size:
            raise ValueError(f"t has {size} entries but t_next has {len(t_next)}")
        for name, field in (("t", t), ("t_next", t_next), *arrays.items()):
            object.__setattr__(self, name, field)

    @property
    def adds_noise(self) -> bool:
        """Whether any row does."""
        return bool(self.c.any())

    def __len__(self) -> int:
        """S, the number of rows and of model calls."""
        return len(self.t)

    def __getitem__(self, rows: slice) -> "Plan":
        """Some of the rows."""
        optional = (None if array is None else array[rows] for array in (self.c_max, self.signal, self.noise))
        return Plan(self.t[rows], self.t_next[rows], self.a[rows], self.b[rows], self.c[rows], *optional)

    def with_levels(self, schedule: NoiseSchedule) -> "Plan":
        """This plan with the schedule's signal and noise at its timesteps; a plan that knows them already comes back as it is.

        Raises:
            ValueError: a timestep outside the schedule, or a plan made for another schedule: signal or noise differ by more than
                1e-9, or are 0 in one only.
        """
        last, asked = schedule.num_timesteps - 1, (*self.t, *(u for u in self.t_next if u is not None))
        if min(asked) < 0 or max(asked) > last:
            wrong = next(t for t in asked if not 0 <= t <= last)
            raise ValueError(f"the plan's timesteps must lie in 0..{last}, got {wrong}: give a schedule that has them")
        wanted = {name: getattr(schedule, name)[list(self.t)] for name in ("signal", "noise")}
        if self.signal is None:
            return replace(self, **wanted)
        for name, theirs in wanted.items():
            ours = getattr(self, name)
            rows = np.flatnonzero(unlike(ours, theirs))
            if rows.size:
                t, found, expected = self.t[rows[0]], ours[rows[0]], theirs[rows[0]]
                raise ValueError(
                    f"the plan was made for another schedule: its {name} at t={t} is {found}, the schedule's {expected}, and they "
                    f"may differ by {AGREEMENT:g}: give the schedule that the plan was made for"
                )
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> tuple[object, ...]:
        # Through the constructor: a copied array would be writable.
        return type(self), (self.t, self.t_next, self.a, self.b, self.c, self.c_max, self.signal, self.noise)

    @property
    def _key(self) -> tuple[object, ...]:
        arrays = (self.a, self.b, self.c, self.c_max)
        return self.t, self.t_next, self.b.shape, *(None if v is None else v.tobytes() for v in arrays)

    def __str__(self) -> str:
        """The table, a line a row."""
        heads = [f"b{j}" for j in range(self.b.shape[1])]
        extra = [] if self.c_max is None else ["c_max"]
        lines = [f"{'row':>4} {'t':>5} {'t_next':>6}" + "".join(f" {h:>13}" for h in ("a", *heads, "c", *extra))]
        for k in range(len(self)):
            values = [self.a[k], *self.b[k], self.c[k], *([] if self.c_max is None else [self.c_max[k]])]
            t_next = "-" if self.t_next[k] is None else str(self.t_next[k])
            lines.append(f"{k:>4} {self.t[k]:>5} {t_next:>6}" + "".join(f" {v:>13.9f}" for v in values))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; floats keep every bit."""
        arrays = {name: None if v is None else v.tolist() for name in ("a", "b", "c", *_OPTIONAL) for v in [getattr(self, name)]}
        return {"schema": _SCHEMA, "t": list(self.t), "t_next": list(self.t_next), **arrays}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Plan":
        """What :meth:`to_dict` gave, again.

        Raises:
            TypeError: what is given is no mapping.
            ValueError: an unknown schema version, or a field is missing.
        """
        if not isinstance(saved, Mapping):
            raise TypeError(f"a saved plan must be a mapping, as to_dict gives it, got {type(saved).__name__}")
        if saved.get("schema") != _SCHEMA:
            raise ValueError(f"a plan of schema {_SCHEMA} is wanted, got schema {saved.get('schema')!r}")
        missing = {"t", "t_next", "a", "b", "c"} - saved.keys()
        if missing:
            raise ValueError(f"the saved plan lacks {', '.join(sorted(missing))}")
        t, t_next = tuple(saved["t"]), tuple(saved["t_next"])
        optional = (saved.get(name) for name in _OPTIONAL)
        return cls(t, t_next, saved["a"], saved["b"], saved["c"], *optional)


@dataclass(frozen=True)
class Levels:
    r"""Signal, noise and λ at both ends of every transition of a walk, what a sampler's arithmetic reads.

    Args:
        s: (S,) signal at t.
        n: (S,) noise at t.
        s_next: (S,) signal at t_next; 1 at the clean image.
        n_next: (S,) noise at t_next; 0 at the clean image.
    """

    s: FloatArray
    n: FloatArray
    s_next: FloatArray
    n_next: FloatArray

    @classmethod
    def of(cls, schedule: NoiseSchedule, timesteps: Sequence[int]) -> "Levels":
        """The levels along descending timesteps and on to the clean image."""
        index = list(timesteps)
        s, n = schedule.signal[index], schedule.noise[index]
        return cls(s, n, np.append(s[1:], 1.0), np.append(n[1:], 0.0))

    @property
    def h(self) -> FloatArray:
        r"""(S,) the step :math:`\lambda' - \lambda`, infinite from zero SNR and to the clean image."""
        with np.errstate(divide="ignore"):
            return np.log(self.s_next / self.n_next) - np.log(self.s / self.n)


def descending_plan(timesteps: Sequence[int], a: FloatArray, b: FloatArray, c: FloatArray, c_max: FloatArray | None = None) -> Plan:
    """A plan whose rows walk down the timesteps to the clean image."""
    t, t_next = zip(*pairs(timesteps), strict=True)
    return Plan(t, t_next, a, b, c, c_max)
