"""Planted worlds that several files train on."""

import numpy as np
import pytest
from planted_stores import crosscoder_sites, sparse_codes, transcoder_sites, write_store
from planted_training import READS, WRITES


@pytest.fixture(scope="session")
def crosscoder_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crosscoder")
    return [
        write_store(folder / f"{seed}.zarr", crosscoder_sites(codes, READS, seed=seed))
        for seed, n_tokens in enumerate((12_288, 12_288, 6144, 6144))
        for codes in [sparse_codes(n_tokens, seed)]
    ]


@pytest.fixture(scope="session")
def transcoder_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transcoder")
    paths = []
    for seed, n_tokens in enumerate((24_576, 6144, 6144)):
        codes = np.stack([sparse_codes(n_tokens, 10 * seed + layer) for layer in (0, 1)], axis=1)
        sites = transcoder_sites(codes, READS, WRITES, seed=seed)
        paths.append(write_store(folder / f"{seed}.zarr", sites))
    return paths
