"""schnorb_t: Hamiltonian and overlap matrices of molecules from equivariant networks."""

__version__ = "0.1.0"


def load(model, device=None, **options):
    """A trained model: ``schnorb_t.load("model.ckpt").predict(atoms)``; see ``schnorb_t.predictor.load``."""
    from schnorb_t.predictor import load as load_predictor

    return load_predictor(model, device, **options)
