"""The modules behind a model, through wrappers, partials, methods and lambdas, and whether one of them is in train mode."""

from collections.abc import Callable, Iterator
from functools import partial
from inspect import isfunction, ismethod

from torch import nn

_DEPTH = 3
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def module_of(model: object) -> nn.Module | None:
    """The module that a model is, or holds under the name ``module`` as wrappers in torch do; None for any other callable."""
    inner = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    return inner if isinstance(inner, nn.Module) else None


def modules_of(model: object) -> list[nn.Module]:
    """The modules that a callable is, holds or names; those inside one that is listed are not listed again."""
    return list({id(module): module for module in _reached(model, _DEPTH)}.values())


def _reached(model: object, depth: int) -> Iterator[nn.Module]:
    module = module_of(model)
    if module is not None:
        yield module
    elif depth:
        for part in _parts(model):
            if part is not model:
                yield from _reached(part, depth - 1)


def _parts(model: object) -> Iterator[object]:
    """What a callable is made of; nothing of what is no callable, a class, or a function of torch's own."""
    if isinstance(model, partial):
        yield from (model.func, *model.args, *model.keywords.values())
    elif ismethod(model):
        yield from (model.__self__, model.__func__)
    elif isfunction(model):
        yield from _named(model)
    elif callable(model) and not isinstance(model, type):
        yield from getattr(model, "__dict__", {}).values()


def _named(function: Callable[..., object]) -> Iterator[object]:
    """The values of a function's free and global names, its defaults, and what it wraps."""
    if str(function.__module__).split(".")[0] == "torch":
        return
    code, variables = function.__code__, function.__globals__
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not set yet
            continue
    yield from (variables[name] for name in code.co_names if name in variables)
    yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield from function.__dict__.values()


def in_train_mode(model: object) -> bool:
    """Whether a module of the model that has a mode is in train mode.

    Of torch's own modules dropout, norms of running statistics, and attention and recurrent layers with a dropout have a mode that
    matters. Any other module may look at its mode, unless it only wraps modules that are in eval mode.
    """
    return any(_matters(module) for whole in modules_of(model) for module in whole.modules())


def _matters(module: nn.Module) -> bool:
    if not module.training:
        return False
    if type(module).__module__.split(".")[0] != "torch":
        return _is_left(module)
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return float(module.dropout) > 0
    if isinstance(module, _INSTANCE_NORMS):
        return module.track_running_stats
    return isinstance(module, (nn.RReLU, *_BATCH_NORMS)) or (isinstance(module, _DROPOUTS) and module.p > 0)


def _is_left(module: nn.Module) -> bool:
    """Whether a module and all it holds, or something of it, were left in train mode."""
    children = list(module.children())
    return module.training and (not children or any(_is_left(child) for child in children))
