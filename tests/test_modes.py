"""The warning of train mode: what it finds behind a model, and where it stays silent."""

import warnings
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ddimkit import DDIMSampler, NoiseSchedule, accelerate, graphs
from probes import smooth

SAMPLER = DDIMSampler(NoiseSchedule.linear(), 3)


class Net(nn.Module):
    """Any network, with what is to be inside."""

    def __init__(self, *inside: nn.Module) -> None:
        super().__init__()
        self.inside = nn.ModuleList(inside)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return smooth(x, t)


class OwnDropout(nn.Module):
    """A module of no torch class that reads its mode."""


class Holder:
    """A callable that keeps its network in an attribute."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t)  # type: ignore[no-any-return]

    def ask(self, x: Tensor, t: Tensor) -> Tensor:
        return self(x, t)


def decorated(net: nn.Module) -> Callable[..., Any]:
    def asked(x: Tensor, t: Tensor) -> Tensor:
        return net(x, t)  # type: ignore[no-any-return]

    @wraps(asked)
    def outer(x: Tensor, t: Tensor) -> Tensor:
        return asked(x, t)

    return outer


HIDDEN: dict[str, Callable[[nn.Module], Any]] = {
    "itself": lambda net: net,
    "averaged": AveragedModel,
    "parallel": nn.DataParallel,
    "averaged and parallel": lambda net: nn.DataParallel(AveragedModel(net)),
    "partial": partial,
    "forward": lambda net: net.forward,
    "lambda": lambda net: lambda x, t: net(x, t),
    "partial of a lambda": lambda net: partial(lambda x, t, *, inner: inner(x, t), inner=net),
    "default": lambda net: lambda x, t, net=net: net(x, t),
    "attribute": Holder,
    "method": lambda net: Holder(net).ask,
    "decorated": decorated,
    "accelerated": lambda net: accelerate(net, compile=False),
}


def is_warned(model: Any) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SAMPLER.sample(model, (2, 3), seed=0)
    assert all("model.eval()" in str(w.message) and w.filename == __file__ for w in caught)
    assert len(caught) <= 1
    return bool(caught)


@pytest.mark.promise(36, 55)
@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_a_network_is_found_wherever_it_is(hide: Callable[[nn.Module], Any]) -> None:
    assert is_warned(hide(Net().train()))
    assert not is_warned(hide(Net().eval()))
    assert not is_warned(hide(Net(nn.Dropout(), nn.Linear(2, 2)).eval()))
    assert is_warned(hide(_with_train_mode(nn.Dropout())))


def _with_train_mode(module: nn.Module) -> nn.Module:
    net = Net(nn.Linear(2, 2), module).eval()
    module.train()
    return net


@pytest.mark.promise(55)
@pytest.mark.parametrize(
    ("module", "warned"),
    [
        (nn.Dropout(), True),
        (nn.Dropout2d(0.1), True),
        (nn.Dropout(0.0), False),
        (nn.BatchNorm2d(3), True),
        (nn.BatchNorm1d(3, track_running_stats=False), True),
        (nn.InstanceNorm2d(3), False),
        (nn.InstanceNorm2d(3, track_running_stats=True), True),
        (nn.RReLU(), True),
        (nn.LSTM(2, 2, 2, dropout=0.5), True),
        (nn.LSTM(2, 2), False),
        (nn.MultiheadAttention(2, 1, dropout=0.5), True),
        (nn.MultiheadAttention(2, 1), False),
        (nn.TransformerEncoderLayer(2, 1, 2), True),
        (OwnDropout(), True),
        (nn.Linear(2, 2), False),
        (nn.GroupNorm(1, 2), False),
        (nn.Sequential(nn.Linear(2, 2), nn.SiLU()), False),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_modules_that_have_a_mode_inside_one_in_eval_mode(module: nn.Module, warned: bool) -> None:
    assert is_warned(_with_train_mode(module)) == warned


@pytest.mark.promise(36)
def test_modes_are_left_alone() -> None:
    net = _with_train_mode(nn.Dropout())
    before = [module.training for module in net.modules()]
    is_warned(net)
    assert [module.training for module in net.modules()] == before


def test_what_names_itself_ends() -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        return smooth(x, t) if len(x) else model(x, t)

    assert not is_warned(model)


def test_a_graph_is_another_one_where_a_module_deep_inside_changes_its_mode() -> None:
    net = Net(nn.Dropout()).eval()
    captured = graphs.capture(SAMPLER, lambda x, t: net(x, t), (2, 3))
    captured(seed=0)
    net.inside[0].train()
    with pytest.warns(UserWarning, match=r"model\.eval\(\)"):
        captured(seed=0)
    assert captured.captures == 2
