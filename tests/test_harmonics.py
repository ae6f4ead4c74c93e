import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from schnorb_t.harmonics import bond_frames, spherical_harmonics, wigner_d
from tests.test_basis_and_conventions import standard_wigner


@pytest.mark.parametrize("dtype,tol", [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_bond_frames_turn_bonds_onto_z(dtype, tol):
    v = torch.randn(500, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    v = torch.cat((v, torch.tensor([[0, 0, -2.0], [0, 0, 3.0], [1e-7, 0, -1], [0, 1, 0], [1, 0, -0.0]], dtype=dtype)))
    R = bond_frames(v)
    z = torch.tensor([0, 0, 1.0], dtype=dtype)
    assert ((R @ (v / v.norm(dim=1, keepdim=True))[:, :, None])[:, :, 0] - z).abs().max() < tol
    assert (R @ R.mT - torch.eye(3, dtype=dtype)).abs().max() < tol
    assert (torch.linalg.det(R) - 1).abs().max() < 3 * tol


def test_wigner_d_against_independent_harmonics():
    R = Rotation.random(6, rng=np.random.default_rng(0)).as_matrix()
    for l, D in enumerate(wigner_d(torch.tensor(R), 4)):
        for k in range(len(R)):
            assert np.abs(D[k].numpy() - standard_wigner(l, R[k])).max() < 1e-12


def test_spherical_harmonics_rotate_with_wigner_d():
    R = torch.tensor(Rotation.random(rng=np.random.default_rng(1)).as_matrix())
    v = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    at = 0
    Y, Z = spherical_harmonics(v, 3), spherical_harmonics(v @ R.T, 3)
    for D in wigner_d(R[None], 3):
        n = D.shape[-1]
        assert torch.allclose(Z[:, at : at + n], Y[:, at : at + n] @ D[0].T, atol=1e-13)
        at += n
