"""Networks as ONNX files: what one computes in inference, and a whole step of its training.

    export_onnx(net, "net.onnx")                            images in, logits out
    export_training_step(net, "step.onnx", batch=32)        images, labels and weights in, loss and new weights out

Both are read off the kernel calls that the passes are made of (reader.py), so that there is no second description of
any network or layer. A training step is forward, backward and update in the operators that inference has: no runtime
needs to know of training.

    inputs      images (N, H, W, C), labels (N,), lr; every array of state_dict(net) by its name, and NAME.velocity for
                each that is learned; NAME.kept for each dropout layer: a mask, True with probability 1 - rate
    outputs     loss, logits; NAME.next for each of these arrays that a step changes

    state |= {name.removesuffix(".next"): value for name, value in outputs.items() if name.endswith(".next")}
"""
