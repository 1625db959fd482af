"""What kernels do: the bytes they move, and the time they take by kind."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Kind = Literal["convolution", "matmul and attention", "norm", "elementwise", "fused", "copies", "other"]
"""Fused is what a compiler made of norms, elementwise work and copies."""

# The first that matches a name counts; a fused kernel's name lists what is in it.
_KINDS: tuple[tuple[str, Kind], ...] = (
    (r"empty|resize|as_strided|set_", "other"),
    # Before convolutions, whose names kernels bear that only add the bias. A CPU's fused kernels run inside their graph's record.
    (r"triton_(poi|per|red)_|cpp_fused|CompiledFxGraph|Torch-Compiled", "fused"),
    (r"conv(?!ert)|cudnn|implicit_gemm|wgrad|dgrad|xmma_fprop", "convolution"),
    (r"attention|flash|fmha|softmax|addmm|mm\b|mm_|linear|gemm|gemv|cutlass|cublas|matmul|nvjet", "matmul and attention"),
    (r"norm|welford|RowwiseMoments|var_mean", "norm"),
    (r"silu|sigmoid|add|mul|div|sub|exp|sin|cos|neg|elementwise|pointwise", "elementwise"),
    (r"copy|clone|cat|pad|upsample|Memcpy|Memset|memset|contiguous|fill|transpose|nchw|nhwc|reorder|index", "copies"),
)


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that every kernel under it reads and writes, each of its tensors once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the kernel, and count its tensors unless it only looks at memory or reserves some."""
        found = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__:
            self.moved += sum(tensor.nbytes for tensor in _tensors((args, kwargs, found)))
        return found


def _tensors(tree: object) -> Iterator[Tensor]:
    """All tensors of a nest of arguments; one that is written in place counts as read and as written."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def kind_of(name: str) -> Kind:
    """What a kernel or operator of this name does."""
    return next((kind for pattern, kind in _KINDS if re.search(pattern, name)), "other")


def time_by_kind(run: Callable[[], object], device: torch.device, calls: int = 5) -> dict[Kind, float]:
    """Shares of the kernels' time by kind, from torch's profiler, over some calls.

    On a CPU the time is that of the operators themselves, without what they call; on CUDA it is the kernels' own.
    """
    on_gpu = device.type == "cuda"
    run()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as trace:
        for _ in range(calls):
            run()
        if on_gpu:
            torch.cuda.synchronize(device)
    spent: dict[Kind, float] = dict.fromkeys(get_args(Kind), 0.0)
    for event in trace.key_averages():
        if on_gpu and (event.device_type.name == "CPU" or event.is_user_annotation):
            continue  # what launched the kernels, and spans of them
        spent[kind_of(event.key)] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: seconds / whole for kind, seconds in spent.items()} if whole else spent
