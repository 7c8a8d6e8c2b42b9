"""What a trained network has learned, and how: one question per file, each answered with the hand-written passes.

    features.py     what does a stage compute?           forward, cut short
    vjp.py          what does an output depend on?       forward and backward, the network left as it was
    saliency.py     which pixels does a class hang on?   Simonyan et al. 2014, Springenberg et al. 2015
    maximise.py     which image is most of a class?      Simonyan et al. 2014, Mordvintsev et al. 2015
    fields.py       how far does an output see?          Luo et al. 2016
    flow.py         does the gradient reach the bottom?  Szegedy et al. 2015
    kernels.py      what do the filters look like?       Zeiler & Fergus 2014

`command.py` asks all of them of a checkpoint, and `drawing.py` draws the answers.
"""
