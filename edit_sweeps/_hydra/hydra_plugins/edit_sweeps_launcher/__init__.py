"""Hydra's way in: the launcher `cells`. Hydra imports this file at every start, so it imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class CellsConfig:
    """`hydra/launcher=cells`; where cells run is said by the group `cluster`."""

    _target_: str = "hydra_plugins.edit_sweeps_launcher.CellsLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="cells", node=CellsConfig)


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

        del initial_job_idx
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        loader = self.context.config_loader
        cells = [(loader.load_sweep_config(self.config, list(o)), list(o)) for o in job_overrides]
        launch(cells)
        return [_finished(overrides) for overrides in job_overrides]


def _finished(overrides: Sequence[str]) -> JobReturn:
    returned = JobReturn()
    returned.overrides = list(overrides)
    returned.status = JobStatus.COMPLETED
    returned.return_value = None
    return returned
