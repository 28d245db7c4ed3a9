"""The one command: compose the cells of a study and run what is missing of them. See `python launch.py --help`."""

import hydra
from omegaconf import DictConfig

from edit_sweeps import config as schema

schema.register()


@hydra.main(**schema.version_base(), config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run one cell; with -m the cells launcher takes the whole grid instead."""
    from hydra.core.hydra_config import HydraConfig

    from edit_sweeps.launcher import launch_one

    launch_one(config, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    main()
