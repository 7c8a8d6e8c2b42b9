"""A step in shards on tensor cores: each shard's forward and backward pass is a launch of one CUDA graph.

The graph holds what is of one shard: its batch, the passes, which add to the gradient, and the losses. Around it lies
what is of the whole batch, a few launches: sums of shards (shards.py), the exchange between GPUs (parallel/nccl.py),
and the update. The host waits for none of it.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..kernels.clip import clip_norm
from .shards import ShardedStep
from .step import Draw, Losses, captured


@dataclass
class ShardedGraphStep(ShardedStep):
    """Each shard's passes as one CUDA graph. A gradient that is not finite shows in the losses of the next step."""

    steps_between_totals: ClassVar[int] = 16
    tells_losses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        from ..runtime.graph import CapturedPasses

        super().__post_init__()
        self.captured = captured(CapturedPasses, self, self.options.batch_size // self.options.shards)

    def __call__(self, index: np.ndarray, draw: Draw, mirrored: np.ndarray | None) -> None:
        def passes(part: slice, draw: Draw) -> None:
            crops = draw("augment") if self.options.augment else None
            told = None if mirrored is None else mirrored[part]
            self.captured(index[part], crops=crops, dropout=draw("dropout"), mirrored=told)
            for number in range(len(self.parts)):
                self.leave(number)

        self.over_shards(len(index), draw, passes)
        if self.options.clip:
            clip_norm(self.optimiser.grad, self.options.clip)
        self.optimiser.step()
        if self.average:
            self.average.update()

    def totals(self) -> tuple[Losses, int]:
        """The sums of all workers. Their losses are sums of float32 in float64: exact, so that no order matters."""
        loss, right = self.workers.gather(np.array(self.captured.totals(), np.float64)).sum(0)
        return Losses(loss, loss, loss), round(right)
