"""Score a trained model, or any images, beside real test images: FID, KID, precision, recall, accuracy, copies, …

python evaluate.py checkpoint=RUN n=10000
python evaluate.py checkpoint=RUN sampler=ddim sampler.steps=20 guidance.scale=1.5 repeats=3
python evaluate.py checkpoint=RUN likelihood=500        also the bits per dimension that 500 test images need
python evaluate.py samples=mine.npz                     (arr_0 uint8 N×H×W×C, arr_1 labels) or a folder of images
python evaluate.py samples=[mine.npz,theirs/]           side by side, in one table
python evaluate.py -m checkpoint=RUN sampler.steps=5,10,20 guidance.scale=1,2,3     curves
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from diffusion.config.cli import job, launch


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
@job
def main(cfg: DictConfig) -> float:
    from diffusion.config import whole_evaluation

    hydra_config = HydraConfig.get()
    overrides, again = list(hydra_config.overrides.task), hydra_config.mode == RunMode.MULTIRUN
    return float(whole_evaluation.evaluate(cfg, overrides, Path(cfg.output_dir), again)["fid"])


if __name__ == "__main__":
    launch(main)
