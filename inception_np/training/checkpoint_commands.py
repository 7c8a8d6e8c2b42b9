"""`inception-np eval` and `inception-np predict`: what a checkpoint is good for."""

import argparse
import hashlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from ..backend.errors import UsageError
from .arguments import add_json, add_precision, add_threads, positive, use_threads, whole


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("eval")
    parser.set_defaults(run=run_eval)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file that train or save wrote")
    parser.add_argument("--data", metavar="NAME", help="a data set, see train; by default the test images of its run")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of the data set are")
    parser.add_argument("--test-images", type=positive, metavar="N", help="only the first N test images")
    parser.add_argument("--subset", action="store_true", help="accept a reduced copy of the data set")
    parser.add_argument("--batch-size", type=positive, default=250, metavar="N")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation: mean logits of six views")
    parser.add_argument(
        "--crops", type=whole, choices=(1, 10, 144), help="crops averaged, of images larger than its input"
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu")
    add_precision(parser.add_argument)
    add_threads(parser)
    add_json(parser)

    parser = commands.add_parser("predict")
    parser.set_defaults(run=run_predict)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file that train, save or import wrote")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="JPEG, PNG, ...")
    parser.add_argument("--crops", type=whole, choices=(1, 10, 144), default=1, help="crops averaged (GoogLeNet)")
    add_threads(parser)
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="how many classes to print")
    add_json(parser)


def run_eval(args: argparse.Namespace) -> int:
    from ..backend.device import resolve_device, set_precision
    from ..layer import move
    from ..parallel.agree import check_alike
    from ..parallel.workers import of_process
    from .evaluate import evaluate, evaluate_crops
    from .options import check_precision
    from .predict import preprocess_for

    if args.crops and args.tta:
        raise UsageError(f"--crops: got {args.crops} with --tta, which are other views; leave one of them out")
    where = resolve_device(args.device)
    if args.precision:
        check_precision(where, args.precision)
        set_precision(args.precision)
    use_threads(args)
    net, about = network_of(args.checkpoint)
    data, mean, std = test_images(args.checkpoint, net, about, args.data, args.data_dir, args.test_images, args.subset)
    classes = getattr(net, "num_classes", len(data.classes))
    if classes != len(data.classes):
        raise UsageError(f"--data: {data.name} has {len(data.classes)} classes, {args.checkpoint} has {classes}")
    if list(data.classes) != (about.get("classes") or list(data.classes)):
        raise UsageError(
            f"--data: {data.name} has other classes than {args.checkpoint}; give the data it was trained on"
        )
    if len(mean) != data.size.image[2]:
        raise UsageError(f"--data: {data.name} has {data.size.image[2]} channels, {args.checkpoint} has {len(mean)}")
    images, labels = data.test_images, data.test_labels
    net = move(net, where)
    if args.crops:
        accuracy, loss, _ = evaluate_crops(net, images, labels, preprocess_for(net, about), args.crops)
    else:
        workers = of_process()
        check_alike(workers, partial(told_apart, args.checkpoint, data), "give all workers the same files")
        how = {"tta": args.tta, "workers": workers}
        accuracy, loss, _ = evaluate(net, images, labels, mean, std, args.batch_size, **how)
    if not math.isfinite(loss):
        raise ValueError(
            f"{args.checkpoint}: the loss is {loss} although all its numbers are finite; its logits are too large, "
            "train with a smaller --lr"
        )
    if args.json:
        print(json.dumps({"accuracy": accuracy, "loss": loss, "images": len(labels)}))
    else:
        print(f"accuracy {accuracy:.2%} of {len(labels):,} test images of {data.name}, loss {loss:.4f}")
    return 0


def told_apart(checkpoint: str, data: Any) -> dict[str, str]:
    """What a checkpoint and a data set hold, in a few letters."""
    from ..parallel.agree import digests

    with open(checkpoint, "rb") as file:
        return {checkpoint: hashlib.file_digest(file, "sha256").hexdigest(), **digests(data)}


def test_images(
    checkpoint: str,
    net: Any,
    about: dict[str, Any],
    name: str | None = None,
    folder: str | None = None,
    count: int | None = None,
    subset: bool = False,
) -> tuple[Any, Any, Any]:
    """(data set, mean, std): the one that is named, or else the images that tested the checkpoint's run.

    Raises UsageError where the checkpoint names none, or one whose code would run; and as `load` does.
    """
    from ..data.dataset import load, runs_code

    named, told = bool(name), dict[str, Any]({"data_dir": None, "test_images": None, "subset": False})
    if name is None:
        name, told = about.get("data"), {**told, **about.get("test", {})}
    if name is None:
        raise UsageError(f"--data: {checkpoint} does not say what it was trained on; add --data")
    if runs_code(name) and not named:
        raise UsageError(f"--data: {checkpoint} was trained on {name}, whose code would run; say --data {name}")
    folder, count = folder or told["data_dir"], count or told["test_images"]
    how: dict[str, Any] = {"test": count, "subset": subset or told["subset"]}
    if hasattr(net, "image"):
        how["size"] = net.image[0]
    if "preprocess" in about:  # then the training images are not needed for their mean
        data = load(name, folder, train=1, **how)
        return data, tuple(about["preprocess"]["mean"]), tuple(about["preprocess"]["std"])
    data = load(name, folder, **how)
    return data, data.mean, data.std


def run_predict(args: argparse.Namespace) -> int:
    import numpy as np

    from .predict import predict_images, preprocess_for, top

    use_threads(args)
    net, about = network_of(args.checkpoint)
    with np.errstate(all="ignore"):  # what is not finite is an error below
        predictions = predict_images(net, args.images, preprocess=preprocess_for(net, about), crops=args.crops)
    found = []
    for prediction in predictions:
        if not np.isfinite(prediction.probabilities).all():
            raise ValueError(
                f"{prediction.path}: its probabilities are not finite although all numbers of {args.checkpoint} are; "
                "its logits are too large, train with a smaller --lr"
            )
        found.append((prediction.path, top(prediction.probabilities, about.get("classes"), args.top)))
    if args.json:
        rows = [
            {"image": path, "predictions": [{"class": c, "probability": p} for c, p in best]} for path, best in found
        ]
        print(json.dumps(rows))
        return 0
    for path, best in found:
        print(path)
        for name, probability in best:
            print(f"  {probability:7.2%}  {name}")
    return 0


def network_of(path: str) -> tuple[Any, dict[str, Any]]:
    """(network, what is said about it) of a checkpoint. Raises ValueError for one with numbers that are not finite."""
    from ..data.files import sweep
    from ..weights.checkpoint import read
    from .watchdog import first_not_finite

    folder = Path(path).parent
    if (folder / "lock").exists():  # a run's, which may have been killed and never taken up
        sweep(folder)
    net, about = read(path)
    culprit = first_not_finite(net)
    if culprit:
        raise ValueError(f"{path}: {culprit} holds NaN or infinity; take a checkpoint from before that")
    return net, about
