"""What a run does where the memory is too small: it saves what is whole, and names the setting that needs less."""

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from diffusion.sampler.base import out_of_memory
from diffusion.system import ranks
from diffusion.system.errors import UserError
from diffusion.training.state import State


@contextmanager
def enough_memory(state: State) -> Iterator[None]:
    """A step. Where it fails before it has changed anything, the state before it is saved; else the last checkpoint
    is what there is to go on from."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not too_small(error):
            raise
        plan = state.plan
        mine = plan.batch_size // ranks.size()
        more = next((k for k in range(plan.accumulate + 1, mine + 1) if not mine % k), None)
        way_on = "only a smaller model or image fits"
        if more is not None:
            way_on = (
                f"training.accumulate={more} takes {mine // more} at once and gives the same gradient: "
                f"{state.way_on()} training.accumulate={more}"
            )
        raise UserError(
            f"The memory is too small for the {mine // plan.accumulate} images that "
            f"training.batch_size={plan.batch_size} with training.accumulate={plan.accumulate} takes at once; "
            f"{leaving(state, error)}; {way_on}."
        ) from error


@contextmanager
def enough_to_show(what: str, state: State) -> Iterator[None]:
    """A preview or scores, which change nothing of the training: it is saved before they end it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not too_small(error):
            raise
        raise UserError(
            f"The memory is too small for {what}; {leaving(state, error)}; draw one image at once: "
            f"{state.way_on()} score.batch_size=1, or leave them out: training.preview_every=0 score.n=0."
        ) from error


def too_small(error: BaseException) -> bool:
    """Whether an error says that memory ran out: PyTorch's of a device or of the CPU, or Python's."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and out_of_memory(error))


def leaving(state: State, error: BaseException) -> str:
    """Save where the state is whole, with the memory that the error held on to; what there is then, in words."""
    progress = state.progress
    traceback.clear_frames(error.__traceback__)  # activations
    state.parts.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
    ranks.let_first_speak()  # of several that fail alike one saves
    if progress.whole and state.rescue():
        return f"the run stops after step {progress.step} of {progress.total_steps}, saved"
    return f"the run stops in step {progress.step}, and {state.last_good()}"
