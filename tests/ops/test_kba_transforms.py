"""The operator in forward mode, in derivatives of every order, and under torch.func: as the definition written out."""

import copy

import kba_cases
import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from kbnet.errors import BackendError
from kbnet.models import create_model
from kbnet.ops import kernel_basis_attention

# torch's own, when it first enters forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

SHAPE = (1, 4, 3, 2, 3, 3, 5)
EACH = pytest.mark.parametrize("position", range(4), ids=kba_cases.NAMES)


def tensors(seed=0):
    return [t.detach() for t in kba_cases.make(SHAPE, seed=seed)]


def of(position, function, others):
    """A function of one of the four tensors."""
    return lambda t: function(*others[:position], t, *others[position + 1 :])


@EACH
def test_the_forward_derivative_is_that_of_the_definition(position):
    given, tangent = tensors(), tensors(seed=1)[position]
    ours, expected = (
        jvp(of(position, function, given), (given[position],), (tangent,))
        for function in (kernel_basis_attention, kba_cases.naive)
    )
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("gradients", [False, True])
def test_dual_tensors_keep_their_tangents(gradients):
    """All four at once; as torch.autograd has them, with gradients wanted beside them or not."""
    given, tangents = tensors(), tensors(seed=1)
    leaves = [t.clone().requires_grad_(gradients) for t in given]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, tangent) for t, tangent in zip(leaves, tangents, strict=True)]
        y, tangent = forward_ad.unpack_dual(kernel_basis_attention(*duals))
    expected, expected_tangent = jvp(kba_cases.naive, tuple(given), tuple(tangents))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(tangent, expected_tangent)
    assert y.requires_grad is gradients


@pytest.mark.parametrize("shape", [(1, 2, 2, 2, 3, 1, 1), (1, 2, 1, 1, 3, 2, 3)], ids=["one pixel", "one basis"])
def test_derivatives_of_every_mode_and_order_pass_finite_differences(shape):
    given = kba_cases.make(shape)
    assert torch.autograd.gradcheck(kernel_basis_attention, given, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(kernel_basis_attention, given, check_fwd_over_rev=True)


@EACH
@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian], ids=lambda t: t.__name__)
def test_jacobians_and_hessians(transform, position):
    given = tensors()

    def loss(function):
        return lambda t: (of(position, function, given)(t) ** 3)[..., :2, :2].sum((0, 2, 3))

    ours, expected = (transform(loss(f))(given[position]) for f in (kernel_basis_attention, kba_cases.naive))
    torch.testing.assert_close(ours, expected)


def test_a_third_derivative():
    given = kba_cases.make(SHAPE)

    def third(function):
        y = function(*given).pow(3).sum()
        for _ in range(3):
            y = sum(g.square().sum() for g in torch.autograd.grad(y, given, create_graph=True))
        return y

    torch.testing.assert_close(third(kernel_basis_attention), third(kba_cases.naive))


MAPPED = {
    "images": (0, 0, None, None),
    "images of another axis": (4, 2, None, None),
    "coefficients alone": (None, 0, None, None),
    "bases": (None, None, 0, None),
    "all": (0, 1, 2, 1),
}


@pytest.mark.parametrize("in_dims", MAPPED.values(), ids=MAPPED.keys())
def test_a_mapped_call_is_each_call(in_dims):
    several = [tensors(seed) for seed in range(3)]
    given = [
        several[0][i] if dim is None else torch.stack([each[i] for each in several], dim)
        for i, dim in enumerate(in_dims)
    ]
    y = vmap(kernel_basis_attention, in_dims)(*given)
    for number, result in enumerate(y):
        each = [t if dim is None else t.select(dim, number) for t, dim in zip(given, in_dims, strict=True)]
        torch.testing.assert_close(result, kernel_basis_attention(*each))


def test_gradients_of_each_image_apart():
    x, a, weight, bias = (t.detach() for t in kba_cases.make((5, *SHAPE[1:])))

    def loss(weight, bias, x, a):
        return kernel_basis_attention(x[None], a[None], weight, bias).square().sum()

    found = vmap(grad(loss, (0, 1)), (None, None, 0, 0))(weight, bias, x, a)
    for number in range(5):
        expected = grad(loss, (0, 1))(weight, bias, x[number], a[number])
        torch.testing.assert_close(tuple(t[number] for t in found), expected)


def small_network(family):
    if family == "s":
        settings = {"width": 8, "encoder_blocks": (1,), "decoder_blocks": (1,), "middle_blocks": 1, "bases": 2}
        return create_model("kbnet-nano", **settings)
    ones = (1, 1, 1, 1)
    return create_model("kbnet-l-derain", width=4, blocks=ones, refinement_blocks=1, heads=ones, bases=2)


@pytest.mark.parametrize("family", ["s", "l"])
def test_networks_go_through_the_transforms(family):
    """An ensemble by stack_module_state; a directional derivative, forward against backward."""
    torch.manual_seed(0)
    networks = [small_network(family).eval() for _ in range(2)]
    x, direction = torch.rand(2, 1, 3, 8, 16)
    parameters, buffers = stack_module_state(networks)
    base = copy.deepcopy(networks[0]).to("meta")
    together = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)
    for network, result in zip(networks, together, strict=True):
        torch.testing.assert_close(result, network(x), rtol=1e-4, atol=1e-5)
    network = networks[0]
    _, tangent = jvp(lambda image: network(image).square().mean(), (x,), (direction,))
    gradient = grad(lambda image: network(image).square().mean())(x)
    torch.testing.assert_close(tangent, (gradient * direction).sum(), rtol=1e-4, atol=1e-6)
    assert tangent != 0


def test_the_operator_itself_is_refused_in_forward_mode_since_it_would_drop_the_tangent():
    given = tensors()

    def raw(x):
        return torch.ops.kbnet.kernel_basis_attention(x, *given[1:], "auto")

    with pytest.raises(BackendError, match=r"call kbnet\.ops\.kernel_basis_attention, which has one"):
        jvp(raw, (given[0],), (given[0],))
    with forward_ad.dual_level(), pytest.raises(BackendError, match="no forward-mode derivative"):
        raw(forward_ad.make_dual(given[0], given[0]))
    assert raw(given[0]).shape == given[0].shape
