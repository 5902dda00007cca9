from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slc.compiler.budget.encodings import Ceiling, Storage, adapter_bytes, aligned, int8_group
from slc.compiler.budget.uniform import (
    Encoder,
    ceilings,
    choose_explicit,
    choose_hpa,
    choose_uniform,
)
from slc.compiler.errors import BudgetError
from slc.compiler.linear import Linear
from slc.ops.bitmap import encoded_bytes


def linear(N: int, K: int, i: int = 0, kind: str = "linear") -> Linear:
    return Linear(f"l{i}", N, K, f"w{i}", False, (f"n{i}",), kind)


def total(choices: list) -> int:
    return sum(choice.weight_bytes for choice in choices)


SHAPES = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    shapes=SHAPES,
    share=st.floats(0, 1.2),
    fixed=st.integers(0, 10**7),
    values=st.sampled_from(["f16", "i8", "i4"]),
)
def test_weights_never_exceed_what_is_allowed_and_use_it(
    shapes: list[tuple[int, int]], share: float, fixed: int, values: str
) -> None:
    linears = [linear(n, k, i) for i, (n, k) in enumerate(shapes)]
    encoder = Encoder(Storage(values), ceilings(linears, 1.0, 64))
    least = total([encoder.at(li, 0.0) for li in linears])
    most = total([encoder.at(li, 1.0) for li in linears])
    allowed = int(least + share * (most - least))
    chosen = choose_uniform(linears, fixed + allowed, fixed, values=values)
    assert total(chosen) <= allowed
    if allowed >= most:
        assert total(chosen) == most
        return
    # Nothing more fits: no matrix can take another row. What is left is below the least of what
    # the next row of any matrix costs, unless the next row would make the matrix dense.
    left = allowed - total(chosen)
    for li, choice in zip(linears, chosen, strict=True):
        if choice.sparse and choice.nnz < li.numel:
            more = encoder.choice(li, min(choice.nnz + li.K, li.numel), choice.rank)
            assert not more.sparse or more.weight_bytes - choice.weight_bytes > left


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(300, 1500), st.integers(300, 1500)), min_size=1, max_size=5
    ),
    share=st.floats(0.05, 0.95),
    values=st.sampled_from(["f16", "i8", "i4"]),
)
def test_at_least_99_percent_of_matrices_of_a_real_size_is_used(
    shapes: list[tuple[int, int]], share: float, values: str
) -> None:
    linears = [linear(n, k, i) for i, (n, k) in enumerate(shapes)]
    encoder = Encoder(Storage(values), ceilings(linears, 1.0, 64))
    least = total([encoder.at(li, 0.0) for li in linears])
    most = total([encoder.at(li, 1.0) for li in linears])
    allowed = int(least + share * (most - least))
    chosen = choose_uniform(linears, allowed, 0, values=values)
    # A row of values and the alignment of its blob may be left in every matrix.
    slack = max(2 * li.K + 4096 for li in linears)
    assert allowed - total(chosen) <= max(0.01 * allowed, slack)


@pytest.mark.parametrize("values", ["f16", "i8"])
def test_no_pair_of_density_and_rank_at_one_ratio_beats_the_bisection(values: str) -> None:
    linears = [linear(40, 64, 0), linear(33, 100, 1)]
    encoder = Encoder(Storage(values), ceilings(linears, 1.0, 16))
    for allowed in range(3000, 16000, 997):
        least = total([encoder.at(li, 0.0) for li in linears])
        if least > allowed:
            with pytest.raises(BudgetError) as error:
                choose_uniform(linears, allowed, 0, encoder=encoder)
            assert error.value.smallest_bytes == least
            continue
        chosen = choose_uniform(linears, allowed, 0, encoder=encoder)
        ratios = [i / 2000 for i in range(2001)]
        best = max(
            (r for r in ratios if total([encoder.at(li, r) for li in linears]) <= allowed),
        )
        at_best = [encoder.at(li, best) for li in linears]
        for ours, other in zip(chosen, at_best, strict=True):
            if ours.sparse and other.sparse:
                assert ours.nnz + linears[0].K >= other.nnz
                assert ours.rank >= other.rank - 1


def test_bytes_are_those_of_the_format_and_the_data_file() -> None:
    li = linear(1000, 773)
    (choice,) = choose_explicit([li], density=0.5, rank=32, values="f16")
    assert choice.nnz == round(0.5 * 1000 * 773)
    assert choice.density == choice.nnz / li.numel
    blob = encoded_bytes(1000, 773, choice.nnz, "f16", 0)
    padded = -(-blob // 4096) * 4096 if blob >= 1 << 20 else -(-blob // 64) * 64
    assert choice.weight_bytes == padded + -(-2 * 32 * 773 // 64) * 64 + 64_000
    assert aligned(1 << 20) == 1 << 20
    assert aligned((1 << 20) + 1) == (1 << 20) + 4096
    assert aligned(65) == 128
    assert adapter_bytes(10, 10, 0) == 0


@pytest.mark.parametrize("density", [0.15, 0.25, 1.0])
def test_explicit_density_is_rounded_to_whole_values(density: float) -> None:
    (choice,) = choose_explicit([linear(200, 300)], density=density, rank=4, values="i8")
    assert (choice.nnz, choice.rank, choice.group) == (round(density * 60000), 4, 64)


def test_small_weights_stay_dense_with_a_reason() -> None:
    tiny, thin = linear(15, 17, 0), linear(300, 1, 1)
    chosen = choose_explicit([tiny, thin], density=1.0, rank=0, values="f16")
    assert [choice.encoding for choice in chosen] == ["dense", "dense"]
    assert "1 KiB" in (chosen[0].reason or "")
    assert "dense f32" in (chosen[1].reason or "")
    assert chosen[1].weight_bytes == aligned(1200)


def test_rank_is_at_most_that_of_the_matrix() -> None:
    (choice,) = choose_explicit([linear(20, 600)], density=0.1, rank=64, values="f16")
    assert choice.rank == 20


@pytest.mark.parametrize(("K", "group"), [(384, 128), (960, 64), (96, 32), (48, 16), (773, 773)])
def test_groups_of_8_bit_tables(K: int, group: int) -> None:
    assert int8_group(K) == group
    (choice,) = choose_explicit(
        [linear(1000, K, 0, "embedding")], density=0.1, rank=9, values="f16"
    )
    assert (choice.encoding, choice.group, choice.rank) == ("int8", group, 0)
    assert choice.weight_bytes == aligned(1000 * K) + aligned(4 * 1000 * (K // group))


def test_head_is_a_full_bitmap_or_onnxruntimes_8_bits() -> None:
    head = linear(500, 64, 1, "lm_head")
    linears = [linear(500, 64, 0, "embedding"), head]
    (_, ours) = choose_explicit(linears, density=0.1, rank=8, values="f16")
    assert (ours.encoding, ours.value_type, ours.density, ours.rank) == ("bitmap", "i8", 1.0, 0)
    tied = Encoder(Storage("f16"), ceilings(linears, 1.0, 8), head="int8", tied={"l1": "l0"})
    (table, theirs) = choose_explicit(linears, density=0.1, rank=8, encoder=tied)
    assert (theirs.encoding, theirs.shared_with, theirs.weight_bytes) == ("int8", "l0", 0)
    assert theirs.group == table.group


@pytest.mark.parametrize(("values", "level"), [("f16", 1), ("i8", 4), ("i8", 1), ("i4", 4)])
def test_head_is_i8_at_the_level_of_all(values: str, level: int) -> None:
    head = linear(500, 64, 0, "lm_head")
    storage = Storage(values, layout="planes", accuracy_level=level)
    choice = Encoder(storage, ceilings([head], 1.0, 8)).choice(head, 0, 0)
    assert (choice.value_type, choice.density, choice.accuracy_level) == ("i8", 1.0, level)
    assert (choice.encoding, choice.layout) == ("bitmap", "rows")


def test_task_adapters_are_counted() -> None:
    li = linear(256, 256)
    encoder = Encoder(Storage("f16"), ceilings([li], 1.0, 64), extra_ranks={"l0": 16})
    for density, rank in itertools.product((0.1, 0.9), (0, 8)):
        (bare,) = choose_explicit([li], density=density, rank=rank, values="f16")
        (more,) = choose_explicit([li], density=density, rank=rank, encoder=encoder)
        added = adapter_bytes(256, 256, rank + 16) - adapter_bytes(256, 256, rank)
        assert more.weight_bytes - bare.weight_bytes == added
        assert more.rank == rank


def test_a_structured_head_is_sliced_like_any_linear() -> None:
    head = linear(500, 64, 0, "lm_head")
    encoder = Encoder(Storage("f16"), {"l0": Ceiling(3200, 9)}, structured=frozenset({"l0"}))
    (full,) = choose_explicit([head], density=1.0, rank=64, encoder=encoder)
    assert (full.nnz, full.rank, full.sparse) == (3200, 9, True)
    (part,) = choose_explicit([head], density=0.05, rank=3, encoder=encoder)
    assert (part.nnz, part.rank) == (1600, 3)


def bytes_of(linears: list[Linear], encoder: Encoder, choices: list) -> tuple[int, int]:
    """(of S, of the adapters)."""
    adapters = sum(
        adapter_bytes(li.N, li.K, choice.rank)
        for li, choice in zip(linears, choices, strict=True)
        if choice.sparse
    )
    return total(choices) - adapters, adapters


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_hpa_takes_gamma_of_the_surplus_from_the_adapters(gamma: float, share: float) -> None:
    linears = [linear(500, 700, 0), linear(640, 300, 1), linear(300, 900, 2)]
    held = {li.name: Ceiling(li.numel // 10, 60) for li in linears}
    encoder = Encoder(Storage("f16"), held)
    full = [encoder.at(li, 1.0, 1.0) for li in linears]
    least = total([encoder.at(li, 0.0, 0.0) for li in linears])
    allowed = int(least + share * (total(full) - least))
    chosen = choose_hpa(linears, allowed, 0, gamma=gamma, encoder=encoder)
    assert total(chosen) <= allowed
    removed = total(full) - allowed
    sparse, adapters = bytes_of(linears, encoder, full)
    _, adapters_now = bytes_of(linears, encoder, chosen)
    wanted = min(gamma * removed, adapters)
    # A rank of every matrix is the step, and S can't give more than it has.
    step = sum(adapter_bytes(li.N, li.K, 1) for li in linears)
    if removed - wanted <= sparse - least:
        assert 0 <= adapters - adapters_now - wanted <= step
    # One ratio for all: ranks within one of each other here, densities within a row.
    assert max(c.rank for c in chosen) - min(c.rank for c in chosen) <= 1
    ratios = [c.nnz / held[c.linear].nnz for c in chosen]
    assert max(ratios) - min(ratios) <= max(li.K / held[li.name].nnz for li in linears) + 1e-9


def test_hpa_refuses_what_nothing_fits() -> None:
    li = linear(300, 300)
    encoder = Encoder(Storage("f16"), {"l0": Ceiling(9000, 30)})
    with pytest.raises(BudgetError, match="wanted at least"):
        choose_hpa([li], 100, 0, gamma=0.5, encoder=encoder)
    least = total([encoder.at(li, 0.0, 0.0)])
    (choice,) = choose_hpa([li], least, 0, gamma=0.5, encoder=encoder)
    assert (choice.nnz, choice.rank) == (0, 0)
    (choice,) = choose_hpa([li], 10**7, 0, gamma=0.5, encoder=encoder)
    assert (choice.nnz, choice.rank) == (9000, 30)
