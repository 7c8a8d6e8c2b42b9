"""The benchmark's rival is the same network: its logits and its gradients are ours."""

import numpy as np
import pytest

from inception_np import Mode, create_model, list_models
from inception_np.layer import cast, named_params

torch = pytest.importorskip("torch")
from inception_np.runtime.bench.peers import to_torch  # noqa: E402

pytestmark = pytest.mark.torch
torch.set_num_threads(1)


@pytest.mark.parametrize("name", list_models("*_cifar"))
def test_the_twin_computes_the_same(name):
    net = cast(create_model(name, width=1 / 32, aux=False, seed=1), np.float64)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3))
    peer = to_torch(net, x.shape).double().to(memory_format=torch.channels_last)
    y, cache = net.forward(x, Mode(train=False, keep=True))
    z = torch.tensor(x).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).requires_grad_(True)
    peer.eval()
    logits = peer(z)
    np.testing.assert_allclose(logits.detach().numpy(), y, atol=1e-9 * np.abs(y).max())
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx = net.backward(dy, x, cache)
    logits.backward(torch.tensor(dy))
    np.testing.assert_allclose(z.grad.permute(0, 2, 3, 1).numpy(), dx, atol=1e-9 * np.abs(dx).max())
    ours = sum(p.data.size for p in named_params(net).values())
    assert sum(p.numel() for p in peer.parameters() if p.requires_grad) == ours
