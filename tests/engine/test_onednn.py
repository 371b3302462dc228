import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from altpo_ds.engine import onednn

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch was built without oneDNN"
)

sizes = st.integers(0, 9)
flags = st.booleans()


def matrix(rows: int, columns: int, turned: bool, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(columns, rows, dtype=dtype).T if turned else torch.randn(rows, columns, dtype=dtype)


@settings(deadline=None)
@given(sizes, sizes, sizes, flags, flags, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_products_are_those_of_torch(n: int, m: int, p: int, turn_a: bool, turn_b: bool, dtype: torch.dtype) -> None:
    a, b, bias = matrix(n, m, turn_a, dtype), matrix(m, p, turn_b, dtype), torch.randn(p, dtype=dtype)
    exact = a.double() @ b.double()
    rtol, atol = (2e-2, 5e-2) if dtype == torch.bfloat16 else (1e-5, 1e-5)
    product, added = onednn.mm(a, b), onednn.addmm(bias, a, b)
    assert product.dtype == added.dtype == dtype
    torch.testing.assert_close(product.double(), exact, rtol=rtol, atol=atol)
    torch.testing.assert_close(added.double(), exact + bias.double(), rtol=rtol, atol=atol)


def test_strided_operands_and_factors() -> None:
    a, b = torch.randn(6, 1).expand(6, 4), torch.randn(4, 10)[:, ::2]
    bias = torch.randn(6, 5)
    torch.testing.assert_close(onednn.mm(a, b), (a.double() @ b.double()).float())
    expected = 0.5 * bias.double() + 3 * (a.double() @ b.double())
    torch.testing.assert_close(onednn.addmm(bias, a, b, beta=0.5, alpha=3), expected.float())


def test_gradients_pass_through_the_replaced_products() -> None:
    """Those of a layer with bias on three-dimensional input, as a model computes them."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(24, 40), torch.randn(1, 7, 24, requires_grad=True)
    doubled, exact = torch.nn.Linear(24, 40).double(), x.detach().double().requires_grad_()
    doubled.load_state_dict(layer.state_dict())
    doubled(exact).square().sum().backward()
    onednn.use()
    layer(x).square().sum().backward()
    for ours, theirs in ((x, exact), (layer.weight, doubled.weight), (layer.bias, doubled.bias)):
        gradient, expected = ours.grad, theirs.grad
        assert gradient is not None
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-4)
