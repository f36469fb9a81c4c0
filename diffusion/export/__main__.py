"""Take a trained model along: a file or a folder for programs that do not have this package.

python -m diffusion.export checkpoint=latest to=page                            one HTML file that draws
python -m diffusion.export checkpoint=RUN to=onnx weights=fp16                  the denoiser for ONNX Runtime
python -m diffusion.export checkpoint=RUN to=diffusers path=outputs/my_model    a folder for diffusers' from_pretrained
python -m diffusion.export checkpoint=RUN to=safetensors                        the weights, with their config
"""

import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig

from diffusion.config import options
from diffusion.config.cli import job, launch

log = logging.getLogger("diffusion")
CONF = options.home()
SETTINGS: dict[str, Any] = {
    **dict.fromkeys("checkpoint output_dir".split(), str),
    **dict.fromkeys("to weights path".split(), (str, type(None))),
    "averaged": bool,
    "ema_width": (float, type(None)),
    "trust": (str, ListConfig, type(None)),  # modules of the user's own
}


@hydra.main(config_path=str(CONF), config_name="export", version_base="1.3")
@job
def main(cfg: DictConfig) -> None:
    from diffusion.config import settings, trained, trust
    from diffusion.export import formats
    from diffusion.model import load
    from diffusion.records import checkpoint
    from diffusion.system import ranks

    settings.check_top_level(cfg, SETTINGS)
    form, weights = formats.chosen(cfg.to, cfg.weights, None if cfg.path is None else Path(cfg.path))
    path = Path(cfg.output_dir) / form.name if cfg.path is None else Path(cfg.path)
    file = checkpoint.find(cfg.checkpoint)
    model = load(
        file,
        device="cpu",
        averaged=cfg.averaged,
        ema_width=cfg.ema_width,
        trust=list(trust.modules()),
        precision="fp32",
    )
    if not ranks.first():
        return
    trained.tell_unfinished(model.state)
    log.info("%s, step %d.", file, model.state["step"])
    model.export(path, cfg.to, weights)
    size = formats.size_of(path) / 1e6
    log.info("%s holds the model, to=%s with weights=%s: %.2f MB.", path, cfg.to, weights, size)


if __name__ == "__main__":
    sys.argv[0] = str(CONF.parent / "export.py")  # the script that --help and hints speak of, beside its options
    launch(main)
