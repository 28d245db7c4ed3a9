"""One second moment: its matrix, and solving with it."""

from __future__ import annotations

import logging

import pytest
import torch

from edit_sweeps.moment import Moment


def random_matrix(d, rank=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rank or 4 * d, d, generator=generator, dtype=torch.float64)
    x *= torch.logspace(0, -2, d, dtype=torch.float64)
    return x.T @ x / len(x)


def relative(got, want):
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize("weight", [1.0, 0.1, 15000.0])
def test_solve_is_the_dense_solution(weight):
    matrix, x = random_matrix(40), torch.randn(40, 3, dtype=torch.float64)
    moment = Moment.from_matrix(matrix, 160)
    want = torch.linalg.solve(weight * matrix, x)
    assert relative(moment.solve(x, weight), want) < 1e-9
    assert relative(moment.matrix(), matrix) < 1e-12


def test_an_ill_conditioned_moment_that_is_not_singular_is_left_alone(caplog):
    matrix = torch.diag(torch.logspace(0, -9, 10, dtype=torch.float64))
    x = torch.ones(10, 1, dtype=torch.float64)
    solved = Moment.from_matrix(matrix).solve(x)
    assert torch.allclose(solved[:, 0], 1 / matrix.diagonal(), rtol=1e-6)
    assert not caplog.records


@pytest.mark.parametrize("tokens", [10, 0])
def test_a_singular_moment_is_floored_and_this_is_logged(caplog, tokens):
    matrix = random_matrix(40, rank=10)
    with caplog.at_level(logging.WARNING):
        solved = Moment.from_matrix(matrix, tokens).solve(torch.ones(40, 1, dtype=torch.float64))
    assert solved.isfinite().all()
    assert "30 eigenvalues raised" in caplog.text
    floor = 1e-6 * matrix.trace() / 40
    values, vectors = torch.linalg.eigh(matrix)
    dense = vectors @ torch.diag(values.clamp(min=floor)) @ vectors.T
    assert (
        relative(solved, torch.linalg.solve(dense, torch.ones(40, 1, dtype=torch.float64))) < 1e-6
    )


def test_rounding_does_not_make_up_for_missing_tokens(caplog):
    """A float32 sum over few tokens has tiny eigenvalues where it should have zeros."""
    noisy = random_matrix(40, rank=10) + 1e-8 * torch.eye(40, dtype=torch.float64)
    x = torch.ones(40, 1, dtype=torch.float64)
    trusted = Moment.from_matrix(noisy, tokens=0).solve(x)
    assert relative(trusted, torch.linalg.solve(noisy, x)) < 1e-6
    assert not caplog.records
    floored = Moment.from_matrix(noisy, tokens=10).solve(x)
    assert "singular" in caplog.text
    assert floored.norm() < trusted.norm() / 10


def test_the_identity_changes_nothing():
    x = torch.randn(7, 2, dtype=torch.float64)
    assert torch.equal(Moment.identity(7).solve(x), x)
    assert torch.equal(Moment.identity(7).matrix(), torch.eye(7, dtype=torch.float64))


def test_solve_takes_float32_and_gives_float64():
    moment = Moment.from_matrix(random_matrix(8))
    assert moment.solve(torch.ones(8, 1)).dtype == torch.float64
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            moment.solve(torch.ones(8, 1), weight)
