"""Images: the data sets, and the batches that training makes of them. Files, and what is random.

dataset.py       the data sets by name, and how one of your own joins them: shapes10.py (drawn here), cifar10.py (read
                 from its files or from cifar10_archive.py), idx.py (MNIST), digits.py, photographs.py, npz.py
batches.py       the order of an epoch, crops, mirror images, normalisation; distort.py: other light
preprocess.py    from a photograph to a network's input
random.py        random numbers by seed, purpose and place in the run
files.py         how every file is written; download.py: how some are fetched
streams.py       standard output and standard error
"""
