"use strict";
// Orbitals in the browser: values of contracted Gaussians on a grid, and surfaces of equal value with smooth normals.
// No part of the page is known here; tests/interfaces/test_viewer_browser.py compares the values with PySCF's.

const Orbitals = (() => {
  const BOHR = 0.529177210903; // Å, CODATA 2018
  const NEGLIGIBLE = 20; // exponents a r^2 beyond which a Gaussian is left out: 2e-9

  // Real solid harmonics r^l Y_lm as lists of [factor, x power, y power, z power], m = -l..l, without extra signs.
  const s = (v) => Math.sqrt(v / Math.PI);
  const SOLID = [
    [[[0.5 * s(1), 0, 0, 0]]],
    [
      [[s(3 / 4), 0, 1, 0]],
      [[s(3 / 4), 0, 0, 1]],
      [[s(3 / 4), 1, 0, 0]],
    ],
    [
      [[0.5 * s(15), 1, 1, 0]],
      [[0.5 * s(15), 0, 1, 1]],
      [[0.5 * s(5), 0, 0, 2], [-0.25 * s(5), 2, 0, 0], [-0.25 * s(5), 0, 2, 0]],
      [[0.5 * s(15), 1, 0, 1]],
      [[0.25 * s(15), 2, 0, 0], [-0.25 * s(15), 0, 2, 0]],
    ],
    [
      [[0.75 * s(35 / 2), 2, 1, 0], [-0.25 * s(35 / 2), 0, 3, 0]],
      [[0.5 * s(105), 1, 1, 1]],
      [[s(21 / 2), 0, 1, 2], [-0.25 * s(21 / 2), 2, 1, 0], [-0.25 * s(21 / 2), 0, 3, 0]],
      [[0.5 * s(7), 0, 0, 3], [-0.75 * s(7), 2, 0, 1], [-0.75 * s(7), 0, 2, 1]],
      [[s(21 / 2), 1, 0, 2], [-0.25 * s(21 / 2), 3, 0, 0], [-0.25 * s(21 / 2), 1, 2, 0]],
      [[0.25 * s(105), 2, 0, 1], [-0.25 * s(105), 0, 2, 1]],
      [[0.25 * s(35 / 2), 3, 0, 0], [-0.75 * s(35 / 2), 1, 2, 0]],
    ],
  ];
  const MONOMIALS = []; // of degree 0..3, in the order of the polynomials below
  for (let n = 0; n < SOLID.length; n++)
    for (let x = n; x >= 0; x--) for (let y = n - x; y >= 0; y--) MONOMIALS.push([x, y, n - x - y]);
  const PLACE = new Map(MONOMIALS.map((powers, k) => [powers.join(), k]));

  // An orbital about one atom: exponents, ascending, each with the polynomial that stands before its Gaussian.
  function centre(shells, coefficients, first) {
    const terms = new Map();
    let at = first, degree = 0;
    for (const [l, exponents, factors] of shells) {
      degree = Math.max(degree, l);
      exponents.forEach((a, k) => {
        if (!terms.has(a)) terms.set(a, new Float64Array(MONOMIALS.length));
        const polynomial = terms.get(a);
        SOLID[l].forEach((harmonic, m) => {
          for (const [f, x, y, z] of harmonic)
            polynomial[PLACE.get([x, y, z].join())] += f * factors[k] * coefficients[at + m];
        });
      });
      at += 2 * l + 1;
    }
    const ascending = [...terms.keys()].sort((a, b) => a - b);
    return { exponents: ascending, polynomials: ascending.map((a) => terms.get(a)), degree, next: at };
  }

  function polynomialAt(p, degree, x, y, z) {
    let v = p[0];
    if (degree > 0) v += p[1] * x + p[2] * y + p[3] * z;
    if (degree > 1) v += p[4] * x * x + p[5] * x * y + p[6] * x * z + p[7] * y * y + p[8] * y * z + p[9] * z * z;
    if (degree > 2)
      for (let k = 10; k < 20; k++) {
        const [a, b, c] = MONOMIALS[k];
        if (p[k] !== 0) v += p[k] * x ** a * y ** b * z ** c;
      }
    return v;
  }

  // Values [nx * ny * nz] (x slowest), Bohr^(-3/2), of one orbital. shells: element -> [[l, exponents 1/Bohr^2, factors]],
  // factors with the norm of the radial part; numbers [n]; positions [n][3] and grid {origin, step, size} in Å.
  function evaluate(shells, numbers, positions, coefficients, grid) {
    const [nx, ny, nz] = grid.size, h = grid.step / BOHR;
    const values = new Float32Array(nx * ny * nz);
    let first = 0;
    numbers.forEach((z, atom) => {
      const { exponents, polynomials, degree, next } = centre(shells[z], coefficients, first);
      first = next;
      const reach = Math.sqrt(NEGLIGIBLE / exponents[0]);
      const o = positions[atom].map((x, k) => (grid.origin[k] - x) / BOHR);
      const low = o.map((x) => Math.max(0, Math.ceil((-reach - x) / h)));
      const high = o.map((x, k) => Math.min(grid.size[k] - 1, Math.floor((reach - x) / h)));
      for (let i = low[0]; i <= high[0]; i++) {
        const x = o[0] + i * h;
        for (let j = low[1]; j <= high[1]; j++) {
          const y = o[1] + j * h, row = (i * ny + j) * nz;
          for (let k = low[2]; k <= high[2]; k++) {
            const w = o[2] + k * h, r2 = x * x + y * y + w * w;
            let sum = 0;
            for (let e = 0; e < exponents.length; e++) {
              const t = exponents[e] * r2;
              if (t > NEGLIGIBLE) break;
              sum += Math.exp(-t) * polynomialAt(polynomials[e], degree, x, y, w);
            }
            values[row + k] += sum;
          }
        }
      }
    });
    return values;
  }

  // A grid about a molecule, Å: as fine as `step`, or coarser where that has more than `most` points.
  function gridAbout(positions, margin, step, most) {
    const low = [0, 1, 2].map((k) => Math.min(...positions.map((p) => p[k])) - margin);
    const span = [0, 1, 2].map((k) => Math.max(...positions.map((p) => p[k])) + margin - low[k]);
    const h = Math.max(step, Math.cbrt((span[0] * span[1] * span[2]) / most));
    return { origin: low, step: h, size: span.map((x) => Math.ceil(x / h) + 1) };
  }

  // The value of |psi| whose surface encloses a share (0..1) of what the grid holds of psi^2.
  function valueEnclosing(values, share) {
    const bins = new Float64Array(2048);
    let largest = 0, total = 0;
    for (const v of values) largest = Math.max(largest, Math.abs(v));
    if (largest === 0) return 0;
    for (const v of values) {
      const b = Math.min(2047, Math.floor((Math.log(largest / (Math.abs(v) + 1e-30)) / 14) * 2048));
      bins[b] += v * v;
      total += v * v;
    }
    let sum = 0;
    for (let b = 0; b < 2048; b++) {
      sum += bins[b];
      if (sum >= share * total) return largest * Math.exp((-14 * (b + 1)) / 2048);
    }
    return largest * Math.exp(-14);
  }

  // Surface sign * psi = level by surface nets (Gibson 1998): one vertex in each cell that the surface crosses, at the mean
  // of its edges' crossings; normals are the gradient's. Returns vertices and normals {x, y, z} in Å, faces [3 t].
  function surface(values, grid, level, sign) {
    const [nx, ny, nz] = grid.size, vertices = [], normals = [], faces = [];
    const at = (i, j, k) => sign * values[(i * ny + j) * nz + k] - level;
    const clamp = (i, n) => Math.max(0, Math.min(n - 1, i));
    const slope = (i, j, k) => [
      at(clamp(i + 1, nx), j, k) - at(clamp(i - 1, nx), j, k),
      at(i, clamp(j + 1, ny), k) - at(i, clamp(j - 1, ny), k),
      at(i, j, clamp(k + 1, nz)) - at(i, j, clamp(k - 1, nz)),
    ];
    const own = new Int32Array(nx * ny * nz).fill(-1);
    const corner = new Float64Array(8);
    for (let i = 0; i < nx - 1; i++)
      for (let j = 0; j < ny - 1; j++)
        for (let k = 0; k < nz - 1; k++) {
          let inside = 0;
          for (let c = 0; c < 8; c++) {
            corner[c] = at(i + (c & 1), j + ((c >> 1) & 1), k + (c >> 2));
            if (corner[c] > 0) inside++;
          }
          if (inside === 0 || inside === 8) continue;
          const p = [0, 0, 0];
          let n = 0;
          for (let a = 0; a < 8; a++)
            for (let axis = 0; axis < 3; axis++) {
              const b = a | (1 << axis);
              if (b === a || corner[a] > 0 === corner[b] > 0) continue;
              const t = corner[a] / (corner[a] - corner[b]);
              for (let q = 0; q < 3; q++) p[q] += ((a >> q) & 1) + (q === axis ? t : 0);
              n++;
            }
          const [x, y, z] = p.map((v) => v / n);
          const g = [0, 0, 0];
          for (let c = 0; c < 8; c++) {
            const w = (c & 1 ? x : 1 - x) * ((c >> 1) & 1 ? y : 1 - y) * (c >> 2 ? z : 1 - z);
            if (w > 1e-6) slope(i + (c & 1), j + ((c >> 1) & 1), k + (c >> 2)).forEach((v, q) => (g[q] -= w * v));
          }
          const length = Math.hypot(...g) || 1;
          own[(i * ny + j) * nz + k] = vertices.length;
          const [ox, oy, oz] = grid.origin;
          vertices.push({ x: ox + (i + x) * grid.step, y: oy + (j + y) * grid.step, z: oz + (k + z) * grid.step });
          normals.push({ x: g[0] / length, y: g[1] / length, z: g[2] / length });
        }
    const cell = (i, j, k) => own[(i * ny + j) * nz + k];
    for (let i = 0; i < nx - 1; i++)
      for (let j = 0; j < ny - 1; j++)
        for (let k = 0; k < nz - 1; k++) {
          if (cell(i, j, k) < 0) continue;
          const here = at(i, j, k) > 0;
          const edges = [
            [i + 1, j, k, j && k, () => [cell(i, j - 1, k - 1), cell(i, j, k - 1), cell(i, j, k), cell(i, j - 1, k)]],
            [i, j + 1, k, i && k, () => [cell(i - 1, j, k - 1), cell(i - 1, j, k), cell(i, j, k), cell(i, j, k - 1)]],
            [i, j, k + 1, i && j, () => [cell(i - 1, j - 1, k), cell(i, j - 1, k), cell(i, j, k), cell(i - 1, j, k)]],
          ];
          for (const [a, b, c, interior, around] of edges) {
            if (!interior || at(a, b, c) > 0 === here) continue;
            const [p, q, r, t] = around();
            if (here) faces.push(p, q, r, p, r, t);
            else faces.push(p, r, q, p, t, r);
          }
        }
    return { vertices, normals, faces };
  }

  return { evaluate, gridAbout, surface, valueEnclosing, MOST_L: SOLID.length - 1 };
})();
