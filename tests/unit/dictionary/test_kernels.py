"""Every Triton kernel computes what its twin in plain PyTorch does."""

import pytest
import torch
from kernel_cases import DEVICE, Draw, needs_kernels

from deepseemoe.dictionary import codes, kernels
from deepseemoe.dictionary.adam import Adam, Rows
from deepseemoe.dictionary.descent import constants
from deepseemoe.dictionary.recipe import Recipe

pytestmark = needs_kernels

EXACT = {"rtol": 1e-12, "atol": 1e-12}
ROUNDED = {"rtol": 1e-5, "atol": 2e-5}
TOLERANCE = {torch.float64: EXACT, torch.float32: ROUNDED}
WIDTHS = (1, 3, 64, 65, 130, 513)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture(params=[None, 0], ids=["wide tiles", "narrow tiles"])
def tiles(request, monkeypatch):
    """Tiles as they are chosen, or the narrowest: several for widths that one could take."""
    from deepseemoe.dictionary.kernels import tiles

    if request.param is not None:
        monkeypatch.setattr(tiles, "CACHE_BYTES", request.param)


@pytest.fixture(autouse=True)
def twins(monkeypatch):
    """Let the functions of the library be the twins on GPUs too."""
    monkeypatch.setenv(kernels.VARIABLE, "0")


@pytest.mark.parametrize("width", WIDTHS)
def test_weighted_sums_are_those_of_the_twin(width, dtype, tiles):
    draw = Draw(width, dtype)
    table, offsets = draw.matrix(draw.size(1, 40), width), draw.offsets(draw.size(2, 9), 40)
    rows, weights = draw.numbers(len(table), int(offsets[-1])), draw.matrix(int(offsets[-1]))
    found = kernels.loaded().weighted_sums(table, rows, offsets, weights)
    twin = codes.weighted_sums(table, rows, offsets, weights)
    torch.testing.assert_close(found, twin, **TOLERANCE[dtype])
    assert found[1].abs().max() == 0  # an empty group


def test_weighted_sums_of_a_bfloat16_table_are_added_in_float32():
    draw = Draw(0)
    table, offsets = draw.matrix(30, 70).bfloat16(), draw.offsets(5, 300)
    rows, weights = draw.numbers(30, int(offsets[-1])), draw.matrix(int(offsets[-1]))
    found = kernels.loaded().weighted_sums(table, rows, offsets, weights)
    assert found.dtype == torch.float32
    twin = codes.weighted_sums(table.double(), rows, offsets, weights.double())
    torch.testing.assert_close(found.double(), twin, rtol=1e-5, atol=1e-4)


def test_weighted_sums_of_inputs_that_lie_apart():
    draw = Draw(1, torch.float64)
    whole, offsets = draw.matrix(12, 50), draw.offsets(4, 9)
    n_entries = int(offsets[-1])
    rows, weights = draw.numbers(12, 2 * n_entries)[::2], draw.matrix(n_entries, 3)[:, 1]
    for table in (whole[:, 7:30], whole.t()[:12]):
        found = kernels.loaded().weighted_sums(table, rows, offsets, weights)
        given = (table, rows, offsets, weights)
        twin = codes.weighted_sums(*(tensor.contiguous() for tensor in given))
        torch.testing.assert_close(found, twin, **EXACT)


@pytest.mark.parametrize("width", WIDTHS)
def test_dot_products_are_those_of_the_twin(width, dtype, tiles):
    draw = Draw(width + 1, dtype)
    n_tokens = draw.size(1, 8)
    left, right = draw.matrix(n_tokens, width), draw.matrix(draw.size(1, 80), width)
    offsets, columns = draw.entries(n_tokens, len(right))
    found = kernels.loaded().dot_products(left, right, offsets, columns)
    twin = codes.dot_products(left, right, offsets, columns)
    scale = width**0.5 if dtype == torch.float32 else 1
    torch.testing.assert_close(found, twin, rtol=1e-5, atol=TOLERANCE[dtype]["atol"] * scale)


def test_dot_products_with_a_bfloat16_table_are_added_in_float32():
    draw = Draw(2)
    left, right = draw.matrix(4, 600), draw.matrix(9, 600).bfloat16()
    offsets, columns = draw.entries(4, 9)
    found = kernels.loaded().dot_products(left, right, offsets, columns)
    assert found.dtype == torch.float32
    twin = codes.dot_products(left.double(), right.double(), offsets, columns)
    torch.testing.assert_close(found.double(), twin, rtol=1e-5, atol=1e-4)


def test_a_dot_product_does_not_depend_on_the_other_entries(tiles):
    draw = Draw(3)
    left, right = draw.matrix(1, 700), draw.matrix(50, 700)
    every = torch.arange(50, device=DEVICE)
    whole = kernels.loaded().dot_products(left, right, torch.tensor([0, 50], device=DEVICE), every)
    some = every[13::7]
    offsets = torch.tensor([0, len(some)], device=DEVICE)
    alone = kernels.loaded().dot_products(left, right, offsets, some)
    assert torch.equal(alone, whole[some])


def entries_above(product, floor):
    """The twin of `above`, as `scan` has it."""
    places = torch.nonzero(product > floor)
    return places[:, 0], places[:, 1], product[places[:, 0], places[:, 1]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 1500), (7, 33), (20, 1024), (5, 2049)])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_above_the_floor_is_what_the_twin_finds(shape, kind):
    draw = Draw(sum(shape))
    product, floor = draw.matrix(*shape).to(kind), draw.matrix(shape[1]).abs().to(kind)
    product[:, ::5] = floor[::5]  # at the floor is not above it
    product[0, -1], floor[shape[1] // 2] = float("nan"), float("inf")
    found, twin = kernels.loaded().above(product, floor), entries_above(product, floor)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, twin, strict=True))


@pytest.mark.parametrize("shape", [(4, 0), (0, 4), (3, 9)])
def test_nothing_is_above_where_there_is_nothing(shape):
    product, floor = torch.zeros(shape, device=DEVICE), torch.zeros(shape[1], device=DEVICE)
    tokens, features, values = kernels.loaded().above(product, floor)
    assert len(tokens) == len(features) == len(values) == 0
    assert (tokens.dtype, features.dtype) == (torch.int64, torch.int64)


def test_no_entries_no_groups_and_no_columns():
    draw, none = Draw(4), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    fast, zeros = kernels.loaded(), torch.zeros(4, dtype=torch.int64, device=DEVICE)
    sums = fast.weighted_sums(draw.matrix(5, 6), none, zeros, draw.matrix(0))
    assert torch.equal(sums, torch.zeros(3, 6, device=DEVICE))
    assert fast.weighted_sums(draw.matrix(5, 6), none, zeros[:1], draw.matrix(0)).shape == (0, 6)
    assert fast.weighted_sums(draw.matrix(5, 0), none, zeros, draw.matrix(0)).shape == (3, 0)
    assert fast.dot_products(draw.matrix(3, 6), draw.matrix(5, 6), zeros, none).shape == (0,)


RECIPE = Recipe(
    n_steps=10**6,
    batch_tokens=1,
    k=1,
    peak_rate=3e-3,
    warmup_steps=0,
    decay_steps=0,
    max_grad_norm=1.0,
    auxk_weight=0.0,
    k_aux=1,
    dead_tokens=1,
    adam_epsilon=1e-8,
)


@pytest.mark.parametrize("has_extra", [False, True], ids=["", "with AuxK's rows"])
@pytest.mark.parametrize(("step", "divisor"), [(0, 1.0), (1, 3.75), (5000, 1.0)])
@pytest.mark.parametrize("width", [5, 150])
def test_the_step_is_that_of_adam_on_the_sums(width, step, divisor, has_extra, dtype, tiles):
    draw = Draw(width, dtype)
    n_features, table = 7, draw.matrix(20, width)
    offsets = draw.offsets(n_features, 30)
    tokens, values = draw.numbers(20, int(offsets[-1])), draw.matrix(int(offsets[-1]))
    extra, rows = draw.matrix(2, width), torch.tensor([1, 6], device=DEVICE)
    mine, theirs = (Adam([draw.matrix(n_features, width)]) for _ in range(2))
    for moment, fresh in (("first", draw.matrix), ("second", lambda *s: draw.matrix(*s).square())):
        start = fresh(n_features, width) if step else torch.zeros_like(mine.first[0])
        getattr(mine, moment)[0].copy_(start)
        getattr(theirs, moment)[0].copy_(start)
    weight, twin = (draw.matrix(n_features, width),) * 2
    weight, twin = weight.clone(), twin.clone()

    kernels.loaded().rows_adam(
        weight,
        mine.first[0],
        mine.second[0],
        table_NW=table,
        tokens=tokens,
        offsets=offsets,
        values=values,
        constants=constants(RECIPE, step, divisor, like=weight),
        **({"extra_AW": extra, "extra_rows": rows} if has_extra else {}),
    )
    gradient = codes.weighted_sums(table, tokens, offsets, values)
    if has_extra:
        gradient[rows] += extra
    theirs._tensors[0] = twin
    theirs.begin(step, divisor=divisor)
    theirs.update([Rows(0, 0, n_features, gradient)], rate=RECIPE.learning_rate(step))

    # Of a first step that is everywhere `rate` long, torch's kernel for GPUs has 5e-6 less.
    tolerance = EXACT if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(weight, twin, **tolerance)
    torch.testing.assert_close(mine.first[0], theirs.first[0], **TOLERANCE[dtype])
    torch.testing.assert_close(mine.second[0], theirs.second[0], **TOLERANCE[dtype])


def test_the_self_test_passes_and_sees_a_kernel_that_is_wrong(monkeypatch, caplog):
    from deepseemoe.dictionary.kernels import self_test

    assert self_test.agrees(torch.device(DEVICE))
    right = self_test.dot_products
    monkeypatch.setattr(self_test, "dot_products", lambda *args: right(*args) * 1.001)
    assert not self_test.agrees(torch.device(DEVICE))
    assert "wrong results of dot_products" in caplog.text
