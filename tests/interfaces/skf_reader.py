"""A reader of Slater-Koster files written from the format's description, with DFTB+'s 8-point interpolation; it knows
nothing of the package. Rotations come from explicit real spherical harmonics."""

from functools import cache

import numpy as np

COLUMNS = "dd0 dd1 dd2 pd0 pd1 pp0 pp1 sd0 sp0 ss0".split()
EXTENDED = "ff0 ff1 ff2 ff3 df0 df1 df2 dd0 dd1 dd2 pf0 pf1 pd0 pd1 pp0 pp1 sf0 sd0 sp0 ss0".split()


def expand(line):
    out = []
    for token in line.replace(",", " ").split():
        times, _, value = token.rpartition("*")
        out += [float(value)] * int(times or 1)
    return out


@cache
def read(path, homonuclear):
    lines = path.read_text().splitlines()
    columns = COLUMNS
    if lines[0].startswith("@"):
        columns, lines = EXTENDED, lines[1:]
    step, n = expand(lines[0])
    at, onsite = 1, None
    if homonuclear:
        row = expand(lines[1])
        letters = "fdps" if columns is EXTENDED else "dps"
        k = len(letters)
        assert len(row) == 3 * k + 1
        onsite = {
            "energy": dict(zip(letters, row[:k], strict=True)),
            "spin": row[k],
            "hubbard": row[k + 1 : 2 * k + 1],
            "electrons": dict(zip(letters, row[2 * k + 1 :], strict=True)),
        }
        at = 2
    mass = expand(lines[at])
    assert len(mass) == 20
    table = np.array([expand(x) for x in lines[at + 1 : at + int(n)]])
    assert table.shape == (int(n) - 1, 2 * len(columns))
    rest = lines[at + int(n) :]
    assert rest[0] == "Spline"
    intervals, cutoff = expand(rest[1])
    a = expand(rest[2])
    rows = [expand(x) for x in rest[3 : 3 + int(intervals)]]
    return dict(
        step=step, columns=columns, onsite=onsite, mass=mass, table=table, cutoff=cutoff, exponential=a, spline=rows
    )


def interpolate(file, r):
    """8-point polynomial in the nearest rows, row k at k * step."""
    x = r / file["step"]
    first = int(np.clip(np.floor(x) - 3, 1, len(file["table"]) - 7))
    points = np.arange(first, first + 8)
    weights = [np.prod([(x - q) / (p - q) for q in points if q != p]) for p in points]
    return weights @ file["table"][points - 1]


def harmonics(l, v):
    """Real spherical harmonics m = -l..l of unit vectors [n, 3], up to one factor per l."""
    x, y, z = v.T
    if l == 0:
        return np.ones((1, len(v)))
    if l == 1:
        return np.stack([y, z, x])
    s3 = 3**0.5
    if l == 2:
        return np.stack([s3 * x * y, s3 * y * z, z * z - (x * x + y * y) / 2, s3 * x * z, s3 / 2 * (x * x - y * y)])
    a, b = (5 / 8) ** 0.5, (3 / 8) ** 0.5
    return np.stack(
        [
            a * y * (3 * x * x - y * y),
            15**0.5 * x * y * z,
            b * y * (5 * z * z - 1),
            z * (5 * z * z - 3) / 2,
            b * x * (5 * z * z - 1),
            15**0.5 / 2 * z * (x * x - y * y),
            a * x * (x * x - 3 * y * y),
        ]
    )


def turn(l, rotation):
    """D with Y(R v) = D Y(v), by least squares over random directions."""
    v = np.random.default_rng(0).normal(size=(30, 3))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return np.linalg.lstsq(harmonics(l, v).T, harmonics(l, v @ rotation.T).T, rcond=None)[0].T


def onto_z(vector):
    """A rotation that turns a vector onto +z."""
    z = vector / np.linalg.norm(vector)
    x = np.cross(z, [0.3, 0.5, -0.8])
    x /= np.linalg.norm(x)
    return np.array([x, np.cross(z, x), z])


def block(folder, symbol_a, symbol_b, ls_a, ls_b, vector):
    """Off-site H and S blocks of A at 0 and B at ``vector`` (Bohr), one shell of each l."""
    there, back = (read(folder / f"{p}-{q}.skf", p == q) for p, q in ((symbol_a, symbol_b), (symbol_b, symbol_a)))
    r, rotation = np.linalg.norm(vector), onto_z(vector)
    tables = []
    for file in (there, back):
        values, n = interpolate(file, r), len(file["columns"])
        tables.append([dict(zip(file["columns"], values[k * n : (k + 1) * n], strict=True)) for k in range(2)])
    out = []
    for part in range(2):
        whole = []
        for la in ls_a:
            line = []
            for lb in ls_b:
                bond = np.zeros((2 * la + 1, 2 * lb + 1))
                for m in range(-min(la, lb), min(la, lb) + 1):
                    if la <= lb:
                        value = tables[0][part]["spdf"[la] + "spdf"[lb] + str(abs(m))]
                    else:  # <l_b on B | l_a on A>, A at -z: both functions change by their parity along z
                        value = (-1) ** (la + lb) * tables[1][part]["spdf"[lb] + "spdf"[la] + str(abs(m))]
                    bond[la + m, lb + m] = value
                line.append(turn(la, rotation).T @ bond @ turn(lb, rotation))
            whole.append(line)
        out.append(np.block(whole))
    return out
