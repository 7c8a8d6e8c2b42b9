"""Images: the data sets, and the batches that training makes of them. Files, and what is random.

dataset.py       the data sets by name: shapes10.py (drawn here), cifar10.py (read; cifar10_archive.py fetches it)
batches.py       the order of an epoch, crops, mirror images, normalisation
preprocess.py    from a photograph to a network's input
random.py        random numbers by seed, purpose and place in the run
files.py         how every file is written
streams.py       standard output and standard error
"""
