"""The Inception family written from scratch on NumPy, with every backward pass by hand.

The reading order: layer.py, compose.py, layers/batchnorm.py, layers/conv.py, models/inception_v1.py.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where each public name lives. Names are imported when they are first used, so that `import inception_np` and
# `inception-np --help` stay quick.
# fmt: off
_HOME = {
    "layer": ("Buffer", "Layer", "Mode", "Param", "cast", "flatten", "move", "named_buffers", "named_params",
              "vectors", "zero_grad"),
    "compose": ("Concat", "Residual", "Sequential"),
    "layers.activation": ("ELU", "Dropout", "ReLU"),
    "layers.batchnorm": ("BatchNorm",),
    "layers.conv": ("Conv2D", "ConvReLU"),
    "layers.conv_bn_relu": ("ConvBNReLU",),
    "layers.depthwise": ("DepthwiseConv2D", "SeparableConv2D"),
    "layers.linear": ("Linear", "Scale"),
    "layers.lrn": ("LRN",),
    "layers.pool": ("AdaptiveAvgPool2D", "AvgPool2D", "Flatten", "GlobalAvgPool2D", "MaxPool2D"),
    "layers.whitening": ("PatchWhitening",),
    "layers.loss": ("softmax_cross_entropy",),
    "training.optim": ("SGD", "RMSProp"),
    "training.muon": ("Muon",),
    "models": ("create_model", "list_models"),
    "look.features": ("features",),
    "runtime.inference": ("compile_inference",),
    "runtime.export.network": ("export_onnx",),
    "runtime.export.step": ("export_training_step",),
    "runtime.replay": ("Replay",),
    "gradcheck.check": ("check_gradients",),
    "weights.checkpoint": ("load", "load_state_dict", "save", "state_dict"),
    "weights.hub": ("from_pretrained", "save_pretrained"),
    "models.summary": ("summary",),
    "backend.threads": ("set_num_threads",),
}
# fmt: on
_WHERE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'inception_np' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
