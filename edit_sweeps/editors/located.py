"""What ROME, MEMIT and their kin share: hyper-parameters, contexts and second moments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from edit_sweeps.editors.base import Editor, Prepared, Stores
from edit_sweeps.editors.contexts import ContextRecipe, make_contexts, read_contexts
from edit_sweeps.editors.value import ValueSettings

if TYPE_CHECKING:
    from edit_sweeps.model import EditableModel


@dataclass(frozen=True, kw_only=True)
class LocatedEditor(Editor):
    """An editor that writes a key and an optimised value into MLP output matrices.

    Attributes:
        value: How the value is optimised.
        second_moment: Whether updates avoid the directions of frequent keys (C of the model's
            text); false takes the identity for C, as several published configurations do.
        contexts: Templates with one `{}` where the prompt goes, or prefixes without; a list, or a
            list of groups. null: made by `context_source`.
        contexts_file: The same as a JSON file.
        context_source: `generated` (sampled from the unedited model), `miniature` (sentences of the
            synthetic world) or `bare` (the prompt alone).
        context_seed: Of the sampling.
        context_starts: Texts sampling starts from; "" stands for the first token of any text.
        context_lengths: Pairs [tokens, count]: from each start, `count` texts of `tokens` tokens.
    """

    value: ValueSettings = field(default_factory=ValueSettings)
    second_moment: bool = True
    contexts: Sequence[Any] | None = None
    contexts_file: str | None = None
    context_source: str = "generated"
    context_seed: int = 0
    context_starts: Sequence[str] = ("",)
    context_lengths: Sequence[Sequence[int]] = ((5, 10), (10, 10))

    grouped_contexts: ClassVar[bool] = False
    """Whether the sampled texts of one length count as one group."""

    @property
    @abstractmethod
    def edited_layers(self) -> tuple[int, ...]:
        """The layers written to, in ascending order."""

    def check(self, n_layers: int) -> None:
        """Refuse layers outside the model, contexts and value settings that cannot be."""
        check_layers(self.edited_layers, n_layers)
        self.value.check()
        read_contexts(self.contexts, self.contexts_file)
        self._recipe()

    def prepare(self, model: EditableModel, stores: Stores) -> Prepared:
        """Contexts, and second moments of the edited layers, of the unedited model."""
        given = read_contexts(self.contexts, self.contexts_file)
        return Prepared(
            moments=stores.moments.get(model, self.edited_layers) if self.second_moment else {},
            contexts=given or make_contexts(model, self._recipe()),
        )

    def _recipe(self) -> ContextRecipe:
        return ContextRecipe(
            source=self.context_source,
            seed=self.context_seed,
            starts=tuple(self.context_starts),
            lengths=tuple(tuple(pair) for pair in self.context_lengths),
            grouped=self.grouped_contexts,
        )


def check_layers(layers: Sequence[int], n_layers: int) -> None:
    """Refuse layers that a model with `n_layers` blocks does not have.

    Raises:
        ValueError: No layer, a repeated one, or one outside the model.
    """
    if not layers:
        msg = f"editor.layers is empty; name at least one of the layers 0 to {n_layers - 1}"
        raise ValueError(msg)
    if len(set(layers)) < len(layers):
        msg = f"editor.layers={list(layers)} names a layer twice"
        raise ValueError(msg)
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < n_layers:
            msg = (
                f"editor layer {layer!r} is outside this model, which has {n_layers} blocks; "
                f"choose 0 to {n_layers - 1}"
            )
            raise ValueError(msg)
