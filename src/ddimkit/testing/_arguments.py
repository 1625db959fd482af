"""Checks of what a call may be given: generator, model_kwargs, seeds, tensor indices; and of what it leaves alone."""

import contextlib
import io
from typing import Any

import torch
from torch import Tensor

from ddimkit.testing._probes import ProbeModel, require_same
from ddimkit.testing._runs import SHAPE, RunChecks, final

__all__ = ["ArgumentChecks"]


class ArgumentChecks(RunChecks):
    """Checks that each argument of ``sample``, ``iterate`` and ``step`` is obeyed."""

    def test_generator(self) -> None:
        """``generator`` draws x_T, then a tensor for each noisy row, and is used up by it."""
        sampler = self.uneven()

        def sample(seed: int) -> tuple[Tensor, Tensor]:
            generator = torch.Generator(self.device).manual_seed(seed)
            x = sampler.sample(ProbeModel(sampler), SHAPE, generator=generator, device=self.device, dtype=self.dtype)
            return x, torch.rand(2, generator=generator, device=self.device)

        first, following = sample(1)
        require_same(sample(1)[0], first, "two generators of one seed give different samples")
        assert not torch.equal(sample(2)[0], first), "generator is ignored: generators of two seeds give the same samples"
        unused = torch.rand(2, generator=torch.Generator(self.device).manual_seed(1), device=self.device)
        assert not torch.equal(following, unused), "generator is ignored: it was not drawn from"
        generator = torch.Generator(self.device).manual_seed(1)
        drawn = sampler.sample(
            ProbeModel(sampler),
            SHAPE,
            noise_fn=lambda _, like: torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype),
            device=self.device,
            dtype=self.dtype,
        )
        require_same(drawn, first, "generator draws in another order than x_T, then each noisy row")

    def test_no_seed_twice(self) -> None:
        """Without seed, generator and noise_fn two samples differ."""
        sampler = self.uneven()
        first, second = (sampler.sample(ProbeModel(sampler), SHAPE, device=self.device, dtype=self.dtype) for _ in range(2))
        assert not torch.equal(first, second), "two samples without a seed are equal: the seed must be fresh each time"

    def test_first_x_is_x_t(self) -> None:
        """``x_T`` is the first x that the model is given."""
        sampler, x_T = self.uneven(), self.normal(*SHAPE, seed=9)
        model = ProbeModel(sampler)
        sampler.sample(model, x_T=x_T, seed=3)
        require_same(model.inputs[0], x_T, "x_T is ignored: the model's first x is another one")

    def test_noise_fn_makes_the_noise(self) -> None:
        """What ``noise_fn`` gives is the noise of x_T and of every noisy row."""
        sampler, source = self.uneven(), self.noises()
        model = ProbeModel(sampler)
        x = sampler.sample(model, SHAPE, noise_fn=source, device=self.device, dtype=self.dtype)
        require_same(model.inputs[0], source(-1, x), "noise_fn is ignored: the first x is not its draw −1")
        if sampler.plan().adds_noise:
            other = sampler.sample(
                ProbeModel(sampler),
                SHAPE,
                noise_fn=lambda draw, like: source(draw if draw < 0 else draw + 50, like),
                device=self.device,
                dtype=self.dtype,
            )
            assert not torch.equal(other, x), "noise_fn is ignored in the rows with c > 0"

    def test_model_kwargs(self) -> None:
        """``model_kwargs`` reach the model in every call, of ``sample`` and of ``iterate``."""
        sampler, given = self.uneven(), list[Any]()
        probe = ProbeModel(sampler)

        def model(x: Tensor, t: Tensor, **keywords: Any) -> Tensor:
            given.append(keywords)
            return probe(x, t)

        sampler.sample(model, SHAPE, seed=0, model_kwargs={"label": 7}, device=self.device)
        assert given == [{"label": 7}] * sampler.nfe, f"model_kwargs={{'label': 7}}: sample calls the model with {given}"
        given.clear()
        final(sampler.iterate(model, SHAPE, seed=0, model_kwargs={"label": 7}, device=self.device))
        assert given == [{"label": 7}] * sampler.nfe, f"model_kwargs={{'label': 7}}: iterate calls the model with {given}"

    def test_list_of_seeds(self) -> None:
        """``iterate`` takes one seed a sample, its states name them, and it ends where ``sample`` does."""
        sampler, seeds = self.uneven(), (8, 3, 99, 4, 2**62)
        keywords: dict[str, Any] = {"seed": list(seeds), "device": self.device, "dtype": self.dtype}
        states = list(sampler.iterate(ProbeModel(sampler), SHAPE, **keywords))
        found = {state.seeds for state in states}
        assert found == {seeds}, f"the states name seeds {found}, given {seeds}"
        expected = sampler.sample(ProbeModel(sampler), SHAPE, **keywords)
        require_same(states[-1].x, expected, "iterate with a list of seeds ends elsewhere than sample")

    def test_step_takes_mixed_indices(self) -> None:
        """``step`` with an index a sample gives the single steps bit for bit."""
        sampler = self.uneven()
        x, output, noise, history = self._step_arguments()
        index = torch.arange(SHAPE[0], device=self.device) * 3 % sampler.nfe
        mixed = sampler.step(x, output, index, noise=noise, history=history)
        predicted = sampler.predict_x0(x, output, index)
        for i, row in enumerate(index.tolist()):
            one = slice(i, i + 1)
            earlier = tuple(h[one] for h in history)
            single = sampler.step(x[one], output[one], row, noise=noise[one], history=earlier)
            require_same(mixed[one], single, f"step with a tensor index differs from the single step of row {row}")
            single = sampler.predict_x0(x[one], output[one], row)
            require_same(predicted[one], single, f"predict_x0 with a tensor index differs from the single one of row {row}")

    def test_step_has_a_gradient(self) -> None:
        """The derivative of ``step`` along a direction is what a central difference gives, in x, output, noise and history."""
        if torch.float64 not in self.dtypes:
            return
        sampler, size = self.uneven(), 1e-5
        for row in range(sampler.nfe):
            x, output, noise, history = self._step_arguments()
            point = [tensor.double() for tensor in (x, output, noise, *history)]
            way = [torch.full_like(tensor, 0.3 + 0.1 * i) for i, tensor in enumerate(point)]

            def step(*tensors: Tensor, row: int = row) -> Tensor:
                x, output, noise, *history = tensors
                return sampler.step(x, output, row, noise=noise, history=history)

            moving = [tensor.clone().requires_grad_() for tensor in point]
            with torch.enable_grad():
                result = step(*moving)
                assert result.requires_grad, f"step at row {row} has no gradient: its result is detached"
                slopes = torch.autograd.grad(result.sum(), moving, allow_unused=True, materialize_grads=True)
            found = sum(float((g * d).sum()) for g, d in zip(slopes, way, strict=True))
            ahead, behind = (step(*(p + sign * size * d for p, d in zip(point, way, strict=True))) for sign in (1, -1))
            expected = float((ahead - behind).sum()) / (2 * size)
            assert abs(found - expected) <= 1e-5 * (1 + abs(expected)), (
                f"step at row {row} has a wrong gradient: {found} along a direction, a central difference gives {expected}"
            )

    def test_inputs_stay_as_they_are(self) -> None:
        """``step``, ``predict_x0`` and ``iterate`` write into none of the tensors that they are given."""
        sampler = self.uneven()
        for row in range(sampler.nfe):
            x, output, noise, history = given = self._step_arguments()
            sampler.step(x, output, row, noise=noise, history=history)
            sampler.predict_x0(x, output, row)
            for name, now, before in zip(("x_t", "model_output", "noise"), given, self._step_arguments(), strict=False):
                assert isinstance(now, Tensor)
                assert isinstance(before, Tensor)
                require_same(now, before, f"step or predict_x0 at row {row} writes into {name}")
            for now, before in zip(history, self._step_arguments()[3], strict=True):
                require_same(now, before, f"step at row {row} writes into its history")
        x_T = self.normal(*SHAPE)
        final(sampler.iterate(ProbeModel(sampler), x_T=x_T, seed=0))
        require_same(x_T, self.normal(*SHAPE), "iterate writes into the caller's x_T")

    def test_nothing_is_printed(self) -> None:
        """Making and running a sampler writes nothing to stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            sampler = self.uneven()
            self.run(sampler)
            final(sampler.iterate(ProbeModel(sampler), SHAPE, seed=0, device=self.device))
        assert not out.getvalue(), f"the sampler prints to stdout: {out.getvalue()!r}"
        assert not err.getvalue(), f"the sampler prints to stderr: {err.getvalue()!r}"

    def _step_arguments(self) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """x, output, noise and as much history as the table may read, fresh and the same in each call."""
        coefficients = self.uneven().coefficients
        x, noise, *history = (self.normal(*SHAPE, seed=20 + i) for i in range(2 + coefficients.depth))
        channels = SHAPE[1] * (2 if coefficients.learned else 1)
        return x, self.normal(SHAPE[0], channels, *SHAPE[2:], seed=19), noise, tuple(history)
