"""Forward hooks: read what goes into or out of a module, change what comes out, stop early."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn


K = TypeVar("K", bound=Hashable)


class _Stop(Exception):  # noqa: N818  # it ends a forward pass, it is no error
    """Ends a forward pass; caught by the `capture` that raised it."""


def first(output: Any) -> Tensor:
    """The hidden states of a module's output: the output itself, or the first of a tuple.

    Decoder blocks return tensors in most families and tuples in some (gptj, gpt_neo, bloom,
    falcon).
    """
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def capture(
    modules: Mapping[K, nn.Module],
    *,
    inputs: bool = False,
    rows: int | None = None,
    stop_after: nn.Module | None = None,
) -> Iterator[dict[K, Tensor]]:
    """Record a tensor of each module while the body of the `with` statement runs the model.

    They stay in the graph. Outputs are copied, because Falcon adds to them in place; inputs are
    not. Of a module that runs twice the last tensor is kept.

    Args:
        modules: What to watch, by names of the caller's choice.
        inputs: Record the first input instead of the output.
        rows: Batch size of the forward pass. OPT hands its MLP `[rows * tokens, width]`; with
            `rows` such a tensor is given as `[rows, tokens, width]`, as in all other families.
        stop_after: Ends the forward pass after this module, and with it the body: statements behind
            the call of the model do not run.

    Yields:
        Name -> tensor; filled by the forward pass.
    """
    seen: dict[K, Tensor] = {}
    stop = _Stop()

    def keep(name: K) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            tensor = _first_input(args, kwargs) if inputs else first(output).clone()
            seen[name] = tensor if rows is None else _by_rows(tensor, rows)

        return hook

    def end(*_: Any) -> None:
        raise stop

    with ExitStack() as hooks:
        for name, module in modules.items():
            handle = module.register_forward_hook(keep(name), with_kwargs=True)
            hooks.callback(handle.remove)
        if stop_after is not None:
            hooks.callback(stop_after.register_forward_hook(end).remove)
        try:
            yield seen
        except _Stop as raised:
            if raised is not stop:
                raise


@contextmanager
def replace_output(
    module: nn.Module, change: Callable[[Tensor], Tensor], *, rows: int | None = None
) -> Iterator[None]:
    """Pass a module's output through `change` while the body of the `with` runs the model.

    Args:
        module: Whose output is replaced.
        change: Gets `first(output)` and returns what stands in its place; must not write into its
            argument.
        rows: As in `capture`.
    """

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        before = first(output)
        given = before if rows is None else _by_rows(before, rows)
        after = change(given).reshape(before.shape)
        return (after, *output[1:]) if isinstance(output, tuple) else after

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replace_input(
    module: nn.Module, change: Callable[[Tensor], Tensor], *, rows: int | None = None
) -> Iterator[None]:
    """Pass a module's first positional input through `change` while the body runs the model.

    Args:
        module: Whose input is replaced.
        change: Gets the input and returns what stands in its place; must not write into it.
        rows: As in `capture`.
    """

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        given = args[0] if rows is None else _by_rows(args[0], rows)
        return (change(given).reshape(args[0].shape), *args[1:])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The first positional input; the first named one where a model passes all by name."""
    return args[0] if args else next(iter(kwargs.values()))


def _by_rows(tensor: Tensor, rows: int) -> Tensor:
    return tensor.unflatten(0, (rows, -1)) if tensor.dim() == 2 else tensor
