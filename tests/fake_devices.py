"""Devices that do not exist, on the CPU: every tensor carries the name of one, and mixing two is an error.

A tag lies on a tensor's storage, so that views share it. A function mode stands between Python and torch: it
answers `.device` with the tag, turns `.to(device)` into a copy with another tag (whose gradient comes back with the
first) and makes what a factory is asked for on a device. A dispatch mode below it looks at every operation, those of
backward passes too, and raises where torch would.

What torch allows, and so is allowed here:
    `a.copy_(b)` from any device to any;
    CPU numbers without dimension (`torch.tensor(2.0)`) beside tensors of any device;
    CPU indices into tensors of any device; indices of a GPU only into its own tensors;
    `_foreach_` operations (optimizers) on lists over several devices: the lists go in step, and what stands at one
    place of them must share a device.

What it does not show: anything about streams, memory, kernels or speed; tensors without strides (sparse ones); a
mistake on memory that C++ makes for itself in the middle of an operation, which has no tag and goes with any; other
threads, where the modes do not reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
CROSSING = {"aten::copy_", "aten::_to_copy"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
INDEXING |= {"aten::_unsafe_index"}
MOVING = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.type_as}
TO_HOST = {"numpy", "__array__"}
DEVICE, IS_CUDA = torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__


class MixedError(RuntimeError):
    """What torch says of tensors on two devices."""


class Tags:
    """Storage -> device; a storage is kept weakly, so that its address is not used again."""

    def __init__(self):
        self._of = {}

    def get(self, tensor):
        found = self._of.get(_key(tensor))
        return None if found is None else found[1]

    def put(self, tensor, device):
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            self._of[storage._cdata] = (StorageWeakRef(storage), device)

    def put_where_none(self, tree, device):
        for tensor in _tensors(tree):
            if self.get(tensor) is None:
                self.put(tensor, device)


class _Move(torch.autograd.Function):
    """A copy with another tag; the gradient goes back."""

    @staticmethod
    def forward(ctx, tensor, tags, device):
        ctx.tags, ctx.device = tags, tags.get(tensor) or CPU
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            moved = tensor.clone()
        tags.put(moved, device)
        return moved

    @staticmethod
    def backward(ctx, gradient):
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            moved = gradient.clone()
        ctx.tags.put(moved, ctx.device)
        return moved, None, None


class _Names(TorchFunctionMode):
    """What Python sees: `.device`, moves, factories."""

    def __init__(self, tags):
        super().__init__()
        self.tags = tags

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        self.tags.put_where_none((args, kwargs), CPU)
        if name == "__get__":
            return self._attribute(func, args[0])
        if func is torch.Tensor.get_device:
            device = self.tags.get(args[0])
            return -1 if device.index is None else device.index
        if name in TO_HOST and self.tags.get(args[0]) != CPU:
            raise TypeError(f"can't convert {self.tags.get(args[0])} device type tensor to numpy")
        if func in MOVING:
            return self._move(func, args, kwargs)
        wanted = kwargs.pop("device", None)
        if wanted is None:
            return func(*args, **kwargs)
        kwargs.pop("pin_memory", None)
        out = func(*args, device=CPU, **kwargs)
        for tensor in _tensors(out):
            self.tags.put(tensor, _device(wanted))
        return out

    def _attribute(self, func, tensor):
        if func == DEVICE:
            return self.tags.get(tensor)
        if func == IS_CUDA:
            return self.tags.get(tensor).type == "cuda"
        return func(tensor)

    def _move(self, func, args, kwargs):
        tensor, *rest = args
        here = self.tags.get(tensor)
        device, left = here, []
        if func is torch.Tensor.cpu:
            device = CPU
        elif func is torch.Tensor.cuda:
            device = torch.device("cuda", 0)
        for value in rest:
            if isinstance(value, torch.Tensor):
                device = self.tags.get(value)
                left.append(value.dtype)
            elif isinstance(value, torch.device | str | int) and not isinstance(value, bool):
                device = _device(value)
            elif isinstance(value, torch.dtype):
                left.append(value)
        if kwargs.get("device") is not None:
            device = _device(kwargs["device"])
        kwargs = {k: v for k, v in kwargs.items() if k != "device"}
        if left or kwargs.keys() - {"non_blocking", "memory_format"}:
            tensor = torch.Tensor.to(tensor, *left, **kwargs)
            self.tags.put_where_none(tensor, here)
        return tensor if device == here else _Move.apply(tensor, self.tags, device)


class _Watch(TorchDispatchMode):
    """Every operation: which devices meet in it."""

    def __init__(self, tags):
        super().__init__()
        self.tags = tags

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name
        groups = self._groups(name, args, kwargs)
        devices = [self._shared(name, group) for group in groups]
        out = func(*args, **kwargs)
        for each, device in zip([out] if len(groups) == 1 else out or (), devices, strict=False):
            if device is not None:
                self.tags.put_where_none(each, device)
        return out

    def _groups(self, name, args, kwargs):
        """Operands, as lists within which there may be one device only."""
        if name in CROSSING:
            return [_tensors(args[0])]
        if name.startswith("aten::_foreach_"):
            lists = [a for a in args if isinstance(a, list | tuple)]
            alone = [a for a in args if not isinstance(a, list | tuple)]
            return [_tensors((group, alone)) for group in zip(*lists, strict=True)]
        if name in INDEXING:
            target, indices, *rest = args
            foreign = [i for i in _tensors(indices) if self.tags.get(i) != CPU]
            return [_tensors((target, foreign, rest, kwargs))]
        return [_tensors((args, kwargs))]

    def _shared(self, name, tensors):
        """The one device of some tensors; CPU numbers without dimension go with any."""
        known = [(self.tags.get(t), t) for t in tensors]
        known = [(device, t) for device, t in known if device is not None]
        met = {device for device, t in known if device != CPU or t.dim()} or {d for d, _ in known}
        if len(met) > 1:
            raise MixedError(f"{name}: tensors on {' and '.join(sorted(map(str, met)))}")
        return next(iter(met), None)


@contextmanager
def fake_devices() -> Iterator[Tags]:
    """Inside, `cuda:0`, `cuda:1` ... can be moved to, and mixing them raises `MixedError`."""
    tags = Tags()
    with _Watch(tags), _Names(tags):
        yield tags


def _device(value):
    return torch.device("cuda", value) if isinstance(value, int) else torch.device(value)


def _tensors(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for branch in tree for tensor in _tensors(branch)]


def _key(tensor):
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None
