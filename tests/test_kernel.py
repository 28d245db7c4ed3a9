"""The shared closed form against each paper's own, written out densely."""

from __future__ import annotations

import logging

import pytest
import torch

from edit_sweeps.editors.kernel import exact, inverse_of, solve_keys
from edit_sweeps.moment import Moment

D_IN, D_OUT, EDITS, EARLIER = 24, 10, 5, 7


@pytest.fixture
def problem():
    """Second moment with a spectrum of four decades, keys, earlier keys, residuals; float64."""
    draw = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    samples = normal(400, D_IN) * torch.logspace(0, -2, D_IN, dtype=torch.float64)
    moment = samples.T @ samples / len(samples)
    return moment, normal(D_IN, EDITS), normal(D_IN, EARLIER), normal(D_OUT, EDITS)


def relative_error(got, want):
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize("weight", [0.5, 150.0, 15000.0])
def test_the_kernel_is_memits_update(problem, weight):
    moment, keys, _, residuals = problem
    dense = residuals @ keys.T @ torch.linalg.inv(weight * moment + keys @ keys.T)
    factor = solve_keys(keys, inverse_of(Moment.from_matrix(moment, 400)), ridge=weight)
    assert relative_error(residuals @ factor.T, dense) < 1e-9


def test_the_kernel_with_earlier_keys_is_memits_update_over_all_keys(problem):
    moment, keys, earlier, residuals = problem
    dense = (
        residuals @ keys.T @ torch.linalg.inv(150 * moment + earlier @ earlier.T + keys @ keys.T)
    )
    factor = solve_keys(
        keys, inverse_of(Moment.from_matrix(moment, 400)), ridge=150.0, earlier=earlier
    )
    assert relative_error(residuals @ factor.T, dense) < 1e-9
    assert (
        relative_error(residuals @ solve_keys(keys, inverse_of(None), ridge=150.0).T, dense) > 0.1
    )


def test_the_kernel_is_emmets_update(problem):
    moment, keys, _, residuals = problem
    weight, slack = 40.0, 0.1
    inverse = torch.linalg.inv(weight * moment)
    gram = keys.T @ inverse @ keys + slack * torch.eye(EDITS, dtype=torch.float64)
    dense = residuals @ torch.linalg.inv(gram) @ keys.T @ inverse
    factor = solve_keys(keys, inverse_of(Moment.from_matrix(moment, 400)), ridge=weight * slack)
    assert relative_error(residuals @ factor.T, dense) < 1e-9


def test_the_kernel_of_one_key_is_romes_direction(problem):
    moment, keys, _, residuals = problem
    key, residual = keys[:, :1], residuals[:, :1]
    left = torch.linalg.solve(moment, key)
    left /= left.norm()
    dense = residual / (key.T @ left) @ left.T
    factor = solve_keys(key, inverse_of(Moment.from_matrix(moment, 400)))
    assert relative_error(residual @ factor.T, dense) < 1e-9


def test_without_a_ridge_every_key_is_mapped_exactly(problem):
    moment, keys, _, _ = problem
    factor = solve_keys(keys, inverse_of(Moment.from_matrix(moment, 400)))
    assert torch.allclose(factor.T @ keys, torch.eye(EDITS, dtype=torch.float64), atol=1e-9)


def test_no_moment_is_the_identity(problem):
    _, keys, _, _ = problem
    factor = solve_keys(keys, inverse_of(None))
    assert torch.allclose(factor, torch.linalg.pinv(keys).T, atol=1e-10)


def test_a_repeated_key_is_shared_and_logged(problem, caplog):
    moment, keys, _, residuals = problem
    same = keys[:, [0, 1, 0]]
    with caplog.at_level(logging.WARNING):
        factor = solve_keys(same, inverse_of(Moment.from_matrix(moment, 400)))
    update = residuals[:, [0, 1, 2]] @ factor.T
    half = (residuals[:, 0] + residuals[:, 2]) / 2
    assert torch.allclose(update @ keys[:, 0], half, atol=1e-6)
    assert "linearly dependent" in caplog.text


def test_keys_of_a_collapsed_model_give_an_update_of_nan(problem, caplog):
    moment, keys, _, _ = problem
    keys[3, 2] = torch.nan
    with caplog.at_level(logging.WARNING):
        factor = solve_keys(keys, inverse_of(Moment.from_matrix(moment, 400)))
    assert factor.isnan().all()
    assert "collapsed" in caplog.text


def test_a_negative_ridge_is_refused(problem):
    _, keys, _, _ = problem
    with pytest.raises(ValueError, match="second_moment_weight"):
        solve_keys(keys, inverse_of(None), ridge=-1.0)


def test_float32_keys_are_solved_in_float64(problem):
    _, keys, _, _ = problem
    assert solve_keys(keys.float(), inverse_of(None)).dtype == torch.float64
    assert exact(keys.to(torch.bfloat16)).dtype == torch.float64
