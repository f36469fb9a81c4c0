"""`diffusion.networks.unet.UNet` as diffusers' `UNet2DModel`: the same network, its weights under other names.

The stock network works on the images that ours folds into patches, so fold before it and unfold after it. Its time
sinusoid is as wide as its first level, which is `model.sinusoid_ratio=1` here, and it doubles the height and the width
on the way up, so that every halving must be without a remainder.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffusion.data.shapes import padded, pair
from diffusion.networks.unet import UNet

RESIDUAL = {"norm_1": "norm1", "conv_1": "conv1", "scale_shift": "time_emb_proj", "norm_2": "norm2"}
RESIDUAL |= {"conv_2": "conv2", "skip": "conv_shortcut"}
WHOLE = {
    "conditioning.time.0": "time_embedding.linear_1",
    "conditioning.time.2": "time_embedding.linear_2",
    "conditioning.label": "class_embedding",
    "first": "conv_in",
    "last.0": "conv_norm_out",
    "last.2": "conv_out",
}


def why_not(network: Any, settings: Mapping[str, Any]) -> str | None:
    """Why a network is none of diffusers' own, in words; None where it is one.

    Args:
        network: of ours.
        settings: the arguments that it was made with.
    """
    if type(network) is not UNet:
        return f"diffusers has no network like {type(network).__name__}"
    if settings["sinusoid_ratio"] != 1:
        return "its time sinusoid is wider than diffusers' (model.sinusoid_ratio=1 trains one that is not)"
    if settings["multipliers"][0] != 1:
        return "its first level is wider than its first layer (model.multipliers=[1,…] trains one that is not)"
    halvings = len(settings["multipliers"]) - 1
    if any(side % (settings["patch"] << halvings) for side in pair(settings["image_size"])):
        return "it halves its images with a remainder (data.padding=auto trains one that does not)"
    return None


def config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json of a `UNet2DModel`, from the arguments of ours."""
    multipliers, patch = settings["multipliers"], settings["patch"]
    attended = [level in settings["attention"] for level in range(len(multipliers))]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.30.0",
        "sample_size": [side // patch for side in pair(settings["image_size"])],
        "in_channels": settings["channels"] * patch**2,
        "out_channels": settings["out_channels"] * patch**2,
        "block_out_channels": [settings["width"] * multiplier for multiplier in multipliers],
        "layers_per_block": settings["blocks"],
        "down_block_types": ["AttnDownBlock2D" if each else "DownBlock2D" for each in attended],
        "up_block_types": ["AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attended)],
        "attention_head_dim": settings["head_width"],
        "norm_num_groups": settings["groups"],
        "attn_norm_num_groups": settings["groups"],
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_type": "positional",
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "num_class_embeds": settings["num_classes"] + 1 if settings["num_classes"] else None,
        "act_fn": "silu",
        "center_input_sample": False,
    }


def weights(ours: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of a `UNet2DModel` from that of ours."""
    places, found = blocks(len(settings["multipliers"]), settings["blocks"]), {}
    for name, value in ours.items():
        module, _, kind = name.rpartition(".")
        if module in WHOLE:
            found[f"{WHOLE[module]}.{kind}"] = value
            continue
        side, number, *inner = module.split(".")
        place, index = places[f"{side}.{number}"]
        if not inner:  # a convolution that halves or doubles
            found[f"{place}.conv.{kind}"] = value
        elif inner[0] == "residual":
            found[f"{place}.resnets.{index}.{RESIDUAL[inner[1]]}.{kind}"] = value
        elif inner[1] == "norm":
            found[f"{place}.attentions.{index}.group_norm.{kind}"] = value
        else:
            linear = value.flatten(1) if kind == "weight" else value  # of a convolution of one pixel
            targets = ("to_q", "to_k", "to_v") if inner[1] == "qkv" else ("to_out.0",)
            for target, part in zip(targets, linear.chunk(len(targets)), strict=True):
                found[f"{place}.attentions.{index}.{target}.{kind}"] = part
    return found


def blocks(levels: int, per_level: int) -> dict[str, tuple[str, int]]:
    """Where each layer of ours lies in diffusers': "down.3" → ("down_blocks.1", 0), a block and a number in it."""
    found = {"middle.0": ("mid_block", 0), "middle.1": ("mid_block", 1)}
    down = up = 0
    for level in range(levels):
        if level:
            found[f"down.{down}"] = (f"down_blocks.{level - 1}.downsamplers.0", 0)
            down += 1
        for index in range(per_level):
            found[f"down.{down}"] = (f"down_blocks.{level}", index)
            down += 1
        for index in range(per_level + 1):
            found[f"up.{up}"] = (f"up_blocks.{level}", index)
            up += 1
        if level < levels - 1:
            found[f"up.{up}"] = (f"up_blocks.{level}.upsamplers.0", 0)
            up += 1
    return found


def settings_of(model: Any, filled: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a trained model's network: those of its config, and those that its images bring.

    Args:
        model: a `diffusion.model.Model`.
        filled: the node `model` of its config, with the defaults of what it leaves out.
    """
    image, denoiser = model.image_model.image, model.denoiser
    heads = 2 if denoiser.learns_variance else 1
    found = {name: value for name, value in filled.items() if name != "_target_"}
    found |= {"channels": image["channels"], "image_size": padded(image["size"], image["padding"])}
    found |= {"num_classes": denoiser.num_classes, "out_channels": heads * image["channels"]}
    if "multipliers" in found:
        found["multipliers"] = found["multipliers"] or [1, 2, 2]
        found["attention"] = found["attention"] or []
    return found
