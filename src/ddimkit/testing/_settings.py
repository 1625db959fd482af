"""Checks that every setting is obeyed: prediction, clip, schedule, spacing, the number of steps, and the author's own."""

from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from ddimkit.graphs import capture
from ddimkit.prediction import Clip, DynamicThreshold, Prediction
from ddimkit.sampling import PlanSampler
from ddimkit.testing._lists import ListChecks
from ddimkit.testing._plans import check_plan
from ddimkit.testing._probes import ProbeModel, SineDenoiser, normal, require_same
from ddimkit.testing._runs import SHAPE
from ddimkit.timesteps import Spacing, spaced

__all__ = ["SettingChecks"]

_KINDS: tuple[Prediction, ...] = get_args(Prediction)
_SPACINGS: tuple[Spacing, ...] = get_args(Spacing)


class SettingChecks(ListChecks):
    """Checks that vary one setting at a time by :func:`dataclasses.replace`."""

    def test_predictions_agree(self) -> None:
        """Four models that predict one denoiser differently give one sample, but for rounding."""
        dtype = torch.float64 if torch.float64 in self.dtypes else torch.float32
        samples = dict[str, Tensor]()
        for predicted in _KINDS:
            sampler = replace(self._with_signal(), prediction=predicted, clip=None)
            assert sampler.prediction == predicted, f"prediction={predicted!r} reads back as {sampler.prediction!r}"
            model = SineDenoiser(sampler.schedule, predicted, sampler.coefficients.learned)
            samples[predicted] = sampler.sample(model, SHAPE, seed=3, device=self.device, dtype=dtype)
        for kind, x in samples.items():
            apart = float((x - samples["x0"]).abs().max())
            bound = 1e-8 if dtype is torch.float64 else 1e-2
            assert apart <= bound, f"prediction={kind!r} of one denoiser gives another sample: {apart:.3g} apart, at most {bound:g}"

    def test_clip_holds(self) -> None:
        """Clipped to a range, every x0_hat and the result lie in it; a dynamic threshold holds too; None clips nothing."""
        plain = replace(self.uneven(), clip=None)
        for clip, low, high in (((-0.125, 0.25), -0.125, 0.25), (DynamicThreshold(quantile=0.9), -1.0, 1.0)):
            sampler = replace(plain, clip=clip)
            assert sampler.clip == clip, f"clip={clip} reads back as {sampler.clip}"
            self._check_clipped(sampler, clip, low, high)
        loud = self._loud(plain)
        x = plain.sample(loud, SHAPE, seed=3, device=self.device)
        assert float(x.abs().max()) > 1, f"clip=None clips: a model of large outputs gives samples within ±{float(x.abs().max())}"

    def _check_clipped(self, sampler: PlanSampler, clip: Clip, low: float, high: float) -> None:
        loud = self._loud(sampler)
        states = list(sampler.iterate(loud, SHAPE, seed=3, device=self.device))
        x_t, output = normal(*SHAPE).to(self.device) * 9, loud(normal(*SHAPE).to(self.device) * 9, torch.zeros(SHAPE[0]).long())
        found = {f"x0 of the state of row {state.index}": state.x0 for state in states}
        found["the result of sample"] = sampler.sample(loud, SHAPE, seed=3, device=self.device)
        found |= {f"predict_x0 at row {k}": sampler.predict_x0(x_t, output, k) for k in range(sampler.nfe)}
        for name, x in found.items():
            least, most = float(x.min()), float(x.max())
            assert low <= least <= most <= high, f"clip={clip} is not obeyed: {name} lies in {least:.4g}..{most:.4g}"

    def _loud(self, sampler: PlanSampler) -> Any:
        """A model whose outputs are large, so that every clip is felt."""
        probe = ProbeModel(sampler)

        def model(x: Tensor, t: Tensor) -> Tensor:
            output = 50 * (probe(x, t) + x.repeat(1, 1 + sampler.coefficients.learned, *(1,) * (x.ndim - 2)))
            return torch.cat([output[:, : x.shape[1]], output[:, x.shape[1] :] * 0], dim=1)

        return model

    def test_schedule_is_obeyed(self) -> None:
        """On five schedules of as many timesteps one list gives five plans, each with the laws of its own schedule."""
        plans = dict[str, Any]()
        for name, schedule in self.schedules().items():
            start = 98 if schedule.signal[-1] == 0 else 99
            times = self.shortened((start, 80, 50, 33, 20, 5, 1))
            sampler = self.make(schedule, timesteps=times)
            plans[name] = sampler.plan()
            try:
                check_plan(sampler.plan(), schedule)
            except AssertionError as error:
                raise AssertionError(f"schedule is not obeyed on {name}: {error}") from None
            if schedule.signal[-1] == 0:
                check_plan(replace(sampler, prediction="x0", timesteps=(99, *times[1:])).plan(), schedule)
        twice = self.make(self.schedules()["linear"], timesteps=self.shortened((99, 80, 50, 33, 20, 5, 1))).plan()
        assert twice == plans["linear"], "a plan changes after plans of other schedules were made: something is kept between them"

    def test_spacing_is_obeyed(self) -> None:
        """``steps`` timesteps are those of the spacing's name."""
        for name in _SPACINGS:
            for count in (self.nearest(min(10, self.schedule.num_timesteps)), self.nearest(3)):
                if count > self.schedule.num_timesteps:
                    continue
                expected = tuple(spaced(self.schedule, count, name))
                if not self.accepts(len(expected)):
                    continue
                sampler = replace(self._with_signal(), steps=count, timesteps=(), spacing=name)
                found = tuple(sampler.timesteps)
                assert found == expected, f"spacing={name!r} is not obeyed: {count} steps are {found}, not {expected}"
                visited = tuple(t for t in dict.fromkeys(sampler.plan().t) if t in expected)
                assert visited == expected, f"spacing={name!r}: the plan visits {visited}, not {expected}"

    def test_steps(self) -> None:
        """``steps`` timesteps, and as many model calls as ``nfe`` and the record say."""
        for count in (1, 2, 7):
            if count > self.schedule.num_timesteps or not self.accepts(count):
                continue
            sampler = self.make(self.schedule, steps=count)
            model = ProbeModel(sampler)
            self.run(sampler, model)
            found = len(sampler.timesteps)
            assert found == count, f"steps={count} gives {found} timesteps"
            calls, nfe, recorded = len(model.times), sampler.nfe, sampler.record()["nfe"]
            assert calls == nfe == recorded, f"steps={count}: the model is called {calls} times, nfe is {nfe}, recorded {recorded}"

    def test_settings_make_another_sampler(self) -> None:
        """Each setting of :meth:`other_settings`, another list and clip change equality, record and, but for clip, plan."""
        sampler = self.uneven()
        own = {f.name for f in fields(sampler)} - {f.name for f in fields(PlanSampler)}
        named = self.other_settings()
        assert own <= set(named), (
            f"other_settings() must name another value of {', '.join(sorted(own - set(named)))}, so that a setting "
            "that is ignored is seen"
        )
        for name, value in {**named, "clip": (-0.75, 0.5)}.items():
            other = replace(sampler, **{name: value})
            assert other != sampler, f"{name}={value!r} makes an equal sampler: the setting is ignored by =="
            assert hash(other) != hash(sampler), f"{name}={value!r} does not change the hash"
            ours, theirs = (one.record()["settings"] for one in (sampler, other))
            assert ours != theirs, f"{name}={value!r} does not change the record"
            if name != "clip":
                long = self.make(self.schedules()["linear"], timesteps=self.shortened((99, 80, 50, 33, 20, 5, 1)))
                changed = replace(long, **{name: value}).plan()
                assert changed != long.plan(), f"{name}={value!r} does not change the plan: the setting is ignored"
            assert replace(other, **{name: getattr(sampler, name)}) == sampler, f"{name} set back makes no equal sampler"
        if len(sampler.timesteps) > 1 and self.accepts(len(sampler.timesteps) - 1):
            rest = replace(sampler, timesteps=tuple(sampler.timesteps[1:]))
            assert rest != sampler, "another list of timesteps makes an equal sampler"

    def test_result_is_the_last_x0(self) -> None:
        """The result is the last x0 prediction bit for bit."""
        for dtype in self.dtypes:
            sampler = self.uneven()
            *_, last = sampler.iterate(ProbeModel(sampler), SHAPE, seed=5, dtype=dtype, device=self.device)
            require_same(
                self.run(sampler, seed=5, dtype=dtype), last.x0, f"the result is not the last x0 prediction (dtype {dtype})"
            )

    def test_captured_lists(self) -> None:
        """One captured sampler serves another list of timesteps; it is captured anew only where the structure differs."""
        from_graph = self.uneven()
        other = self.make(self.schedule, steps=self.nearest(min(4, self.schedule.num_timesteps)))
        captured = capture(from_graph, ProbeModel(from_graph), SHAPE, device=self.device, dtype=self.dtype)
        for sampler in (from_graph, other, from_graph):
            require_same(
                captured.using(sampler)(seed=3), self.run(sampler), f"captured for {sampler.timesteps}, the sample differs"
            )
        structures = {(made.coefficients.noisy, made.coefficients.depth) for made in (from_graph, other)}
        wanted = len(structures)
        assert captured.captures == wanted, f"two lists were captured {captured.captures} times, {wanted} expected"

    def test_start_at(self) -> None:
        """Starting at timestep k walks ``timesteps[k:]`` planned anew; draws keep the numbers of the full list; in iterate too."""
        sampler, x_T = self.uneven(), self.normal(*SHAPE)
        start = next((k for k in (2, 1, 3) if k < len(sampler.timesteps) and self.accepts(len(sampler.timesteps) - k)), 0)
        if not start:
            pytest.skip("no shorter list is accepted")
        if sampler.nfe != len(sampler.timesteps):
            self._check_stages_start(sampler, x_T, start)
            return
        rest = self.make(self.schedule, timesteps=tuple(sampler.timesteps)[start:])
        model, noise = ProbeModel(sampler), self.noises()
        expected = rest.sample(model, x_T=x_T, noise_fn=lambda draw, like: noise(draw + start, like))
        late = sampler.sample(model, x_T=x_T, start_at=start, noise_fn=noise)
        require_same(late, expected, f"start_at={start} is not the walk over timesteps[{start}:], drawn by the full list's rows")
        states = list(sampler.iterate(model, x_T=x_T, start_at=start, noise_fn=noise))
        require_same(states[-1].x, expected, f"iterate(start_at={start}) ends elsewhere than sample(start_at={start})")
        rows = [(state.index, state.start_at) for state in states]
        wanted = [(k, start) for k in range(start, sampler.nfe)]
        assert rows == wanted, f"iterate(start_at={start}) yields (index, start_at) {rows}, not {wanted}"

    def _check_stages_start(self, sampler: PlanSampler, x_T: Tensor, start: int) -> None:
        """With several calls a timestep ``start_at`` is refused, unless the sampler maps timesteps to rows by itself."""
        try:
            late = sampler.sample(ProbeModel(sampler), x_T=x_T, start_at=start, noise_fn=self.noises())
        except ValueError as error:
            assert "start_at" in str(error), f"start_at={start} is refused without naming start_at: {error}"  # noqa: PT017  # the kit may also accept
            return
        rest, noise = self.make(self.schedule, timesteps=tuple(sampler.timesteps)[start:]), self.noises()
        row = sampler.nfe - rest.nfe
        expected = rest.sample(ProbeModel(rest), x_T=x_T, noise_fn=lambda draw, like: noise(draw + row, like))
        require_same(late, expected, f"start_at={start} is not the walk over timesteps[{start}:] from row {row}")
        states = list(sampler.iterate(ProbeModel(sampler), x_T=x_T, start_at=start, noise_fn=noise))
        require_same(states[-1].x, expected, f"iterate(start_at={start}) ends elsewhere than sample(start_at={start})")
        found, wanted = [(state.index, state.start_at) for state in states], [(k, row) for k in range(row, sampler.nfe)]
        assert found == wanted, f"iterate(start_at={start}) yields (index, start_at) {found}, not {wanted}"

    def _with_signal(self) -> PlanSampler:
        """The sampler under test on a list whose first timestep holds signal, which every prediction allows."""
        top = self.schedule.num_timesteps - 1 - int(self.schedule.signal[-1] == 0)
        times = {top, *(int(top * part) for part in (0.7, 0.65, 0.3, 0.02))}
        return self.make(self.schedule, timesteps=self.shortened(sorted(times, reverse=True)))
