"""DFTB once more, straightforward: one molecule, loops, numpy and scipy. What ``physics`` is tested against."""

import numpy as np
import scipy.linalg
from ase.data import chemical_symbols
from scipy.interpolate import BPoly, CubicSpline
from scipy.optimize import brentq
from scipy.special import expit

from tests.test_basis_and_conventions import standard_wigner

COLUMNS = ["dd0", "dd1", "dd2", "pd0", "pd1", "pp0", "pp1", "sd0", "sp0", "ss0"]


def filling(energies: np.ndarray, n_electrons: float, kt: float) -> np.ndarray:
    """[m], 0..1: how far each level is filled, by Fermi and Dirac or, where kt is 0, the lowest ones."""
    if not kt:
        return (np.arange(len(energies)) < n_electrons / 2).astype(float)
    low, high = energies[0] - 1, energies[-1] + 1
    mu = brentq(lambda t: 2 * expit(-(energies - t) / kt).sum() - n_electrons, low, high, xtol=1e-15)
    return expit(-(energies - mu) / kt)


def expand(line):
    values = []
    for token in line.replace(",", " ").split():
        n, star, v = token.rpartition("*")
        values += [float(v)] * (int(n) if star else 1)
    return values


class Tables:
    """One folder of simple files, read without the package."""

    def __init__(self, folder, shells):
        self.folder, self.shells, self.cache = folder, shells, {}

    def file(self, a, b):
        if (a, b) not in self.cache:
            path = self.folder / f"{chemical_symbols[a]}-{chemical_symbols[b]}.skf"
            lines = path.read_text().splitlines()
            dr, n = expand(lines[0])[:2]
            rows = [expand(line)[:20] for line in lines[2 + (a == b) : 1 + (a == b) + int(n)]]
            rows = np.array(rows)
            good = [k for k in range(len(rows)) if len(set(rows[k])) > 1][0]
            r = dr * np.arange(1, len(rows) + 1)
            spline = CubicSpline(r[good:], rows[good:])
            end = r[-1]
            ends = [[spline(end, k) for k in range(3)], [np.zeros(20)] * 3]
            tail = BPoly.from_derivatives([end, end + 1.0], ends)
            onsite = expand(lines[1]) if a == b else None
            self.cache[a, b] = spline, end, tail, onsite, lines
        return self.cache[a, b]

    def integral(self, a, b, la, lb, m, r):
        """(H, S) of <la on a| ... |lb on b>, b at +z."""
        if la > lb:
            h, s = self.integral(b, a, lb, la, m, r)
            return (-1) ** (la + lb) * h, (-1) ** (la + lb) * s
        k = COLUMNS.index("spd"[la] + "spd"[lb] + str(m))
        spline, end, tail, *_ = self.file(a, b)
        row = spline(r) if r <= end else tail(r) if r < end + 1 else np.zeros(20)
        return row[k], row[10 + k]

    def onsite_row(self, z):
        """Ed Ep Es SPE Ud Up Us fd fp fs."""
        return self.file(z, z)[3]

    def onsite(self, z):
        """energies by l, U of s, electrons."""
        row = self.file(z, z)[3]
        return row[2::-1], row[6], sum(row[9 - l] for l in self.shells[z])

    def matrices(self, numbers, positions):
        """H0, S in our order; positions in Bohr."""
        labels = [(a, l, m) for a, z in enumerate(numbers) for l in self.shells[z] for m in range(-l, l + 1)]
        n = len(labels)
        h, s = np.zeros((n, n)), np.eye(n)
        starts = [next(i for i, x in enumerate(labels) if x[0] == a) for a in range(len(numbers))]
        for i, (a, l, _) in enumerate(labels):
            h[i, i] = self.onsite(numbers[a])[0][l]
        for a, za in enumerate(numbers):
            for b, zb in enumerate(numbers):
                if a == b:
                    continue
                v = positions[b] - positions[a]
                r = np.linalg.norm(v)
                rotation = rotation_onto_z(v / r)
                i = starts[a]
                for la in self.shells[za]:
                    j = starts[b]
                    for lb in self.shells[zb]:
                        block = np.zeros((2, 2 * la + 1, 2 * lb + 1))
                        for m in range(-min(la, lb), min(la, lb) + 1):
                            block[:, la + m, lb + m] = self.integral(za, zb, la, lb, abs(m), r)
                        da, db = standard_wigner(la, rotation), standard_wigner(lb, rotation)
                        h[i : i + 2 * la + 1, j : j + 2 * lb + 1] = da.T @ block[0] @ db
                        s[i : i + 2 * la + 1, j : j + 2 * lb + 1] = da.T @ block[1] @ db
                        j += 2 * lb + 1
                    i += 2 * la + 1
        return h, s, np.array([a for a, *_ in labels])

    def repulsion(self, numbers, positions):
        total = 0.0
        for a in range(len(numbers)):
            for b in range(a):
                r = np.linalg.norm(positions[a] - positions[b])
                total += self.pair_repulsion(numbers[a], numbers[b], r)
        return total

    def pair_repulsion(self, a, b, r):
        lines = self.file(a, b)[4]
        if "Spline" not in [line.strip() for line in lines]:
            row = expand(lines[1 + (a == b)])
            return sum(c * (row[9] - r) ** (k + 2) for k, c in enumerate(row[1:9])) if r < row[9] else 0.0
        at = [line.strip() for line in lines].index("Spline")
        n, cutoff = expand(lines[at + 1])
        if r >= cutoff:
            return 0.0
        rows = [expand(line) for line in lines[at + 3 : at + 3 + int(n)]]
        if r < rows[0][0]:
            a1, a2, a3 = expand(lines[at + 2])
            return np.exp(-a1 * r + a2) + a3
        row = [x for x in rows if x[0] <= r][-1]
        return sum(c * (r - row[0]) ** k for k, c in enumerate(row[2:]))


def rotation_onto_z(n):
    """Any rotation R with R n = z."""
    other = np.eye(3)[np.argmin(np.abs(n))]
    x = np.cross(other, n)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(n, x), n])


def gamma(r, ua, ub):
    """Elstner et al., PRB 58, 7260 (1998), as printed."""
    ta, tb = 3.2 * ua, 3.2 * ub
    if ta == tb:
        return 1 / r - np.exp(-ta * r) * (1 / r + 11 / 16 * ta + 3 / 16 * r * ta**2 + r**2 * ta**3 / 48)

    def part(x, y):
        return np.exp(-x * r) * (
            y**4 * x / (2 * (x**2 - y**2) ** 2) - (y**6 - 3 * y**4 * x**2) / ((x**2 - y**2) ** 3 * r)
        )

    return 1 / r - part(ta, tb) - part(tb, ta)


def scc(tables, numbers, positions, charge=0, kt=0.0):
    """(charges, electronic (free) energy) by damped iteration; positions in Bohr, kt in Eh."""
    from scipy.special import entr

    h0, s, atom = tables.matrices(numbers, positions)
    u = [tables.onsite(z)[1] for z in numbers]
    neutral = np.array([tables.onsite(z)[2] for z in numbers])
    n_el = neutral.sum() - charge
    g = np.array(
        [
            [u[a] if a == b else gamma(np.linalg.norm(positions[a] - positions[b]), u[a], u[b]) for b in range(len(u))]
            for a in range(len(u))
        ]
    )
    n = neutral.copy()
    for _ in range(2000):
        v = g @ (n - neutral)
        h = h0 + 0.5 * s * (v[atom][:, None] + v[atom][None, :])
        e, c = scipy.linalg.eigh(h, s)
        p = filling(e, n_el, kt)
        density = 2 * (c * p) @ c.T
        new = np.bincount(atom, np.sum(density * s, 1), minlength=len(u))
        if np.abs(new - n).max() < 1e-12:
            break
        n = n + 0.2 * (new - n)
    else:
        raise RuntimeError("reference did not converge")
    dn = new - neutral
    energy = np.sum(density * h0) + 0.5 * dn @ g @ dn - kt * 2 * (entr(p) + entr(1 - p)).sum()
    return -dn, energy


# --- third order and shell-resolved charges, from energies alone ------------------------------------------------------


def short_range(r, ta, tb):
    """S of the printed gamma; complex tau allowed."""
    if ta == tb:
        return np.exp(-ta * r) * (1 / r + 11 / 16 * ta + 3 / 16 * r * ta**2 + r**2 * ta**3 / 48)

    def part(x, y):
        return np.exp(-x * r) * (
            y**4 * x / (2 * (x**2 - y**2) ** 2) - (y**6 - 3 * y**4 * x**2) / ((x**2 - y**2) ** 3 * r)
        )

    return part(ta, tb) + part(tb, ta)


def damping(r, ua, ub, zeta):
    return np.exp(-(((ua + ub) / 2) ** zeta) * r**2)


def pair_gamma(r, ua, ub, damped, zeta):
    """gamma and its derivative by U_a (complex step); for equal U that of S by both, as DFTB+ and Sparrow have it."""
    step = 1e-20j
    if r == 0:

        def same(x, y):
            x, y = 3.2 * x, 3.2 * y
            return (x * y / (x + y) + (x * y) ** 2 / (x + y) ** 3) / 2

        return same(ua, ub), same(ua + step, ub).imag / 1e-20
    h = damping(r, ua, ub, zeta) if damped else 1.0
    dh = damping(r, ua + step, ub, zeta).imag / 1e-20 if damped else 0.0
    s = short_range(r, 3.2 * ua, 3.2 * ub)
    if ua == ub:
        ds = short_range(r, 3.2 * (ua + step), 3.2 * (ub + step)).imag / 1e-20
    else:
        ds = short_range(r, 3.2 * (ua + step), 3.2 * ub).imag / 1e-20
    return 1 / r - s * h, -(ds * h + s * dh)


def dftb(tables, numbers, positions, charge=0, kt=0.0, by_shell=False, derivatives=None, zeta=None):
    """(charges of sites, free energy without repulsion, sites); positions in Bohr.

    The potential of a site is the derivative of the interaction energy by its charge, taken numerically (complex step),
    so that no formula of the package stands here again.
    """
    from scipy.special import entr

    h0, s, atom = tables.matrices(numbers, positions)
    sites, site_of_orbital, u, neutral = [], [], [], []
    for a, z in enumerate(numbers):
        row = tables.onsite_row(z)
        if not by_shell:
            sites.append((a, None))
            u.append(row[6])
            neutral.append(sum(row[9 - l] for l in tables.shells[z]))
        for l in tables.shells[z]:
            if by_shell:
                sites.append((a, l))
                u.append(row[6 - l])
                neutral.append(row[9 - l])
            site_of_orbital += [len(sites) - 1] * (2 * l + 1)
    neutral, site_of_orbital = np.array(neutral), np.array(site_of_orbital)
    n = len(sites)
    g, slope = np.zeros((n, n)), np.zeros((n, n))
    for i, (a, _) in enumerate(sites):
        for j, (b, _) in enumerate(sites):
            r = 0.0 if a == b else np.linalg.norm(positions[a] - positions[b])
            damped = zeta is not None and 1 in (numbers[a], numbers[b])
            g[i, j], slope[i, j] = pair_gamma(r, u[i], u[j], damped, zeta)
    third = slope * np.array([derivatives[numbers[a]] for a, _ in sites])[:, None] if derivatives else 0 * slope
    same = np.array([[a == b for b, _ in sites] for a, _ in sites], dtype=float)

    def interaction(q):
        return 0.5 * q @ g @ q + ((same @ q) * q) @ third @ q / 3

    def potential(q):
        return np.array([interaction(q + 1e-20j * e).imag / 1e-20 for e in np.eye(n)])

    n_el = neutral.sum() - charge
    electrons = neutral.copy()
    for _ in range(3000):
        v = potential(electrons - neutral)[site_of_orbital]
        e, c = scipy.linalg.eigh(h0 + 0.5 * s * (v[:, None] + v[None, :]), s)
        p = filling(e, n_el, kt)
        density = 2 * (c * p) @ c.T
        new = np.bincount(site_of_orbital, np.sum(density * s, 1), minlength=n)
        if np.abs(new - electrons).max() < 1e-12:
            break
        electrons = electrons + 0.2 * (new - electrons)
    else:
        raise RuntimeError("reference did not converge")
    entropy = 2 * (entr(p) + entr(1 - p)).sum()
    return neutral - new, np.sum(density * h0) + interaction(new - neutral) - kt * entropy, sites
