"""Independent random streams, addressed by numbers instead of by the order in which they are used.

Training step k draws from `stream(seed, TRAINING, k)` and image i of a sample from `stream(seed, SAMPLING, i)`:
whoever knows the address gets the same numbers, so a resumed run repeats an uninterrupted one bit for bit, and
image i looks the same at any batch size.
"""

import numpy as np
import torch

# The first number of an address says what the numbers are for, so that no two uses share a stream.
TRAINING, DATA_ORDER, SAMPLING, HELD_OUT, NETWORK, SPLIT, LIKELIHOOD, AUGMENTATION = range(8)


def stream(seed: int, *address: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one address.

    Args:
        seed: the user's seed, a non-negative integer.
        address: non-negative integers, for example (TRAINING, step).
        device: where the generator draws. CPU and CUDA give different numbers for the same address.

    Returns:
        a `torch.Generator`, seeded by NumPy's `SeedSequence` (which mixes the whole address into 64 bits).
    """
    state = np.random.SeedSequence((seed, *address)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))
