"use strict";
// The index over many structures: a table that sorts (only the rows in sight are in the document) and a scatter plot.

(() => {
  const { data, $, element, colour } = Common;
  const number = (value, digits) => (value === null ? "\u2013" : value.toFixed(digits).replace("-", "\u2212"));
  const subscripts = (formula) => formula.replace(/\d/g, (d) => "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089"[d]);

  const n = data.columns.index.length;
  const COLUMNS = [ // key, heading, digits (-1: text), heading in the plot
    ["index", "#", 0, "number in the file"], ["name", "name", -1], ["formula", "formula", -1], ["atoms", "atoms", 0, "atoms"],
    ["homo", "HOMO", 2, "HOMO / eV"], ["lumo", "LUMO", 2, "LUMO / eV"], ["gap", "gap", 2, "gap / eV"], ["doubt", "doubt", 2, "doubt / eV"],
  ].filter(([key]) => data.columns[key].some((v) => v !== null && v !== ""));
  const NUMERIC = COLUMNS.filter(([, , digits]) => digits >= 0);
  const of = (key, row) => data.columns[key][row];
  const file = (row) => data.columns.file[row];

  // ---- table -----------------------------------------------------------------------------------------------------

  const HEIGHT = 29, SPARE = 12;
  let order = [...Array(n).keys()], by = "index", down = false, here = -1;

  function arrange() {
    const words = $("search").value.trim().toLowerCase();
    order = [...Array(n).keys()];
    if (words) order = order.filter((r) => of("name", r).toLowerCase().includes(words) || of("formula", r).toLowerCase().includes(words));
    const column = data.columns[by], sign = down ? -1 : 1, collator = new Intl.Collator(undefined, { numeric: true });
    order.sort((a, b) => {
      const x = column[a], y = column[b];
      if (x === null || y === null) return (x === null) - (y === null) || a - b; // what is not known comes last
      return sign * (typeof x === "number" ? x - y : collator.compare(x, y)) || a - b;
    });
    $("count").textContent = words ? `${order.length.toLocaleString("en")} of ${n.toLocaleString("en")}` : "";
    for (const head of $("heads").children) {
      const own = head.dataset.key === by;
      head.setAttribute("aria-sort", own ? (down ? "descending" : "ascending") : "none");
      head.firstChild.textContent = head.dataset.title + (own ? (down ? " \u25bc" : " \u25b2") : "");
    }
    rows();
  }

  function rows() {
    const box = $("scroll"), first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(order.length, first + Math.ceil(box.clientHeight / HEIGHT) + 2 * SPARE);
    const pad = (count) => element("tr", { class: "pad" }, element("td", { colspan: COLUMNS.length, style: `height: ${count * HEIGHT}px` }));
    const out = [pad(first)];
    for (let place = first; place < last; place++) {
      const row = order[place], line = element("tr", { "data-row": row, class: row === here ? "here" : "" });
      for (const [key, , digits] of COLUMNS) {
        const value = of(key, row), cell = element("td", { class: digits >= 0 ? "figure" : "" });
        if (key === "formula") cell.append(subscripts(value));
        else if (key === "doubt") cell.append(element("span", { class: `grade ${data.columns.grade[row]}` }, number(value, digits)));
        else if (digits >= 0) cell.append(number(value, digits));
        else cell.append(value);
        if (key === "name" || (key === "index" && !of("name", row))) cell.replaceChildren(element("a", { href: file(row), title: value }, ...cell.childNodes));
        line.append(cell);
      }
      out.push(line);
    }
    out.push(pad(order.length - last));
    $("rows").replaceChildren(...out);
  }

  function heads() {
    for (const [key, title, digits] of COLUMNS) {
      const button = element("button", {}, title);
      button.addEventListener("click", () => {
        [by, down] = by === key ? [key, !down] : [key, key === "doubt"];
        $("scroll").scrollTop = 0;
        arrange();
      });
      const head = element("th", { class: digits >= 0 ? "figure" : "", scope: "col" }, button);
      head.dataset.key = key;
      head.dataset.title = title;
      $("heads").append(head);
    }
  }

  function csv() {
    const quoted = (value) => (typeof value === "string" ? `"${value.replace(/^(?=[=+@\-])/, "'").replaceAll('"', '""')}"` : value ?? "");
    const keys = COLUMNS.map(([key]) => key);
    const lines = order.map((row) => keys.map((key) => quoted(of(key, row))).join(","));
    const blob = new Blob([`${keys.join(",")}\n${lines.join("\n")}\n`], { type: "text/csv" });
    const link = element("a", { href: URL.createObjectURL(blob), download: "structures.csv" });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // ---- scatter plot ----------------------------------------------------------------------------------------------

  const STOPS = [[44, 106, 190], [64, 170, 160], [240, 190, 70], [214, 60, 50]]; // blue to red
  const shadeOf = (t) => {
    const x = Math.max(0, Math.min(1, t)) * (STOPS.length - 1), k = Math.min(STOPS.length - 2, Math.floor(x));
    return `rgb(${STOPS[k].map((v, c) => Math.round(v + (STOPS[k + 1][c] - v) * (x - k))).join()})`;
  };
  let places = []; // [x, y] of each row on the canvas, null where it has none

  function span(key) {
    const known = data.columns[key].filter((v) => v !== null);
    const low = Math.min(...known), high = Math.max(...known), room = (high - low) * 0.04 || 0.5;
    return [low - room, high + room];
  }
  function ticks(low, high, most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((f) => f >= rough), digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const out = [];
    for (let t = Math.ceil(low / step) * step; t <= high; t += step) out.push([t, number(t, digits)]);
    return out;
  }

  function plot() {
    const canvas = $("points"), width = $("plot").clientWidth, height = $("plot").clientHeight, scale = devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const c = canvas.getContext("2d");
    c.scale(scale, scale);
    const [kx, ky, kc] = ["across", "up", "shade"].map((id) => $(id).value), title = (key) => NUMERIC.find(([k]) => k === key)[3];
    const left = 56, bottom = height - 40, right = width - 10, top = 8;
    const [x0, x1] = span(kx), [y0, y1] = span(ky), [c0, c1] = kc === "doubt" ? [0, data.above] : span(kc);
    const x = (v) => left + ((right - left) * (v - x0)) / (x1 - x0), y = (v) => bottom - ((bottom - top) * (v - y0)) / (y1 - y0);
    c.font = '12px system-ui, "DejaVu Sans", sans-serif';
    c.strokeStyle = colour("line");
    c.fillStyle = colour("soft");
    c.textAlign = "center";
    for (const [t, words] of ticks(x0, x1, 7)) { line(x(t), top, x(t), bottom); c.fillText(words, x(t), bottom + 16); }
    c.textAlign = "right";
    for (const [t, words] of ticks(y0, y1, 7)) { line(left, y(t), right, y(t)); c.fillText(words, left - 7, y(t) + 4); }
    c.textAlign = "center";
    c.fillText(title(kx), (left + right) / 2, height - 6);
    c.save();
    c.translate(12, (top + bottom) / 2);
    c.rotate(-Math.PI / 2);
    c.fillText(title(ky), 0, 0);
    c.restore();
    const radius = n > 2000 ? 2.4 : n > 300 ? 3.2 : 5, wanted = new Set(order);
    places = data.columns.index.map((_, r) => (of(kx, r) === null || of(ky, r) === null || !wanted.has(r) ? null : [x(of(kx, r)), y(of(ky, r))]));
    const drawn = [...order].filter((r) => places[r]).sort((a, b) => (of(kc, a) ?? -Infinity) - (of(kc, b) ?? -Infinity)); // the striking ones on top
    c.globalAlpha = n > 2000 ? 0.6 : 0.85;
    for (const r of drawn) {
      const v = of(kc, r);
      c.fillStyle = v === null ? colour("empty") : shadeOf((v - c0) / (c1 - c0 || 1));
      c.beginPath();
      c.arc(...places[r], radius, 0, 2 * Math.PI);
      c.fill();
    }
    c.globalAlpha = 1;
    if (here >= 0 && places[here]) {
      c.strokeStyle = colour("ink");
      c.lineWidth = 2;
      c.beginPath();
      c.arc(...places[here], radius + 3, 0, 2 * Math.PI);
      c.stroke();
    }
    const ends = kc === "doubt" ? ["0", `${data.above} eV and more`] : [number(c0, 2), number(c1, 2)];
    $("scale").replaceChildren(ends[0], element("i", { style: `background: linear-gradient(90deg, ${STOPS.map((s) => `rgb(${s.join()})`).join()})` }), ends[1]);
    function line(a, b, d, e) { c.beginPath(); c.moveTo(a, b); c.lineTo(d, e); c.stroke(); }
  }

  function nearest(event) {
    const box = $("points").getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    let best = -1, least = 12 ** 2;
    places.forEach((p, r) => {
      if (!p) return;
      const d = (p[0] - px) ** 2 + (p[1] - py) ** 2;
      if (d < least) [best, least] = [r, d];
    });
    return best;
  }

  const ATOMS = { 1: "#dfe4e9", 5: "#e39a9a", 6: "#7c8793", 7: "#3b6fe0", 8: "#e03a3a", 9: "#54b04a", 14: "#b39b72", 15: "#e08a2e", 16: "#d8b800", 17: "#3fa34d", 35: "#9c4a2f" };
  function sketch(row) {
    const canvas = $("sketch"), c = canvas.getContext("2d"), picture = data.sketches && data.sketches[row];
    canvas.hidden = !picture;
    canvas.style.display = picture ? "block" : "none";
    if (!picture) return;
    c.clearRect(0, 0, canvas.width, canvas.height);
    const [numbers, xyz, bonds] = picture, xs = xyz.filter((_, k) => k % 3 === 0), ys = xyz.filter((_, k) => k % 3 === 1);
    const middle = (v) => (Math.min(...v) + Math.max(...v)) / 2, wide = (v) => Math.max(...v) - Math.min(...v) + 130;
    const f = Math.min(canvas.width / wide(xs), canvas.height / wide(ys), 0.55), cx = middle(xs), cy = middle(ys);
    const place = (a) => [canvas.width / 2 + f * (xyz[3 * a] - cx), canvas.height / 2 - f * (xyz[3 * a + 1] - cy)];
    c.lineWidth = Math.max(2, 17 * f);
    c.lineCap = "round";
    c.strokeStyle = colour("empty");
    for (let b = 0; b < bonds.length; b += 2) { c.beginPath(); c.moveTo(...place(bonds[b])); c.lineTo(...place(bonds[b + 1])); c.stroke(); }
    for (const a of [...numbers.keys()].sort((p, q) => xyz[3 * p + 2] - xyz[3 * q + 2])) {
      c.fillStyle = ATOMS[numbers[a]] || "#b27bd0";
      c.strokeStyle = colour("card");
      c.lineWidth = 1.5;
      c.beginPath();
      c.arc(...place(a), f * (numbers[a] === 1 ? 25 : 40), 0, 2 * Math.PI);
      c.fill();
      c.stroke();
    }
  }

  function point(event) {
    const row = event ? nearest(event) : -1, tip = $("tip");
    $("points").style.cursor = row >= 0 ? "pointer" : "";
    if (row !== here) {
      here = row;
      plot();
      for (const line of $("rows").children) line.classList.toggle("here", Number(line.dataset.row) === row);
      tip.hidden = row < 0;
      if (row < 0) return;
      sketch(row);
      const words = [element("b", {}, of("name", row) || subscripts(of("formula", row)))];
      if (of("name", row)) words.push(subscripts(of("formula", row)), element("br"));
      for (const [key, title] of NUMERIC.slice(2)) words.push(`${title} ${number(of(key, row), 2)} eV`, element("br"));
      $("words").replaceChildren(...words);
    }
    if (row < 0) return;
    const [x, y] = places[row], box = $("plot");
    tip.style.left = `${x + 190 > box.clientWidth ? x - 190 : x + 14}px`;
    tip.style.top = `${Math.max(0, Math.min(y - 40, box.clientHeight - tip.offsetHeight))}px`;
  }

  // ---- all together ----------------------------------------------------------------------------------------------

  $("title").textContent = data.title;
  $("subtitle").textContent = [`${n.toLocaleString("en")} structures`, data.model && `predicted by ${data.model}`].filter(Boolean).join(" \u00b7 ");
  heads();
  const usual = { across: "homo", up: "gap", shade: COLUMNS.some(([key]) => key === "doubt") ? "doubt" : "atoms" };
  for (const [id, key] of Object.entries(usual)) {
    for (const [k, , , title] of NUMERIC) $(id).append(element("option", { value: k }, title));
    $(id).value = NUMERIC.some(([k]) => k === key) ? key : "atoms";
    $(id).addEventListener("change", plot);
  }
  arrange();
  plot();
  $("search").addEventListener("input", () => { $("scroll").scrollTop = 0; arrange(); plot(); });
  $("csv").addEventListener("click", csv);
  $("scroll").addEventListener("scroll", () => requestAnimationFrame(rows));
  $("points").addEventListener("mousemove", point);
  $("points").addEventListener("mouseleave", () => point(null));
  $("points").addEventListener("click", (event) => { const r = nearest(event); if (r >= 0) location.href = file(r); });
  new ResizeObserver(() => { plot(); rows(); }).observe($("plot"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", plot);
  document.body.dataset.ready = "yes";
})();
