"use strict";
// One structure's page: molecule and orbital in three dimensions, levels, density of states, charges, doubt.

(() => {
  const { data, $, element, colour } = Common;
  const text = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
  const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;
  const subscripts = (formula) => formula.replace(/\d/g, (d) => "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089"[d]);

  const energies = data.energies, n = energies.length, homo = data.occupied - 1, lumo = data.occupied;
  const shares = new Int16Array(bytes(data.shares)); // [atom, level], 1e-4
  const coefficients = data.coefficients ? new Float32Array(bytes(data.coefficients)) : null; // [level, function]
  const shareOf = (atom, level) => shares[atom * n + level] * 1e-4;
  const label = (atom) => `${data.symbols[atom]}${atom + 1}`;

  function nameOf(k) {
    if (k === homo) return "HOMO";
    if (k === lumo) return "LUMO";
    return k < homo ? `HOMO\u2212${homo - k}` : `LUMO+${k - lumo}`;
  }
  const spread = (k) => (data.spread && data.spread[k] !== null ? ` \u00b1 ${text(data.spread[k], 2)}` : "");

  // ---- head, doubt, charges --------------------------------------------------------------------------------------

  function head() {
    const formula = subscripts(data.formula);
    $("title").textContent = data.name || formula;
    const parts = [data.name && formula, `${data.numbers.length} atoms`, data.model && `predicted by ${data.model}`];
    $("subtitle").textContent = parts.filter(Boolean).join(" \u00b7 ");
    if (data.index_page) $("back").append(element("a", { href: data.index_page }, "\u2190 all structures"));
    const fact = (title, value, after = "") => {
      const bold = element("b", { class: "number" }, value);
      if (after) bold.append(element("small", {}, after));
      $("facts").append(element("div", { class: "card fact" }, element("span", {}, title), bold));
      return bold;
    };
    if (homo >= 0) fact("HOMO", `${text(energies[homo], 2)} eV`, spread(homo));
    if (lumo < n) fact("LUMO", `${text(energies[lumo], 2)} eV`, spread(lumo));
    if (homo >= 0 && lumo < n) fact("gap", `${text(energies[lumo] - energies[homo], 2)} eV`);
    const doubt = data.doubt, word = { low: "low", raised: "raised", high: "too high", unknown: "not known" }[doubt.grade];
    fact("doubt", doubt.value === null ? "" : `${text(doubt.value, 2)} eV `).append(element("em", { class: `grade ${doubt.grade}` }, word));
  }

  function words() {
    $("doubt").append(element("p", { class: `grade ${data.doubt.grade}`, style: "white-space: normal" }, data.doubt.headline));
    for (const sentence of data.doubt.sentences) $("doubt").append(element("p", {}, sentence));
    for (const sentence of data.drawn) $("drawn").append(element("p", {}, sentence));
    if (data.undrawable) $("drawn").append(element("p", {}, data.undrawable));
  }

  function charges() {
    const most = Math.max(0.1, ...data.charges.map(Math.abs));
    const table = element("table");
    data.charges.forEach((q, atom) => {
      const width = (50 * Math.abs(q)) / most;
      const place = q < 0 ? `right: 50%; background: var(--negative)` : `left: 50%; background: var(--positive)`;
      const beam = element("span", { class: "beam" }, element("i", { style: `${place}; width: ${width}%` }));
      const row = element("tr", {}, element("td", {}, label(atom)));
      row.append(element("td", { class: "number" }, (q > 0 ? "+" : "") + text(q, 3)), element("td", {}, beam));
      table.append(row);
    });
    $("charges").append(table);
  }

  // ---- levels and density of states ------------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  const svg = (tag, attributes = {}, content = "") => {
    const out = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) out.setAttribute(key, value);
    if (content) out.textContent = content;
    return out;
  };
  const ELEMENTS = { H: "#E69F00", C: "#6b7480", N: "#3b82d6", O: "#d9480f", F: "#1a9c74", P: "#cc79a7", S: "#b3a000", Cl: "#3fa34d", Br: "#9c4a2f", B: "#e39a9a", Si: "#a08a6c" };
  const OTHERS = ["#56B4E9", "#8C564B", "#7F3FBF", "#17BECF"];
  const valence = energies.slice(data.core), margin = Math.max(1, 5 * data.broadening);
  const RANGES = [
    ["frontier", () => [energies[Math.max(homo, 0)] - 5, energies[Math.min(lumo, n - 1)] + 5]],
    ["valence", () => [Math.min(...valence) - margin, Math.max(...valence) + margin]],
  ];
  if (data.core > 0) RANGES.push(["with core", () => [energies[0] - 4 * margin, energies[n - 1] + 4 * margin]]);
  let range = n - data.core > 40 ? 0 : 1, chosen = -1, hovered = -1, lines = [];

  function sets() { // place in and size of each level's degenerate set (0.01 eV)
    const out = [];
    for (let k = 0; k < n; ) {
      let end = k + 1;
      while (end < n && energies[end] - energies[end - 1] <= 0.01) end++;
      for (let m = k; m < end; m++) out.push([m - k, end - k]);
      k = end;
    }
    return out;
  }
  const SETS = sets();

  function ticks(low, high, most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((f) => f >= rough);
    const out = [];
    for (let t = Math.ceil(low / step) * step; t <= high; t += step) out.push([t, step < 1 ? 1 : 0]);
    return out;
  }

  function density(low, high) {
    const points = 500, sigma = data.broadening, grid = [], total = new Float64Array(points), parts = {};
    for (const symbol of data.symbols) parts[symbol] ??= new Float64Array(points);
    for (let g = 0; g < points; g++) grid.push(low + ((high - low) * g) / (points - 1));
    for (let k = 0; k < n; k++) {
      const of = {};
      data.symbols.forEach((symbol, atom) => (of[symbol] = (of[symbol] || 0) + shareOf(atom, k)));
      for (let g = 0; g < points; g++) {
        const x = (grid[g] - energies[k]) / sigma;
        if (Math.abs(x) > 6) continue;
        const v = Math.exp(-0.5 * x * x) / (sigma * Math.sqrt(2 * Math.PI));
        total[g] += v;
        for (const symbol in of) parts[symbol][g] += of[symbol] * v;
      }
    }
    return { grid, total, parts };
  }

  function diagram() {
    const box = $("diagram"), width = box.clientWidth || 560, height = Math.max(box.clientHeight, 420);
    const [low, high] = RANGES[range][1](), top = 8, bottom = height - 36, left = 54, middle = left + (width - left) * 0.5;
    const y = (e) => bottom - ((bottom - top) * (e - low)) / (high - low);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" });
    const column = [left + 14, middle - 78];
    if (homo >= 0 && lumo < n && energies[lumo] > energies[homo])
      root.append(svg("rect", { x: left, width: width - left, y: y(energies[lumo]), height: Math.max(0, y(energies[homo]) - y(energies[lumo])), fill: "var(--gap)" }));
    for (const [t, digits] of ticks(low, high, 8)) {
      root.append(svg("line", { x1: left, x2: width, y1: y(t), y2: y(t), class: "axis", "stroke-dasharray": "2 4" }));
      root.append(svg("text", { x: left - 7, y: y(t) + 4, "text-anchor": "end", class: "soft" }, text(t, digits)));
    }
    root.append(svg("text", { x: -(top + bottom) / 2, y: 11, transform: "rotate(-90)", "text-anchor": "middle", class: "soft" }, "orbital energy / eV"));
    // density of states
    const { grid, total, parts } = density(low, high);
    const most = Math.max(...total, 1e-9) * 1.05, x0 = middle + 22, x = (v) => x0 + ((width - x0 - 4) * v) / most;
    const path = (values, all) => {
      let pen = false, out = ""; // where nothing is, no line
      grid.forEach((e, g) => {
        const seen = all || Math.abs(values[g]) > 0.004 * most;
        if (seen) out += `${pen ? "L" : "M"}${x(Math.max(values[g], -0.05 * most)).toFixed(1)} ${y(e).toFixed(1)}`;
        pen = seen;
      });
      return out;
    };
    root.append(svg("path", { d: `${path(total, true)}L${x0} ${y(high)}L${x0} ${y(low)}Z`, fill: "var(--empty)", opacity: 0.22 }));
    const others = [...OTHERS];
    Object.entries(parts).forEach(([symbol, values], k) => {
      const stroke = ELEMENTS[symbol] || others.shift() || "#888";
      root.append(svg("path", { d: path(values), fill: "none", stroke, "stroke-width": 1.6 }));
      const right = width - 6 - 26 * (Object.keys(parts).length - 1 - k);
      root.append(svg("text", { x: right, y: top + 10, "text-anchor": "end", style: `fill: ${stroke}; font-weight: 700` }, symbol));
    });
    root.append(svg("line", { x1: x0, x2: x0, y1: top, y2: bottom, class: "axis" }));
    const narrow = width < 460; // a phone: the long captions would run into each other
    root.append(svg("text", { x: x0, y: height - 20, class: "soft" }, narrow ? "states by element" : "density of states by element"));
    const unit = `${narrow ? "" : "levels "}per eV, \u03c3 = ${data.broadening} eV`;
    root.append(svg("text", { x: x0, y: height - 5, class: "soft" }, narrow ? unit : `(${unit})`));
    // levels
    const place = (k) => {
      const [at, size] = SETS[k], piece = (column[1] - column[0]) / size, space = size > 1 ? Math.min(4, piece * 0.15) : 0;
      return [column[0] + at * piece + (at ? space : 0), column[0] + (at + 1) * piece - (at + 1 < size ? space : 0)];
    };
    lines = [];
    for (let k = 0; k < n; k++) {
      const e = energies[k];
      if (e < low || e > high) continue;
      const [a, b] = place(k);
      if (data.spread && data.spread[k]) {
        const s = data.spread[k], above = y(Math.min(high, e + s)), under = y(Math.max(low, e - s));
        root.append(svg("rect", { x: a, width: b - a, y: above, height: Math.max(0.5, under - above), fill: "var(--band)" }));
      }
      const line = svg("line", { x1: a, x2: b, y1: y(e), y2: y(e), class: `level ${k < data.occupied ? "occupied" : "empty"}`, "data-level": k });
      lines.push({ k, line, a, b, y: y(e) });
      root.append(line);
    }
    const names = [];
    if (lumo < n) names.push([lumo, y(energies[lumo]) - 3]);
    if (homo >= 0) names.push([homo, y(energies[homo]) + 12]);
    for (const [k, at] of names)
      if (energies[k] >= low && energies[k] <= high)
        root.append(svg("text", { x: column[1] + 6, y: at, style: "font-weight: 650" }, `${nameOf(k)} ${text(energies[k], 2)}`));
    const below = energies.filter((e) => e < low).length, above = energies.filter((e) => e > high).length;
    const hidden = [below && `${below} level${below > 1 ? "s" : ""} below`, above && `${above} above`].filter(Boolean).join(", ");
    if (hidden) root.append(svg("text", { x: left, y: height - 20, class: "soft" }, narrow ? hidden.replace(/ levels?/, "") : `${hidden}, not shown`));
    root.append(svg("text", { x: left, y: height - 5, class: "soft", id: "hover" }, !coefficients ? "" : narrow ? "tap a level" : "click a level to draw its orbital"));
    const nearest = (event) => {
      const r = root.getBoundingClientRect(), px = ((event.clientX - r.left) * width) / r.width, py = ((event.clientY - r.top) * height) / r.height;
      let best = -1, least = Infinity;
      if (px > middle + 10) return -1;
      for (const { k, a, b, y: at } of lines) {
        const d = Math.abs(py - at) + 0.02 * Math.max(a - px, px - b, 0) + (px >= a && px <= b ? 0 : 0.01);
        if (d < least) [best, least] = [k, d];
      }
      return least < 16 ? best : -1;
    };
    root.addEventListener("mousemove", (event) => hover(nearest(event)));
    root.addEventListener("mouseleave", () => hover(-1));
    root.addEventListener("click", (event) => { const k = nearest(event); if (k >= 0) select(k); });
    box.replaceChildren(root);
    mark();
  }

  const describe = (k) => `${nameOf(k)}  ${text(energies[k], 3)}${spread(k)} eV`;
  function hover(k) {
    if (k === hovered) return;
    hovered = k;
    $("diagram").style.cursor = k >= 0 ? "pointer" : "";
    const shown = k >= 0 ? k : chosen;
    if ($("hover")) $("hover").textContent = shown >= 0 ? describe(shown) : "";
    mark();
  }
  function mark() {
    for (const { k, line } of lines) {
      line.classList.toggle("hover", k === hovered);
      line.classList.toggle("chosen", k === chosen);
    }
  }
  function ranges() {
    RANGES.forEach(([name], k) => {
      const button = element("button", { class: k === range ? "on" : "" }, name);
      button.addEventListener("click", () => {
        range = k;
        [...$("ranges").children].forEach((other, m) => other.classList.toggle("on", m === k));
        diagram();
      });
      $("ranges").append(button);
    });
  }

  // ---- three dimensions ------------------------------------------------------------------------------------------

  let viewer = null, grid = null, drawn = [], shownLabels = false, start = null;
  const cache = new Map(); // level -> values on the grid, the last few

  const holds = (k) => coefficients && k >= data.first && (k - data.first + 1) * n <= coefficients.length;

  function valuesOf(k) {
    if (cache.has(k)) return cache.get(k);
    const row = (k - data.first) * n;
    const values = Orbitals.evaluate(data.functions, data.numbers, data.positions, coefficients.subarray(row, row + n), grid);
    cache.set(k, values);
    if (cache.size > 6) cache.delete(cache.keys().next().value);
    return values;
  }

  function draw() {
    const share = Number($("share").value) / 100;
    let level = 0;
    if (viewer) {
      for (const shape of drawn) viewer.removeShape(shape);
      drawn = [];
    }
    if (holds(chosen)) {
      const values = valuesOf(chosen);
      level = Orbitals.valueEnclosing(values, share);
      for (const [sign, name] of viewer ? [[1, "positive"], [-1, "negative"]] : []) {
        const mesh = Orbitals.surface(values, grid, level, sign);
        if (mesh.faces.length)
          drawn.push(viewer.addCustom({ vertexArr: mesh.vertices, normalArr: mesh.normals, faceArr: mesh.faces, color: colour(name), opacity: 0.82 }));
      }
    }
    if (viewer) viewer.render();
    caption(level, share);
    document.body.dataset.level = chosen;
  }

  function caption(level, share) {
    const box = $("caption");
    if (chosen < 0) {
      box.replaceChildren(element("strong", {}, "The molecule"), element("p", {}, "Drag to turn, scroll to zoom; choose a level to see its orbital."));
      return;
    }
    const occupied = chosen < data.occupied ? "holds two electrons" : "empty";
    const most = data.symbols.map((_, atom) => [shareOf(atom, chosen), atom]).sort((a, b) => b[0] - a[0]);
    const on = most.filter(([v], k) => k < 5 && v >= 0.04).map(([v, atom]) => `${label(atom)} ${Math.round(100 * v)} %`).join(", ");
    const first = element("div", {}, element("strong", { class: "number" }, describe(chosen)));
    first.append(element("span", { class: "soft" }, `  \u00b7  level ${chosen + 1} of ${n}, ${occupied}`));
    box.replaceChildren(first);
    if (level) {
      const line = element("p", {});
      for (const name of ["positive", "negative"]) line.append(element("span", { class: "sign", style: `background: var(--${name})` }), " ");
      line.append(`|\u03c8| = ${level.toPrecision(2)} Bohr`, element("sup", {}, "\u22123/2"), `, encloses ${Math.round(100 * share)} %`);
      box.append(line);
    }
    if (coefficients && !holds(chosen)) box.append(element("p", {}, "not in this page: of molecules of this size it holds the orbitals about the gap"));
    if (on) box.append(element("p", {}, `mostly on ${on} (Mulliken)`));
  }

  function select(k) {
    chosen = k;
    $("homo").classList.toggle("on", k === homo);
    $("lumo").classList.toggle("on", k === lumo);
    $("lower").disabled = k === 0;
    $("higher").disabled = k === n - 1;
    if ($("hover")) $("hover").textContent = k >= 0 ? describe(k) : "";
    mark();
    draw();
  }
  const step = (by) => select(chosen < 0 ? (by < 0 ? homo : Math.min(lumo, n - 1)) : Math.max(0, Math.min(n - 1, chosen + by)));

  function toggleLabels() {
    shownLabels = !shownLabels;
    $("labels").classList.toggle("on", shownLabels);
    viewer.removeAllLabels();
    if (shownLabels)
      data.positions.forEach(([x, y, z], atom) => {
        const q = data.charges[atom];
        viewer.addLabel(`${label(atom)} ${q > 0 ? "+" : ""}${text(q, 2)}`, {
          position: { x, y, z }, fontSize: 12, fontColor: colour("ink"), backgroundColor: colour("card"), backgroundOpacity: 0.75, alignment: "center", inFront: true,
        });
      });
    viewer.render();
  }

  // How far away the molecule stands so that it fills the picture: 3Dmol's camera has a field of view of 20 degrees.
  function distance() {
    const centre = [0, 1, 2].map((k) => data.positions.reduce((sum, p) => sum + p[k], 0) / data.positions.length);
    const [qx, qy, qz, qw] = data.view, box = $("canvas"), aspect = box.clientWidth / box.clientHeight;
    let radius = 0;
    for (const p of data.positions) {
      const [x, y, z] = p.map((v, k) => v - centre[k]);
      const tx = 2 * (qy * z - qz * y), ty = 2 * (qz * x - qx * z), tz = 2 * (qx * y - qy * x);
      const across = x + qw * tx + qy * tz - qz * ty, up = y + qw * ty + qz * tx - qx * tz;
      radius = Math.max(radius, (Math.abs(across) + 1.5) / aspect, Math.abs(up) + 1.5);
    }
    return 150 - (1.06 * radius) / Math.tan(Math.PI / 18);
  }

  function scene() {
    const probe = document.createElement("canvas");
    if (!probe.getContext("webgl2") && !probe.getContext("webgl")) throw new Error("no WebGL"); // 3Dmol.js is silent then
    const lines = data.symbols.map((symbol, k) => `${symbol} ${data.positions[k].join(" ")}`);
    viewer = $3Dmol.createViewer($("canvas"), { backgroundColor: colour("card"), antialias: true });
    viewer.addModel(`${lines.length}\n\n${lines.join("\n")}\n`, "xyz");
    const carbon = { prop: "elem", map: { ...$3Dmol.elementColors.Jmol, C: 0x8b949e, H: 0xe9edf1 } };
    viewer.setStyle({}, { stick: { radius: 0.1, colorscheme: carbon }, sphere: { scale: 0.22, colorscheme: carbon } });
    viewer.zoomTo();
    viewer.setView([...viewer.getView().slice(0, 3), distance(), ...data.view]);
    start = viewer.getView();
    viewer.render();
    $("note").remove();
  }

  function controls() {
    $("homo").addEventListener("click", () => select(homo));
    $("lumo").addEventListener("click", () => select(lumo));
    $("lower").addEventListener("click", () => step(-1));
    $("higher").addEventListener("click", () => step(1));
    $("none").addEventListener("click", () => select(-1));
    $("homo").disabled = homo < 0;
    $("lumo").disabled = lumo >= n;
    $("share").addEventListener("input", draw);
    $("diagram").addEventListener("keydown", (event) => {
      const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (by) { event.preventDefault(); step(by); }
    });
    for (const id of ["turn", "labels", "reset", "save"]) $(id).disabled = !viewer;
    if (!viewer) return;
    let turning = false;
    const turn = (on) => { turning = on; viewer.spin(on ? "vy" : false, 0.6); $("turn").classList.toggle("on", on); };
    $("turn").addEventListener("click", () => turn(!turning));
    $("labels").addEventListener("click", toggleLabels);
    $("reset").addEventListener("click", () => { turn(false); viewer.setView(start); viewer.render(); });
    $("save").addEventListener("click", () => {
      const name = `${(data.name || data.formula).replace(/[^A-Za-z0-9+-]+/g, "_")}_${chosen < 0 ? "molecule" : nameOf(chosen).replace("\u2212", "-")}.png`;
      element("a", { href: viewer.pngURI(), download: name }).click();
    });
    new ResizeObserver(() => { viewer.resize(); }).observe($("canvas"));
  }

  async function library() { // unpacked where it is inside the page; a page of many has it from its shared script
    if (window.$3Dmol) return;
    const packed = new Blob([bytes($("library").textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(element("script", {}, await new Response(packed).text()));
  }

  async function begin() {
    head();
    words();
    charges();
    ranges();
    diagram();
    new ResizeObserver(() => diagram()).observe($("diagram"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (viewer) viewer.setBackgroundColor(colour("card")); diagram(); draw(); });
    if (coefficients) grid = Orbitals.gridAbout(data.positions, data.margin, 0.13, 450000);
    try {
      await library();
      scene();
    } catch (error) {
      viewer = null;
      const why = window.DecompressionStream || window.$3Dmol ? "this browser has no WebGL" : "this browser is too old (no DecompressionStream)";
      $("note").textContent = `No picture in three dimensions: ${why}. Levels, density of states and charges are complete.`;
    }
    controls();
    select(coefficients && homo >= 0 ? homo : -1);
    if (!coefficients) for (const id of ["homo", "lumo", "lower", "higher", "none", "share"]) $(id).disabled = true;
    document.body.dataset.ready = viewer ? "yes" : "without WebGL";
  }

  window.page = { data, coefficients, select, begun: begin() };
})();
