"""How a denoiser is trained. Read step.py, then loop.py.

step.py           one optimizer step: t and noise, dropped labels, loss, backward, clipping, optimizer, average
loop.py           the steps, and what is due after each
parts.py          what a run trains and with what, and how far it has got
plan.py           its settings, its length, the learning rate; pacing.py: its length in time
state.py          what is saved and restored; best.py: which checkpoints are kept, and when a run ends early
monitor.py        grids, held-out loss and scores on the way
running_sums.py   what is logged; profiling.py: where the time goes
rule.py           what a setting of auto becomes; speed.py: measured for it; tuning.py: guidance, after training
interruption.py   Ctrl-C, SIGTERM, and the way on; enough_memory.py: where there is too little
"""
