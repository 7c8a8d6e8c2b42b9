"""Training a network, and using what was trained.

loop.py          the run: read this first
step.py          one step, on the CPU or as a CUDA graph; optim.py, muon.py, schedules.py, average.py: its parts
start.py         from a checkpoint's weights; freeze.py: parameters that stay; mixup.py: images mixed in pairs
options.py       the options of a run; own_options.py: its network's; fits.py and memory.py: whether it fits
state.py         all that it takes to resume; results.py, plots.py, progress.py: what a run leaves and says
watchdog.py      numbers that are not finite; signals.py: Ctrl-C
evaluate.py      accuracy and loss; predict.py: what is in photographs
command.py       inception-np train; checkpoint_commands.py: eval and predict
"""
