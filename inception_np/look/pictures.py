"""The files that `inception-np look` writes: a picture for each question, and a sheet of them all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.errors import UsageError
from ..data.files import make_folder
from ..models.network import Network
from ..training.plots import figure_of, filters_as_images, write_png
from . import drawing
from .kernels import spatial_kernels, strongest, taps
from .report import ACROSS, ROWS, Report, evenly

MARK = "inception-np look"  # in every picture, so that no other file is written over
SHEET = 40  # filters on the sheet


def output_folder(path: str | os.PathLike[str], images: int) -> Path:
    """The folder for the pictures, made if need be. Raises UsageError where it holds a file of their names that this
    command did not write."""
    folder = make_folder(path)
    names = ["look", "filters", "kernels", "saliency", "classes", "fields", "flow"]
    for name in [*names, *(f"activations_{i + 1}" for i in range(images))]:
        file = folder / f"{name}.png"
        if file.exists() and MARK.encode() not in file.read_bytes()[:1000]:
            raise UsageError(f"--output: {file} was not written by this command; name another folder")
    return folder


def write(net: Network, report: Report, folder: Path) -> list[Path]:
    """Draw everything. Returns the files, the sheet of all of them first."""
    files: list[Path] = []

    def put(name: str, width: float, height: float, draw: Callable[..., None], *what: Any) -> None:
        figure = figure_of(width, height)
        draw(figure, *what)
        files.append(folder / f"{name}.png")
        write_png(figure, files[-1], Software=MARK)

    best, flow = (report.best, report.classes, report.certain), (report.alone, report.helped, report.heads)
    filters, rows = filters_as_images(net), kernel_rows(net)
    put("look", 11, 12, sheet, report, filters)
    if filters is not None:
        columns = columns_for(filters)
        put("filters", 8, 0.5 + 8 * -(-len(filters) // columns) / columns, drawing.filters, filters, columns)
    if rows:
        put("kernels", 9, 0.4 + 0.75 * len(rows), drawing.kernels, rows)
    for i, seen in enumerate(report.seen):
        put(f"activations_{i + 1}", 11, 0.6 + 0.9 * len(report.drawn), drawing.activations, report.drawn, i, seen)
    put("saliency", 0.9 + 1.6 * max(2, len(report.seen)), 5.4, drawing.saliency, report.seen)
    put("classes", 8.5, 0.5 + 1.9 * -(-len(report.classes) // 5), drawing.classes, *best)
    put("fields", 10, 6, drawing.fields, report.fields, report.image[0])
    put("flow", 8, 3.6, drawing.flow, *flow)
    return files


def sheet(figure: Any, report: Report, filters: np.ndarray | None) -> None:
    """Something of everything."""
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1, 1.15, 1.15))
    left, right = top.subfigures(1, 2)
    drawing.saliency(left, report.seen[:4])
    drawing.classes(right, report.best, report.classes, report.certain)
    left, right = middle.subfigures(1, 2, width_ratios=(1.6, 1))
    drawing.activations(left, evenly(report.drawn, 6), 0)
    if filters is not None:
        right, low = right.subfigures(2, 1, height_ratios=(1, 1.6))
        drawing.filters(right, filters[:SHEET], columns_for(filters[:SHEET]))
        right = low
    drawing.flow(right, report.alone, report.helped, report.heads)
    drawing.fields(bottom, report.fields, report.image[0], 8)


def columns_for(filters: np.ndarray) -> int:
    """About four times as many columns as rows."""
    return min(len(filters), int(np.ceil(np.sqrt(4 * len(filters)))))


def kernel_rows(net: Network) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(path, use of taps, strongest kernels) of some convolutions, the first excepted where it is seen in colour."""
    weights = list(spatial_kernels(net).items())
    some = evenly(weights[1:], ROWS)
    return [(path, taps(weight), strongest(weight, ACROSS)) for path, weight in some]
