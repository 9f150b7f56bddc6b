import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import distributed, nn

from trainer.batch_norm import WholeBatchNorm, across_ranks
from trainer.distributed import ALONE, joined


@pytest.fixture
def one_rank(tmp_path):
    """A group of one process, so that sums over all processes are those of this one."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("plain", [nn.BatchNorm2d(3, eps=1e-3), BatchNormAct2d(3, eps=1e-3, act_layer=nn.SiLU)])
def test_it_is_torchs_batch_norm(one_rank, plain):
    """Same output, same gradients, same running statistics; with the activation that timm puts behind it."""
    with torch.no_grad():
        plain.weight.uniform_(0.5, 1.5)
        plain.bias.uniform_(-1, 1)
    pixels = torch.randn(4, 3, 5, 5) * 3 + 1
    outcomes = []
    for whole in (False, True):
        net = nn.Sequential(type(plain)(3, eps=1e-3))
        net[0].load_state_dict(plain.state_dict())
        if isinstance(plain, BatchNormAct2d):
            net[0].act = nn.SiLU()
        if whole:
            net[0] = WholeBatchNorm(net[0])
        given = pixels.clone().requires_grad_()
        net(given).square().sum().backward()
        tensors = [given.grad, net[0].weight.grad, net[0].bias.grad, *net[0].state_dict().values()]
        outcomes.append([*tensors, net(pixels).detach(), net.eval()(pixels).detach()])

    for ours, torchs in zip(*outcomes, strict=True):
        assert torch.allclose(ours, torchs, rtol=1e-4, atol=1e-4)


def test_alone_nothing_is_replaced():
    """One process needs nobody's sums."""
    net = nn.Sequential(nn.BatchNorm2d(2))

    assert across_ranks(net, ALONE)[0] is net[0]
    assert type(net[0]) is nn.BatchNorm2d
    with joined("cpu") as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
