"""Products of blocks: against NumPy, and bit for bit as chains of fused multiply-adds."""

import hashlib
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from streamtrain.kernels import blocks
from streamtrain.kernels._jit import inline
from streamtrain.kernels.blocks import FARTHEST, LANES

EPS = float(np.finfo(np.float32).eps)
ODD = 7  # numbers before the first: nothing may need aligned arrays


@inline
def multiply_rows(a, a_at, a_panel, n, last, b, b_at, init, init_at, init_step, c, c_at, relu):
    blocks.multiply_rows(
        a, a_at, a_panel, n, last, b, b_at, init, init_at, init_step, c, c_at, relu
    )


@inline
def multiply_columns(a, a_at, n, b, b_at, init, init_at, init_step, c, c_at):
    blocks.multiply_columns(a, a_at, n, b, b_at, init, init_at, init_step, c, c_at)


@inline
def weighted_sum(s, s_at, s_step, v, v_at, n, init, init_at, c, c_at):
    blocks.weighted_sum(s, s_at, s_step, v, v_at, n, init, init_at, c, c_at)


@inline
def dot_panels(a, a_at, a_panel, n, b, b_at):
    return blocks.dot_panels(a, a_at, a_panel, n, b, b_at)


@inline
def standardise_lanes(x, x_at, n, shift, scale, at, out, out_at):
    blocks.standardise_lanes(x, x_at, n, shift, scale, at, out, out_at)


@inline
def transpose_block(a, a_at, c, c_at):
    blocks.transpose_block(a, a_at, c, c_at)


def limit_of(n):
    # Partial sums of n numbers of size 1 reach sqrt(n), each is rounded to an eps of it, and
    # n errors add up like sqrt(n) of them; the largest of 256 is a few times as far off.
    return 4 * EPS * (n + 1)


def flat(rng, n):
    """Return ODD numbers and then n."""
    return rng.normal(size=ODD + n).astype(np.float32)


def sums_of_rows(n_panels, n_last, *, relu=0, step=0, rows_between=3, seed=0, n_odd=ODD):
    """Run multiply_rows on made numbers; return (found, a, b, init), each as a matrix."""
    rng = np.random.default_rng([seed, n_panels, n_last])
    a_panel = 16 * (16 + rows_between)
    n_in = 16 * (n_panels - 1) + n_last
    a, b = flat(rng, n_panels * a_panel), flat(rng, n_in * 16)
    init = flat(rng, 256)
    c = flat(rng, 256)
    before = c.copy()
    multiply_rows(a, n_odd, a_panel, n_panels, n_last, b, n_odd, init, n_odd, step, c, ODD, relu)
    assert c[:ODD].tobytes() == before[:ODD].tobytes()
    panels = [a[n_odd + p * a_panel :][:256].reshape(16, 16) for p in range(n_panels)]
    left = np.concatenate(panels, axis=1)[:, :n_in]
    first = np.stack([init[n_odd + r * step :][:16] for r in range(16)])
    return c[ODD:].reshape(16, 16), left, b[n_odd:].reshape(n_in, 16)[:n_in], first


def sums_of_columns(n, *, step=16, seed=0):
    rng = np.random.default_rng([seed, n])
    a, b, init, c = (flat(rng, size) for size in (16 * n, 16 * n, 256, 256))
    multiply_columns(a, ODD, n, b, ODD, init, ODD, step, c, ODD)
    first = np.stack([init[ODD + j * step :][:16] for j in range(16)])
    return c[ODD:].reshape(16, 16), a[ODD:].reshape(n, 16), b[ODD:].reshape(n, 16), first


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("step", [0, 16])
@pytest.mark.parametrize(("n_panels", "n_last"), [(1, 1), (1, 16), (2, 5), (3, 16), (40, 11)])
def test_sums_of_rows_are_those_of_numpy(n_panels, n_last, step, relu):
    found, a, b, first = sums_of_rows(n_panels, n_last, step=step, relu=relu)
    expected = first + a.astype(np.float64) @ b
    expected = np.maximum(expected, 0) if relu else expected
    np.testing.assert_allclose(found, expected, atol=limit_of(a.shape[1]))


@pytest.mark.parametrize("step", [0, 16])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 333])
def test_sums_of_columns_are_those_of_numpy(n, step):
    found, a, b, first = sums_of_columns(n, step=step)
    expected = first + a.astype(np.float64).T @ b
    np.testing.assert_allclose(found, expected, atol=limit_of(n))


@pytest.mark.parametrize("s_step", [0, 1, 16])
@pytest.mark.parametrize("n", [1, 5, 100])
def test_a_weighted_sum_is_that_of_numpy(n, s_step):
    rng = np.random.default_rng(n)
    s, v, init, c = (flat(rng, size) for size in (16 * n, 16 * n, 16, 16))
    weighted_sum(s, ODD, s_step, v, ODD, n, init, ODD, c, ODD)
    factors = s[ODD + s_step * np.arange(n)].astype(np.float64)
    expected = init[ODD:] + factors @ v[ODD:].reshape(n, 16)
    np.testing.assert_allclose(c[ODD:], expected, atol=limit_of(n))


@pytest.mark.parametrize("n", [1, 2, 9])
def test_a_dot_of_panels_is_that_of_numpy(n):
    rng = np.random.default_rng(n)
    a, b = flat(rng, n * 48), flat(rng, n * 16)
    found = dot_panels(a, ODD, 48, n, b, ODD)
    expected = (a[ODD:].reshape(n, 48)[:, :16].astype(np.float64) * b[ODD:].reshape(n, 16)).sum()
    assert found == pytest.approx(expected, abs=limit_of(16 * n))


@pytest.mark.parametrize("n", [1, 6, 15, 16])
def test_lanes_are_standardised_and_the_missing_and_the_others_are_zero(n):
    rng = np.random.default_rng(n)
    # Nothing lies behind the n numbers: what a mask does not hide would be read.
    x, shift, scale = (flat(rng, n) for _ in range(3))
    out = np.full(ODD + 16, 5.0, np.float32)
    x[ODD + n // 2] = np.nan
    standardise_lanes(x, ODD, n, shift, scale, ODD, out, ODD)
    expected = np.zeros(16, np.float32)
    expected[:n] = np.nan_to_num((x[ODD:] - shift[ODD:]) * scale[ODD:])
    assert out[ODD:].tobytes() == expected.tobytes()
    assert (out[:ODD] == 5).all()


def test_what_lies_far_off_is_bounded_when_standardised():
    largest = np.finfo(np.float32).max
    x = np.array([largest, -largest, np.inf, -np.inf, 3.0, 1e18], np.float32)
    shift = np.array([-largest, largest, 0, 0, 1, 0], np.float32)
    scale = np.array([1, 1e10, 1, 1, 0.5, 1], np.float32)
    out = np.zeros(16, np.float32)
    standardise_lanes(x, 0, 6, shift, scale, 0, out, 0)
    assert out[:6].tolist() == [FARTHEST, -FARTHEST, FARTHEST, -FARTHEST, 1.0, np.float32(1e18)]
    assert np.isfinite(np.float32(64) * FARTHEST * FARTHEST)


def test_a_block_is_transposed_in_place_or_elsewhere():
    a = np.arange(ODD + 256, dtype=np.float32)
    c = np.zeros(3 + 256, np.float32)
    transpose_block(a, ODD, c, 3)
    np.testing.assert_array_equal(c[3:].reshape(16, 16), a[ODD:].reshape(16, 16).T)
    transpose_block(c, 3, c, 3)
    np.testing.assert_array_equal(c[3:], a[ODD:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("relu", [0, 1])
def test_what_is_not_finite_passes_and_relu_keeps_nan(value, relu):
    a, b, zeros, c = (np.full(256, x, np.float32) for x in (1, 1, 0, 9))
    a[16 * 3 + 2] = value
    multiply_rows(a, 0, 256, 1, 16, b, 0, zeros, 0, 0, c, 0, relu)
    found = c.reshape(16, 16)
    expected = np.full((16, 16), 16.0)
    expected[3] = 0 if relu and value < 0 else value
    np.testing.assert_array_equal(found, expected)
    a[:] = 1
    a[16 * 3 + 2] = value
    multiply_columns(a, 0, 16, b, 0, zeros, 0, 0, c, 0)
    expected = np.full((16, 16), 16.0)
    expected[2] = value
    np.testing.assert_array_equal(c.reshape(16, 16), expected)
    assert not np.isfinite(dot_panels(a, 48, 16, 1, b, 0))


def fused(x, y, z):
    """Return x y + z rounded once to float32."""
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    near = np.float32(float(exact))
    around = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
    return min(around, key=lambda v: (abs(Fraction(float(v)) - exact), v != near))


def test_a_sum_is_one_chain_of_fused_multiply_adds_in_its_order():
    for n_panels, n_last in ((1, 9), (3, 5)):
        found, a, b, first = sums_of_rows(n_panels, n_last, step=16)
        for r, lane in ((0, 0), (4, 3), (11, 15), (15, 8)):
            total = first[r, lane]
            for k in range(a.shape[1]):
                total = fused(a[r, k], b[k, lane], total)
            assert found[r, lane] == total
    found, a, b, first = sums_of_columns(41)
    for j, lane in ((0, 0), (5, 3), (12, 15), (15, 8)):
        total = first[j, lane]
        for r in range(41):
            total = fused(a[r, j], b[r, lane], total)
        assert found[j, lane] == total


def fuses():
    file = Path("/proc/cpuinfo")
    return file.exists() and {"fma", "avx2"} <= set(file.read_text().split())


def digest():
    """Return a digest of every product here."""
    total = hashlib.blake2b()
    for n_panels, n_last in ((1, 1), (3, 5), (8, 16)):
        for relu in (0, 1):
            total.update(sums_of_rows(n_panels, n_last, relu=relu)[0].tobytes())
    for n in (1, 17, 100):
        total.update(sums_of_columns(n)[0].tobytes())
        rng = np.random.default_rng(n)
        s, v, c = flat(rng, 16 * n), flat(rng, 16 * n), np.zeros(16, np.float32)
        weighted_sum(s, ODD, 1, v, ODD, n, c, 0, c, 0)
        total.update(c.tobytes())
        total.update(np.float32(dot_panels(s, ODD, 16, n, v, ODD)).tobytes())
    return total.hexdigest()


@pytest.mark.skipif(not fuses(), reason="this processor is not known to fuse")
def test_a_processor_with_fewer_registers_gives_the_same_bits():
    name = __name__
    code = (
        f"import {name} as m; from streamtrain.kernels import blocks\n"
        "for passes in ((16,), (6, 6, 4), (4, 4, 4, 4)):\n"
        "    blocks._row_passes = lambda: passes\n"
        "    for f in (m.multiply_rows, m.multiply_columns): f.recompile()\n"
        "    print(m.digest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={
            **os.environ,
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest()] * 3


def test_every_vector_has_sixteen_lanes():
    assert LANES == 16
