"""Hydra's way in: the launcher and the sweeper `cells`. Hydra imports this file at every start: nothing heavy here."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins import basic_sweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class CellsConfig:
    """`hydra/launcher=cells`; where cells run is said by the group `cluster`."""

    _target_: str = "hydra_plugins.edit_sweeps_launcher.CellsLauncher"


@dataclass
class CellsSweeperConfig(basic_sweeper.BasicSweeperConf):
    """`hydra/sweeper=cells`: the grid of Hydra's basic sweeper, with its settings."""

    _target_: str = "hydra_plugins.edit_sweeps_launcher.CellsSweeper"


ConfigStore.instance().store(group="hydra/launcher", name="cells", node=CellsConfig)
ConfigStore.instance().store(group="hydra/sweeper", name="cells", node=CellsSweeperConfig)


class CellsLauncher(Launcher):
    """Hands the whole grid to `edit_sweeps.launcher` at once, which plans before it runs."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what `launch` needs; the task function is for one cell and not used."""
        del task_function
        self.context = hydra_context
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Compose every cell, then plan and run them."""
        from edit_sweeps.launcher import launch
        from edit_sweeps.launcher.composing import compose

        del initial_job_idx
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        ended = launch(compose(self.context.config_loader, self.config, job_overrides))
        kind = JobReturn if ended else _Submitted
        return [_returned(kind, overrides) for overrides in job_overrides]


class _Submitted(JobReturn):
    """What is known of a cell that was handed to Slurm: it has no result yet."""

    @property
    def return_value(self) -> object:
        """No result."""
        return {"state": "submitted"}

    @return_value.setter
    def return_value(self, _: object) -> None:
        """Hydra's own class has one."""


class CellsSweeper(basic_sweeper.BasicSweeper):
    """Hydra's basic sweeper, which composes every cell to see whether that can be done, without doing it twice."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Leave it to the launcher `cells`, which composes all cells before it runs any; others need it."""
        if not isinstance(self.launcher, CellsLauncher):
            super().validate_batch_is_legal(batch)


def _returned(kind: type[JobReturn], overrides: Sequence[str]) -> JobReturn:
    returned = kind()
    returned.overrides = list(overrides)
    returned.status = JobStatus.UNKNOWN if kind is _Submitted else JobStatus.COMPLETED
    returned.return_value = None
    return returned
