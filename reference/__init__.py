"""Every operation of the library once more: slow loops straight from the definitions, in float64.

Nothing here imports the library, and nothing here is clever, so that the two can be compared: a test runs both on
random configurations and wants the same numbers. Read a file of this package beside the kernel of the same name.

    windows     same padding, floor and ceil, which tap meets which cell
    conv        convolution (strides, pads, dilation, groups) and depthwise convolution
    pool        maximum, average, global average
    norm        batch normalisation, local response normalisation
    pointwise   ReLU, ELU, dropout, linear, flatten, concatenation, residual sum
    loss        softmax cross-entropy
    update      SGD and RMSProp steps
    views       the six views of test-time augmentation
    colours     brightness, contrast, saturation and hue
    tables      the papers' tables as data

Arrays are (N, H, W, C), convolution weights (kh, kw, C_in // groups, C_out), depthwise weights
(kh, kw, C, multiplier), linear weights (in, out). Complex input is allowed, for derivatives by complex step.
"""
