"""How S is stored: encoding, layout and level by value type, density and target; and its bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from slc.compiler.budget.choice import Choice
from slc.compiler.budget.encodings import (
    Storage,
    adapter_bytes,
    aligned,
    blob_layout,
    sparse_choice,
)
from slc.compiler.linear import Linear
from slc.ops import bitmap
from slc.targets import load

N, K = 200, 1100
LINEAR = Linear("l", N, K, "w", False, ("n",))
STORAGES = [
    Storage("f16"),
    Storage("i8", accuracy_level=4),
    Storage("i8", 128, accuracy_level=1),
    Storage("i4", accuracy_level=4),
    Storage("i4", 128, "planes", 4),
]
DENSITIES = (0.0, 0.001, 0.05, 0.1, 0.124, 0.126, 0.3, 0.5, 0.9, 1.0)


INT8_ADAPTER = Storage("f16", adapter_type="i8")


def choice(storage: Storage, density: float, rank: int = 0) -> Choice:
    return sparse_choice(LINEAR, round(density * N * K), rank, storage)


@pytest.mark.parametrize(
    ("device", "layout"),
    [
        ("x86-64-avx512", "rows"),
        ("x86-64-avx2", "planes"),
        ("raspberry-pi-5", "rows"),
        ("jetson-orin-nano-8gb", "tiles"),
    ],
)
def test_layout_is_what_the_target_reads_best(device: str, layout: str) -> None:
    assert blob_layout(load(device)) == layout


def test_avx512_without_vbmi2_reads_planes() -> None:
    target = load("x86-64-avx512")
    skylake = dataclasses.replace(target, isa=tuple(i for i in target.isa if i != "avx512vbmi2"))
    assert blob_layout(skylake) == "planes"


@pytest.mark.parametrize("storage", STORAGES)
def test_bitmap_above_an_eighth(storage: Storage) -> None:
    got = choice(storage, 0.5)
    assert (got.encoding, got.value_type) == ("bitmap", storage.values)
    assert got.layout == (storage.layout if storage.values == "i4" else "rows")
    assert got.accuracy_level == storage.accuracy_level
    assert got.group == (0 if storage.values == "f16" else storage.group)


@pytest.mark.parametrize("storage", STORAGES)
def test_delta_below_with_f32_activations_and_a_scale_per_row(storage: Storage) -> None:
    got = choice(storage, 0.05)
    wanted = ("delta", "f16" if storage.values == "f16" else "i8", 1, "rows")
    assert (got.encoding, got.value_type, got.accuracy_level, got.layout) == wanted
    assert got.group == (0 if storage.values == "f16" else 1152)  # K up to whole mask words
    assert got.sparse


def test_level_4_is_never_asked_of_f16() -> None:
    assert choice(Storage("f16", accuracy_level=4), 0.5).accuracy_level == 1


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("pattern", ["random", "clustered", "single words"])
def test_bytes_are_enough_and_exact_for_f16_and_i8_bitmaps(
    storage: Storage, density: float, pattern: str
) -> None:
    got = choice(storage, density)
    rng = np.random.default_rng(0)
    mask = np.zeros(N * K, np.bool_)
    order = rng.permutation(N * K) if pattern == "random" else np.arange(N * K)
    if pattern == "single words":  # one value in each mask word first, then two …
        order = np.lexsort((np.arange(N * K), np.arange(N * K) % K % 64))
    mask[order[: got.nnz]] = True
    values: bitmap.ValueType = got.value_type
    exact = bitmap.blob_bytes(
        mask.reshape(N, K), values, got.group, encoding=got.encoding, layout=got.layout
    )
    bound = got.weight_bytes
    if got.encoding == "bitmap" and got.value_type != "i4":
        assert aligned(exact) == bound
    else:
        assert aligned(exact) <= bound


@pytest.mark.parametrize("storage", STORAGES)
def test_more_values_never_take_fewer_bytes(storage: Storage) -> None:
    sizes = [sparse_choice(LINEAR, nnz, 0, storage).weight_bytes for nnz in range(0, N * K, 997)]
    assert sizes == sorted(sizes)


def test_adapter_is_added() -> None:
    added = choice(Storage("f16"), 0.05, 8).weight_bytes - choice(Storage("f16"), 0.05).weight_bytes
    assert added == adapter_bytes(N, K, 8)


@pytest.mark.parametrize("rank", [1, 7, 16, 33, 200])
def test_an_int8_adapter_is_two_matrices_and_two_vectors_of_scales(rank: int) -> None:
    wanted = sum(-(-size // 64) * 64 for size in (rank * K, N * rank, 4 * rank, 4 * N))
    assert adapter_bytes(N, K, rank, "i8") == wanted
    got = choice(INT8_ADAPTER, 0.05, rank)
    assert got.weight_bytes - choice(INT8_ADAPTER, 0.05).weight_bytes == wanted
    assert (got.adapter_type, got.rank) == ("i8", rank)


def test_without_rank_an_int8_adapter_is_nothing() -> None:
    assert adapter_bytes(N, K, 0, "i8") == 0
    assert choice(INT8_ADAPTER, 0.5) == choice(Storage("f16"), 0.5)


@pytest.mark.parametrize("rank", [0, 8])
def test_task_adapters_stay_f16_beside_an_int8_one(rank: int) -> None:
    with_task = sparse_choice(LINEAR, N * K // 20, rank, INT8_ADAPTER, extra_rank=4)
    added = with_task.weight_bytes - choice(INT8_ADAPTER, 0.05, rank).weight_bytes
    assert added == adapter_bytes(N, K, 4)
    assert with_task.rank == rank
