"""PySCF's functions on a prediction: what H, S and orbitals fix is right, all else is refused in one sentence."""

import copy
import io
import pickle

import numpy as np
import pytest
import scipy.linalg

from schnorb_t.conventions import reorder_from_pyscf
from schnorb_t.interfaces.pyscf import to_mean_field
from schnorb_t.reference.pyscf import basis_from_pyscf, mole_from_basis
from tests.interfaces.examples import prediction_of, tilted, valence_prediction

pytest.importorskip("pyscf")
from pyscf import (  # noqa: E402
    adc,
    agf2,
    ao2mo,
    cc,
    ci,
    df,
    dft,
    fci,
    grad,
    gto,
    gw,
    hessian,
    lo,
    mcscf,
    mp,
    qmmm,
    scf,
    solvent,
    soscf,
    tdscf,
    x2c,
)
from pyscf.scf import addons, chkfile, stability  # noqa: E402
from pyscf.tools import cubegen, fcidump, molden, wfn_format  # noqa: E402


@pytest.fixture(scope="module")
def fixed():
    """Water in def2-SVP: Hartree-Fock's converged matrices as a prediction, and PySCF's own object."""
    atoms = tilted("H2O")
    basis = basis_from_pyscf("def2-svp", atoms.numbers)
    mf = scf.RHF(mole_from_basis(basis, atoms.numbers, atoms.positions)).run(conv_tol=1e-12)
    order = reorder_from_pyscf(mf.mol)
    h, s = order.matrix(mf.get_fock()), order.matrix(mf.get_ovlp())
    return prediction_of(basis, atoms.numbers, atoms.positions, h, s), mf


@pytest.fixture(scope="module")
def projected(model):
    return model.predict(tilted("H2O"))


#: Functions of PySCF that take a mean field, up to the first number that they would give.
OF_A_MEAN_FIELD = {
    "TDA": lambda mf: tdscf.TDA(mf).kernel(),
    "TDHF": lambda mf: tdscf.rhf.TDHF(mf).kernel(),
    "TDDFT": lambda mf: tdscf.rks.TDDFT(mf).kernel(),
    "get_ab": tdscf.rhf.get_ab,
    "MP2": lambda mf: mp.MP2(mf).kernel(),
    "RMP2": lambda mf: mp.mp2.RMP2(mf).kernel(),
    "DF-MP2": lambda mf: mp.dfmp2.DFMP2(mf).kernel(),
    "CCSD": lambda mf: cc.CCSD(mf).kernel(),
    "CISD": lambda mf: ci.CISD(mf).kernel(),
    "CASSCF": lambda mf: mcscf.CASSCF(mf, 2, 2).kernel(),
    "CASCI": lambda mf: mcscf.CASCI(mf, 2, 2).kernel(),
    "FCI": lambda mf: fci.FCI(mf).kernel(),
    "ADC": lambda mf: adc.ADC(mf).kernel(),
    "GW": lambda mf: gw.GW(mf).kernel(),
    "AGF2": lambda mf: agf2.AGF2(mf).kernel(),
    "grad.RHF": lambda mf: grad.RHF(mf).kernel(),
    "grad.RKS": lambda mf: grad.RKS(mf).kernel(),
    "hessian.RHF": lambda mf: hessian.rhf.Hessian(mf).kernel(),
    "hessian.RKS": lambda mf: hessian.rks.Hessian(mf).kernel(),
    "density_fit": lambda mf: df.density_fit(mf).kernel(),
    "newton": lambda mf: scf.newton(mf).kernel(),
    "newton_ah": lambda mf: soscf.newton_ah.newton(mf).kernel(),
    "solvent": lambda mf: solvent.PCM(mf).kernel(),
    "ddCOSMO": lambda mf: solvent.ddCOSMO(mf).kernel(),
    "qmmm": lambda mf: qmmm.mm_charge(mf, np.ones((1, 3)), [1.0]).kernel(),
    "x2c": lambda mf: scf.sfx2c1e(mf).kernel(),
    "x2c.x2c": lambda mf: x2c.x2c.UHF(mf).kernel(),
    "stability": stability.rhf_stability,
    "stability, internal": stability.rhf_internal,
    "to UHF": addons.convert_to_uhf,
    "to GHF": addons.convert_to_ghf,
    "smearing": addons.smearing_,
    "FCIDUMP": lambda mf: fcidump.from_scf(mf, "/dev/null"),
    "checkpoint": lambda mf: chkfile.dump_scf(mf.mol, "/dev/null", mf.e_tot, mf.mo_energy, mf.mo_coeff, mf.mo_occ),
    "energy_tot": scf.hf.energy_tot,
    "energy_elec": scf.hf.energy_elec,
    "kernel": scf.hf.kernel,
}
#: Methods of PySCF's mean fields.
METHODS = (
    "kernel scf run energy_tot energy_elec energy_nuc get_hcore get_veff get_jk get_j get_k get_init_guess "
    "nuc_grad_method Gradients Hessian TDA TDHF TDDFT MP2 CCSD CISD CASSCF CASCI stability as_scanner newton "
    "density_fit to_gpu to_uks to_uhf to_rhf to_hf to_ks convert_from_ ddCOSMO PCM SMD x2c sfx2c1e dump_chk from_chk "
    "init_guess_by_chkfile ao2mo reset get_grad canonicalize apply set view e_tot max_memory chkfile _eri _numint "
    "with_df xc Polarizability NMR"
).split()  # fmt: skip
#: Functions of PySCF that take a molecule, and orbitals.
OF_A_MOLECULE = {
    "Molden": lambda mf: molden.from_scf(mf, "/dev/null"),
    "Molden of orbitals": lambda mf: molden.from_mo(mf.mol, "/dev/null", mf.mo_coeff),
    "cube": lambda mf: cubegen.orbital(mf.mol, "/dev/null", mf.mo_coeff[:, 0]),
    "cube of the density": lambda mf: cubegen.density(mf.mol, "/dev/null", mf.make_rdm1()),
    "potential": lambda mf: cubegen.mep(mf.mol, "/dev/null", mf.make_rdm1()),
    "wfn": lambda mf: wfn_format.write_mo(io.StringIO(), mf.mol, mf.mo_coeff),
    "chkfile": lambda mf: chkfile.save_mol(mf.mol, "/dev/null"),
    "dipole": lambda mf: scf.hf.dip_moment(mf.mol, mf.make_rdm1()),
    "hcore": lambda mf: scf.hf.get_hcore(mf.mol),
    "veff": lambda mf: scf.hf.get_veff(mf.mol, mf.make_rdm1()),
    "RKS": lambda mf: dft.RKS(mf.mol).kernel(),
    "intor": lambda mf: mf.mol.intor("int1e_r"),
    "integrals": lambda mf: gto.moleintor.getints("int1e_r", mf.mol._atm, mf.mol._bas, mf.mol._env),
    "on a grid": lambda mf: dft.numint.eval_ao(mf.mol, np.zeros((1, 3))),
    "MO integrals": lambda mf: ao2mo.kernel(mf.mol, mf.mo_coeff),
    "Boys": lambda mf: lo.Boys(mf.mol, mf.mo_coeff[:, :2]).kernel(),
    "IAO": lambda mf: lo.iao.iao(mf.mol, mf.mo_coeff[:, :2]),
    "copy": lambda mf: mf.mol.copy(),
}


def refused(function, mf):
    """PySCF itself says of three of its methods that they are not for Kohn-Sham orbitals."""
    with pytest.raises(
        (NotImplementedError, RuntimeError), match="more than a prediction fixes|this needs the functions|DFT object"
    ) as caught:
        function(mf)
    assert "\n" not in str(caught.value).strip() or "DFT object" in str(caught.value)


@pytest.mark.parametrize("name", OF_A_MEAN_FIELD)
def test_what_needs_more_than_matrices_is_refused(name, fixed, projected):
    for prediction in (fixed[0], projected, valence_prediction("H2O")[0]):
        refused(OF_A_MEAN_FIELD[name], to_mean_field(prediction))


@pytest.mark.parametrize("name", METHODS)
def test_methods_and_attributes_that_are_not_there(name, fixed, projected):
    for prediction in (fixed[0], projected):
        refused(lambda mf: getattr(mf, name), to_mean_field(prediction))
        refused(lambda mf: hasattr(mf, name), to_mean_field(prediction))


@pytest.mark.parametrize("name", OF_A_MOLECULE)
def test_functions_that_pyscf_cannot_have_are_not_given_to_it(name, projected):
    for prediction in (projected, valence_prediction("H2O")[0]):
        refused(OF_A_MOLECULE[name], to_mean_field(prediction))


def test_settings_cannot_make_it_something_else(fixed):
    mf = to_mean_field(fixed[0])
    for name, value in (("max_memory", 4000), ("xc", "b3lyp"), ("mo_coeff", np.eye(24)), ("_eri", None)):
        with pytest.raises(NotImplementedError, match=f"'{name}' cannot be set"):
            setattr(mf, name, value)
    mf.verbose = 3
    assert mf.verbose == 3
    for call in (lambda: mf.get_fock(dm=np.eye(24)), lambda: mf.get_fock(None)):
        with pytest.raises(NotImplementedError, match="one Fock matrix"):
            call()


def test_it_passes_for_a_mean_field(fixed, projected):
    for prediction in (fixed[0], projected):
        mf = to_mean_field(prediction)
        assert isinstance(mf, scf.hf.RHF) and isinstance(mf.mol, gto.Mole)
        assert not hasattr(mf, "__array__") and not hasattr(mf, "_repr_html_")
        assert prediction.formula in repr(mf)


def test_copies_and_pickle(fixed, projected):
    for prediction in (fixed[0], projected, valence_prediction("H2O")[0]):
        mf = to_mean_field(prediction)
        mf.verbose = 1
        for again in (pickle.loads(pickle.dumps(mf)), copy.copy(mf), copy.deepcopy(mf), mf.copy()):
            assert again.verbose == 1
            for a, b in (
                (again.get_fock(), mf.get_fock()),
                (again.get_ovlp(), mf.get_ovlp()),
                (again.mo_coeff, mf.mo_coeff),
                (again.mulliken_pop()[1], mf.mulliken_pop()[1]),
            ):
                assert np.array_equal(a, b)
            with pytest.raises(ValueError, match="read-only"):
                again.mo_occ[:] = 0
        assert mf.mo_occ.sum() == prediction.n_electrons


def test_a_fixed_basis_is_pyscf_s_own(fixed, tmp_path):
    """Populations, moments, files and localised orbitals of the converged Fock matrix: PySCF's numbers."""
    prediction, own = fixed
    mf = to_mean_field(prediction)
    for method in ("dip_moment", "quad_moment"):
        values = (getattr(x, method)(verbose=0, origin=(0.1, 0.2, -0.3)) for x in (mf, own))
        assert np.abs(np.subtract(*values)).max() < 1e-6
    for method in ("mulliken_pop", "mulliken_meta"):
        values = (getattr(x, method)(verbose=0)[1] for x in (mf, own))
        assert np.abs(np.subtract(*values)).max() < 1e-6
    (_, charges), dipole = mf.analyze()
    theirs, their_dipole = own.analyze(verbose=0)
    assert np.abs(charges - theirs[1]).max() < 1e-6 and np.abs(dipole - their_dipole).max() < 1e-6
    (_, charges), _ = mf.analyze(with_meta_lowdin=False)
    assert np.abs(charges - own.mulliken_pop(verbose=0)[1]).max() < 1e-6
    molden.from_scf(mf, str(tmp_path / "x.molden"))
    mol, energies, c, occupations, *_ = molden.load(str(tmp_path / "x.molden"))
    assert np.diag(c.T @ mol.intor("int1e_ovlp") @ c) @ occupations == pytest.approx(10, abs=1e-6)
    assert np.abs(energies - own.mo_energy).max() < 1e-6
    value = cubegen.density(mf.mol, str(tmp_path / "x.cube"), mf.make_rdm1(), nx=8, ny=8, nz=8)
    assert (
        np.abs(value - cubegen.density(own.mol, str(tmp_path / "y.cube"), own.make_rdm1(), nx=8, ny=8, nz=8)).max()
        < 1e-6
    )


def test_analyze_prints_levels_and_charges(fixed, projected):
    for prediction in (fixed[0], projected, valence_prediction("H2O")[0]):
        mf = to_mean_field(prediction)
        mf.stdout = io.StringIO()
        mf.analyze(verbose=4)
        assert f"MO #{len(mf.mo_energy)}" in mf.stdout.getvalue()


def test_populations_of_projected_and_valence_only_bases(projected, model):
    """Charges of neutral molecules sum to zero, and are those of the prediction; the dipole is not known."""
    oxides, levels = valence_prediction("SO2")
    predictions = {"all": projected, "valence": valence_prediction("H2O")[0], "third row": oxides}
    for name, prediction in predictions.items():
        mf = to_mean_field(prediction)
        (populations, charges), dipole = mf.analyze()
        assert dipole is None
        assert abs(charges.sum()) < 1e-8 and populations.sum() == pytest.approx(prediction.n_electrons)
        assert abs(mf.lowdin_pop()[1].sum()) < 1e-8
        if name == "all":
            assert np.abs(charges - prediction.mulliken_charges).max() < 1e-9
        assert np.abs(scipy.linalg.eigh(mf.get_fock(), mf.get_ovlp(), eigvals_only=True) - mf.mo_energy).max() < 1e-9
        for moment in (mf.dip_moment, mf.quad_moment):
            with pytest.raises(NotImplementedError, match="projected functions are not known"):
                moment()
    mf = to_mean_field(oxides)
    assert mf.mol.atom_charges().tolist() == [6, 6, 6] and mf.mol.nelectron == 18 == mf.mo_occ.sum()
    assert [label[2:] for label in mf.mol.ao_labels(fmt=None)][:2] == [("3s", ""), ("3p", "x")]
    assert mf.mol.elements == ["S", "O", "O"]
    # sulfur is positive in SO2; nine occupied levels are the valence levels of the calculation
    assert mf.mulliken_pop()[1][0] > 0.5
    assert np.abs(mf.mo_energy[:9] - levels[7:16]).max() < 1e-8


def test_occupations_of_other_levels(fixed):
    mf = to_mean_field(fixed[0])
    assert np.array_equal(mf.get_occ(), mf.mo_occ)
    assert np.array_equal(mf.get_occ(mf.mo_energy[::-1]), mf.mo_occ[::-1])
