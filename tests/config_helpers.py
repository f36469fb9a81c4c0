"""Configs and what is built from them, for the tests that may know Hydra: those of config, model, tasks and scripts."""

from conftest import CACHE, ROOT


def compose(name, *overrides):
    """A composed config, resolved, as a plain dictionary."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(name, [*overrides, "output_dir=here"])
    return OmegaConf.to_container(cfg, resolve=True)


def train_config(*overrides):
    """What train.py makes of a command line, without what an experiment set for another option."""
    from omegaconf import OmegaConf

    from diffusion.config.settings import leave_out_foreign

    cfg = OmegaConf.create(compose("train", *overrides))
    leave_out_foreign(cfg, overrides)
    return OmegaConf.to_container(cfg)


def saved_run(folder):
    """A run folder of a tiny network, before its first step."""
    from diffusion.config import training_run

    trainer = training_run.build_trainer(tiny_config(), folder)
    trainer.state.save()
    trainer.tracker.close()
    return folder


def trained_run(folder, **settings):
    """A run folder of a tiny network, after its last step."""
    from diffusion.config import training_run

    trainer = training_run.build_trainer(tiny_config(**settings), folder)
    trainer.fit()
    trainer.tracker.close()
    return folder


def tiny_config(**settings):
    """The quickstart with a network of a few thousand weights and nothing that takes time."""
    small = {
        "model.width": 8,
        "model.groups": 4,
        "model.head_width": 8,
        "training.batch_size": 8,
        "training.steps": 4,
        "training.log_every": 3,
        "training.checkpoint_every": 4,
        "training.preview_every": 0,
        "score.held_out": 32,
        "preview.steps": 2,
        "score.n": 0,
        "features.cache": CACHE,
        "device": "cpu",
        "device.precision": "fp32",
    }
    config = train_config(*(f"{key}={value}" for key, value in {**small, **settings}.items()))
    return {key: value for key, value in config.items() if key not in ("output_dir", "resume", "trust")}
