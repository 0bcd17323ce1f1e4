"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = document.getElementById("colour");
const legend = document.getElementById("legend");
if (data.categories) colour.add(new Option("category", "category"));

// The golden angle keeps successive groups apart in hue.
const hue = (group) => (group * 137.508) % 360;
const shade = (group) =>
  `hsl(${hue(group)} 70% ${(dark.matches ? 62 : 42) + 9 * ((group % 3) - 1)}%)`;

const groups = (map) =>
  colour.value === "category" ? data.category : map.codes.map((codes) => codes[0]);

function place(map, width) {
  const pad = 8, scale = (width - 2 * pad) / data.grid;
  const offset = (values) => (data.grid - Math.max(...values)) / 2;
  const left = offset(map.x), top = offset(map.y);
  map.at = map.x.map((x, i) => [pad + (x + left) * scale, width - pad - (map.y[i] + top) * scale]);
}

function draw(canvas, map, picked) {
  const width = canvas.clientWidth, ratio = devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(width * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  place(map, width);
  const of = groups(map), lit = picked === null ? null : of[picked];
  const radius = Math.max(1.6, width / 260);
  const paint = (i, alpha, size) => {
    pen.globalAlpha = alpha;
    pen.fillStyle = shade(of[i]);
    pen.beginPath();
    pen.arc(map.at[i][0], map.at[i][1], size, 0, 7);
    pen.fill();
  };
  for (let i = 0; i < of.length; i++) if (of[i] !== lit) paint(i, lit === null ? 0.75 : 0.12, radius);
  if (lit === null) return;
  for (let i = 0; i < of.length; i++) if (of[i] === lit) paint(i, 1, radius * 1.3);
  pen.strokeStyle = getComputedStyle(canvas).color;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(map.at[picked][0], map.at[picked][1], radius * 2.4, 0, 7);
  pen.stroke();
}

function nearest(map, x, y) {
  let best = null, least = 24 ** 2;
  map.at.forEach(([px, py], i) => {
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) [best, least] = [i, distance];
  });
  return best;
}

// One item is picked in every map at once: where the tokenizers put it, and with whom.
let picked = null;

const views = [...document.querySelectorAll("canvas[data-map]")].map((canvas) => {
  const index = canvas.dataset.map, map = data.maps[index];
  const output = document.getElementById(`hover${index}`);
  document.getElementById(`share${index}`).textContent =
    `${Math.round(100 * map.share)}% of the variance of z`;
  const show = () => {
    draw(canvas, map, picked);
    const category = data.categories && picked !== null && data.categories[data.category[picked]];
    output.textContent = picked === null ? "\u00a0"
      : `${map.codes[picked].join("-")}  ${data.titles[picked]}${category ? ` (${category})` : ""}`;
  };
  const pick = (event) => {
    const box = canvas.getBoundingClientRect();
    pickItem(nearest(map, event.clientX - box.left, event.clientY - box.top));
  };
  canvas.addEventListener("pointermove", pick);
  canvas.addEventListener("pointerdown", pick);
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") pickItem(null);
  });
  new ResizeObserver(show).observe(canvas);
  return show;
});

function pickItem(item) {
  if (item === picked) return;
  picked = item;
  views.forEach((show) => show());
}

function refresh() {
  const byCategory = colour.value === "category";
  const names = byCategory ? [...data.categories, "others"] : [];
  const used = new Set(byCategory ? data.category : []);
  legend.replaceChildren(
    ...names.filter((_, group) => used.has(group)).map((name) => {
      const entry = document.createElement("li"), dot = document.createElement("i");
      dot.style.background = shade(names.indexOf(name));
      entry.append(dot, name);
      return entry;
    }),
  );
  views.forEach((show) => show());
}
colour.addEventListener("change", refresh);
dark.addEventListener("change", refresh);
refresh();
