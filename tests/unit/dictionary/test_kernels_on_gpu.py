"""On a GPU, at sizes of real dictionaries, kernels are their twins, and the same bytes twice."""

import pytest
import torch
from kernel_cases import needs_kernels

from deepseemoe.dictionary import codes, kernels
from deepseemoe.dictionary.adam import Adam, Rows

pytestmark = [
    needs_kernels,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

N_TOKENS, N_FEATURES, WIDTH, K = 4096, 16_384, 2880, 48
ATOL = 1e-4
"""Sums of 48 to 2,880 products of standard normal numbers, in float32."""


@pytest.fixture(scope="module")
def world():
    """Inputs, a dictionary and entries: K features a token, low ones in most tokens."""
    rng = torch.Generator("cuda").manual_seed(0)
    options = {"generator": rng, "device": "cuda"}
    x, w = torch.randn(N_TOKENS, WIDTH, **options), torch.randn(N_FEATURES, WIDTH, **options)
    share = 1 / torch.arange(1, N_FEATURES + 1, device="cuda") ** 0.9
    features = torch.multinomial(share.expand(N_TOKENS, -1), K, generator=rng).sort(1).values
    offsets = torch.arange(N_TOKENS + 1, device="cuda") * K
    return x, w, offsets, features.view(-1), torch.rand(N_TOKENS * K, **options)


def twice(function, *given):
    """Return what a kernel gives, after seeing that it gives it twice."""
    once, again = function(*given), function(*given)
    assert torch.equal(once, again)
    return once


def test_decoding(world):
    _, decoder, offsets, features, values = world
    found = twice(kernels.loaded().weighted_sums, decoder, features, offsets, values)
    twin = torch.nn.functional.embedding_bag(
        features,
        decoder.double(),
        offsets,
        mode="sum",
        per_sample_weights=values.double(),
        include_last_offset=True,
    )
    torch.testing.assert_close(found.double(), twin, rtol=1e-5, atol=ATOL)


def test_dot_products(world):
    x, encoder, offsets, features, _ = world
    found = twice(kernels.loaded().dot_products, x, encoder, offsets, features)
    twin = (x.double() @ encoder.double().t()).gather(1, features.view(N_TOKENS, K)).view(-1)
    torch.testing.assert_close(found.double(), twin, rtol=1e-5, atol=10 * ATOL)


def test_what_is_above(world):
    x, encoder, *_ = world
    product = x.bfloat16() @ encoder[:4096].bfloat16().t()
    floor = torch.full((4096,), 2.5 * WIDTH**0.5, device="cuda").bfloat16()
    tokens, features, values = kernels.loaded().above(product, floor)
    places = torch.nonzero(product > floor)
    assert torch.equal(torch.stack([tokens, features], 1), places)
    assert torch.equal(values, product[tokens, features])


def test_the_step(world, monkeypatch):
    x, encoder, _, features, values = world
    monkeypatch.setenv(kernels.VARIABLE, "0")
    by_feature = codes.ByFeature.of(features, N_FEATURES)
    tokens, values = by_feature.order // K, values[by_feature.order]
    numbers = [2.0, 0.9, 0.999, 1e-8, 1e-3 / (1 - 0.9**3), (1 - 0.999**3) ** 0.5]

    def stepped():
        weight, moments = encoder.clone(), [torch.zeros_like(encoder) for _ in range(2)]
        kernels.loaded().rows_adam(
            weight,
            *moments,
            table_NW=x,
            tokens=tokens,
            offsets=by_feature.starts,
            values=values,
            constants=torch.tensor(numbers, device="cuda"),
        )
        return torch.stack([weight, *moments])

    found = twice(stepped)
    twin = encoder.clone()
    adam = Adam([twin])
    adam.begin(2, divisor=2.0)
    gradient = codes.weighted_sums(x, tokens, by_feature.starts, values)
    adam.update([Rows(0, 0, N_FEATURES, gradient)], rate=1e-3)
    # where a gradient all but cancels, Adam divides rounding by rounding: only its sign is left
    is_sure = gradient.abs() > 1e-3 * gradient.std()
    moved, expected = ((weight - encoder)[is_sure] for weight in (found[0], twin))
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found[1], adam.first[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], adam.second[0], rtol=1e-4, atol=1e-5)
