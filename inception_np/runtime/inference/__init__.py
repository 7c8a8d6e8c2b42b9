"""compile_inference: a network as one list of kernel calls for one input shape, with its weights as they are now.

`layer.forward(x, Mode())` walks a tree of layers, looks at shapes and makes arrays; for one small image that takes as
long as the arithmetic. Here it is done once. What comes out is a plan: kernel addresses, array addresses and numbers in
one vector, and a call of it is one call into compiled code. On the way the network is rewritten; every step is exact
but for rounding:

    conv, then batch norm       the running averages are constants: w' = w g, b' = beta - mean g, g = gamma / std
    conv, then ReLU             ReLU is the least value that the convolution's tile may store
    3x3 convolutions            Winograd's way where that is faster, the filters transformed once
    sibling 1x1 convolutions    those that read one input are one product, with their output channels side by side
    average, then 1x1 conv      both are linear, one in space, one in channels: the convolution first, and the average
                                runs over its 32 to 192 channels in place of 192 to 2048
    x + scale * conv(...)       the convolution adds to x where it stands, its weights times the scale
    max pooling                 without the winners
    dropout                     is left out

Arrays come from an arena that belongs to the plan; one that is not read again makes room for the next, so that a deep
network runs in the memory of its two or three largest maps, which stay in the cache. Layers without a kernel here
(your own, for instance) run as they are, between two stretches of the plan, as a copy made now.
"""

import copy
from typing import Any

from ...backend.arrays import Shape
from ...backend.device import compiled
from ...layer import Layer, Mode, named_buffers, named_params


def compile_inference(layer: Layer, input_shape: Shape) -> Any:
    """A callable x -> y that is layer.forward(x, Mode())[0] for x of this shape (N, H, W, C), faster.

    It has a copy of the weights as they are now: what the layer learns later does not change it; make it again. The
    number of threads is also as it is now. Its y is a new array in every call. float32 on the CPU runs as a plan (see
    the top of the file); any other dtype, a GPU, or INCEPTION_NP_PLAIN=1 run a copy of the layer as it is. Raises what
    the layer raises for a shape it cannot take.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"compile_inference: got {type(layer).__name__}, wanted a Layer")
    arrays = [p.data for p in named_params(layer).values()] + [b.data for b in named_buffers(layer).values()]
    layer.out_shape(tuple(input_shape))
    if not compiled(*arrays):
        frozen = copy.deepcopy(layer)
        return lambda x: frozen.forward(x, Mode())[0]
    from .plan import Plan  # Numba is loaded with it

    return Plan(layer, tuple(input_shape))
