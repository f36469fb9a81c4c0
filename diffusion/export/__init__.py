"""A trained model for programs that do not have this package.

__main__.py           the command, python -m diffusion.export
formats.py            the forms there are, and what each can hold
trained.py            what is asked of a model
facts.py              what a sampler elsewhere must know: levels, guidance, names of the classes, scores
onnx_file.py          to=onnx: the whole denoiser as one graph
onnx_weights.py       its weights as fp16 or int8, and nothing of this machine
diffusers_folder.py   to=diffusers: a folder for `DiffusionPipeline.from_pretrained`
unet_2d.py            our U-Net as diffusers' own
pipeline.py           the pipeline that goes into that folder
card.py               its model card
page.py               to=page: an HTML file that draws, of the pieces in page_parts/
page_model.py         what it knows of the model: classes, guidance, samplers, levels
page_weights.py       its weights as fp32, fp16 or int8
"""
