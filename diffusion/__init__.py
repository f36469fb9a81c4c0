"""Simple Diffusion: train, sample and measure diffusion models on small images.

Read it in this order; each file is one idea.

    schedule.py     t → (α, σ): how noisy x_t is
    objective.py    what the network predicts, and how x̂_0 follows from it
    timesteps.py    which noise levels are trained
    denoiser.py     network + schedule + objective: x_t → x̂_0, and the loss
    guidance.py     label dropout in training, classifier-free guidance in sampling
    sampler.py      from noise to images: DDPM and DDIM
    networks/       layers.py, unet_simple.py (the educational U-Net), unet.py (the modern one)
    ema.py          the averaged weights
    training.py     the loop

Around them: data.py and datasets.py, device.py, randomness.py, pacing.py (length and learning rate), running_sums.py,
interruption.py (Ctrl-C), checkpoint.py, tracking.py (TensorBoard), image_model.py (a model that draws), monitor.py
(grids and scores of a run), pictures.py, progress.py, files.py, errors.py, evaluation/ (the scorer, FID, Inception
Score), and, where Hydra comes in, build.py (config → objects), settings.py (its checks), trained.py (checkpoint →
model), cli.py and leaderboard.py.
"""
