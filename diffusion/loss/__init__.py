"""What training minimises: one number per image, from a denoiser, clean images, times and noise.

weights.py      the squared error, weighted by the noise level: uniform, min-SNR, P2, EDM
hybrid.py       the squared error and the variational bound, which teaches the variance
consistency.py  agreement with itself at a lower noise level, which teaches to denoise in one step
"""

from diffusion.loss.weights import EDM, P2, Epsilon, MinSNR, Target, Weighted

__all__ = ["EDM", "P2", "Epsilon", "MinSNR", "Target", "Weighted"]
