"""`invert`: the DDIM walk over the reversed list."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddimkit import DDIMSampler, NoiseSchedule
from probes import Counting, gaussian_x0, normal, smooth
from strategies import schedules, timesteps

SCHEDULE = NoiseSchedule.linear()
TIMES = (999, 760, 400, 130, 9)


@pytest.mark.promise(32)
@given(schedules(max_size=12), st.data(), st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_invert_walks_the_reversed_list(schedule: NoiseSchedule, data: st.DataObject, dtype: torch.dtype) -> None:
    """S calls: the lowest timestep is asked twice, of the image and of the first latent; the highest never."""
    times = data.draw(timesteps(schedule.num_timesteps))
    sampler, model, x0 = DDIMSampler(schedule, timesteps=times), Counting(), normal(2, 3).to(dtype)
    before = x0.clone()
    latent = sampler.invert(model, x0)
    assert (latent.dtype, latent.shape) == (dtype, x0.shape)
    assert torch.equal(x0, before)
    plan = sampler.inversion_plan()
    up = times[::-1]
    assert plan.t == (up[0], *up[:-1]) == tuple(int(t[0]) for t in model.times)
    assert plan.t_next == up


@pytest.mark.promise(32)
@given(schedules(max_size=12), st.data(), st.integers(0, 2**32 - 1))
def test_a_fixed_eps_is_inverted_exactly(schedule: NoiseSchedule, data: st.DataObject, seed: int) -> None:
    sampler = DDIMSampler(schedule, timesteps=data.draw(timesteps(schedule.num_timesteps)))
    x0, eps = (normal(2, 3, seed=seed + i, dtype=torch.float64) for i in range(2))
    latent = sampler.invert(lambda x, t: eps, x0)
    torch.testing.assert_close(latent, schedule.add_noise(x0, eps, sampler.timesteps[0]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sampler.sample(lambda x, t: eps, x_T=latent), x0, rtol=0, atol=1e-6)


@pytest.mark.promise(32)
def test_the_round_trip_on_a_gaussian_falls_at_first_order() -> None:
    errors = []
    for steps in (40, 80, 160, 320):
        schedule = NoiseSchedule.from_alpha_bars(1 / (1 + np.exp(-2 * np.linspace(2, -2, steps + 1))))
        sampler = DDIMSampler(schedule, timesteps=range(steps, -1, -1), prediction="x0")
        x0, model = torch.ones(1, dtype=torch.float64), gaussian_x0(schedule, 0.25)
        # Down to the last timestep only: the jump to the clean image has an error of its own, whatever the steps.
        *_, back, _ = sampler.iterate(model, x_T=sampler.invert(model, x0))
        up = sampler.inversion_plan()
        output = model(x0, torch.zeros(1, dtype=torch.int64))
        errors.append(abs((back.x - (up.a[0] * x0 + up.b[0, 0] * output)).item()))
    slopes = np.diff(np.log2(errors))
    assert np.abs(slopes[-2:] + 1).max() < 0.1, slopes


@pytest.mark.promise(32)
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "flow"])
def test_every_prediction_inverts_alike(prediction: str) -> None:
    """The same denoiser, said in four ways."""
    denoiser = gaussian_x0(SCHEDULE, 0.25)

    def model(x: Tensor, t: Tensor) -> Tensor:
        s, n = (float(v[int(t[0])]) for v in (SCHEDULE.signal, SCHEDULE.noise))
        x0 = denoiser(x, t)
        eps = (x - s * x0) / n
        return {"epsilon": eps, "x0": x0, "v": s * eps - n * x0, "flow": eps - x0}[prediction]

    x0 = normal(2, 3, dtype=torch.float64)
    expected = DDIMSampler(SCHEDULE, timesteps=TIMES, prediction="x0").invert(denoiser, x0)
    found = DDIMSampler(SCHEDULE, timesteps=TIMES, prediction=prediction).invert(model, x0)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.promise(32)
@pytest.mark.parametrize("settings", [{"eta": 0.1}, {"clip": (-1, 1)}])
def test_what_cannot_be_inverted_is_refused(settings: dict[str, float]) -> None:
    model = Counting()
    with pytest.raises(ValueError, match="can be inverted"):
        DDIMSampler(SCHEDULE, timesteps=TIMES, **settings).invert(model, normal(2, 3))  # type: ignore[arg-type]
    assert model.calls == 0


@pytest.mark.promise(26, 34, 35)
def test_invert_leaves_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    sampler, x0 = DDIMSampler(SCHEDULE, timesteps=TIMES), normal(2, 3).requires_grad_()
    random_state = torch.get_rng_state()
    latent = sampler.invert(smooth, x0)
    assert not latent.requires_grad
    assert torch.equal(random_state, torch.get_rng_state())
    assert torch.equal(latent, sampler.invert(smooth, x0))
    assert capfd.readouterr() == ("", "")
    sampler.invert(smooth, x0, progress=True)
    assert "5/5" in capfd.readouterr().err


def test_model_kwargs_reach_the_inversion() -> None:
    sampler, x0 = DDIMSampler(SCHEDULE, timesteps=TIMES), normal(2, 3)
    found = sampler.invert(lambda x, t, scale: scale * smooth(x, t), x0, model_kwargs={"scale": 0.5})
    assert torch.equal(found, sampler.invert(lambda x, t: 0.5 * smooth(x, t), x0))
