// The map: the sheets that were drawn, zoom, and what is pointed at.
const stage = document.getElementById("stage");
const map = document.getElementById("map");
const sheets = new Map(data.sheets.map((sheet) => [sheet.key, sheet]));
const drawn = new Map([["begin", map.firstElementChild]]);
for (const template of document.querySelectorAll("template[data-sheet]")) {
  drawn.set(template.dataset.sheet, template.content.firstElementChild);
}
let sheet = sheets.get("begin");
let zoom = 1;
let chosen = [];

const sheetOf = (row) => {
  const key = `space-${data.rows[row].s}`;
  return drawn.has(key) ? key : undefined;
};

const setZoom = (wanted) => {
  const svg = map.firstElementChild;
  zoom = Math.min(3, Math.max(0.2, wanted));
  svg.style.width = `${svg.viewBox.baseVal.width * zoom}px`;
  svg.style.height = `${svg.viewBox.baseVal.height * zoom}px`;
};
const fit = () => {
  const box = map.firstElementChild.viewBox.baseVal;
  const wide = map.clientWidth / box.width;
  // The tools stand below, and not on the legend.
  const high = (map.clientHeight - 62) / box.height;
  // All of it, where that can still be read; else by its width, else by scrolling.
  const all = Math.min(wide, high);
  setZoom(Math.min(1.15, all >= 0.7 ? all : Math.max(wide, 0.62)));
};

const showSheet = (key) => {
  if (!drawn.has(key)) return;
  sheet = sheets.get(key);
  map.replaceChildren(drawn.get(key));
  prepare(map.firstElementChild);
  fit();
  map.scrollTo(0, 0);
  mark();
  document.dispatchEvent(new CustomEvent("sheet", { detail: key }));
};

// Lines and boxes can be reached with the keyboard, and say what they are.
const prepare = (svg) => {
  if (svg.dataset.ready) return;
  svg.dataset.ready = "yes";
  for (const part of svg.querySelectorAll("[data-block], [data-item], [data-set], .headbox")) {
    part.setAttribute("tabindex", "0");
    part.setAttribute("role", "button");
    part.setAttribute("aria-label", part.querySelector("title")?.textContent ?? "");
  }
};

const rowsOfItem = (item) => expand(sheet.items[item]);

// Fades what has nothing to do with the chosen rows.
const mark = () => {
  const svg = map.firstElementChild;
  svg.classList.toggle("chosen", chosen.length > 0);
  if (!chosen.length) return;
  const rows = new Set(chosen);
  const hit = (items) => items.some((item) => rowsOfItem(item).some((row) => rows.has(row)));
  const near = new Set();
  for (const net of svg.querySelectorAll("[data-block]")) {
    const [, from, to] = sheet.blocks[net.dataset.block];
    const is = hit(from) || hit(to);
    net.classList.toggle("hit", is);
    if (is) [...from, ...to].forEach((item) => near.add(item));
  }
  for (const box of svg.querySelectorAll("[data-item]")) {
    const item = Number(box.dataset.item);
    box.classList.toggle("hit", hit([item]));
    box.classList.toggle("near", near.has(item));
  }
  for (const box of svg.querySelectorAll("[data-set]")) {
    box.classList.toggle("near", sheet.sets[box.dataset.set].some((item) => near.has(item)));
  }
};
document.addEventListener("chosen", (event) => { chosen = event.detail; mark(); });
document.addEventListener("cleared", () => { chosen = []; mark(); markNet(); });

const markNet = (net) => {
  map.querySelectorAll(".net.picked").forEach((other) => other.classList.remove("picked"));
  net?.classList.add("picked");
  if (net) net.parentNode.insertBefore(net, net.parentNode.querySelector(".frame"));
};

const pick = (part) => {
  if (part.dataset.block !== undefined) {
    chosen = [];
    mark();
    markNet(part);
    showBlock(sheet, Number(part.dataset.block));
    part.focus({ preventScroll: true });
  } else if (part.dataset.set !== undefined) {
    const items = sheet.sets[part.dataset.set];
    showRows("These", sheet.set_names[part.dataset.set], items.flatMap(rowsOfItem));
  } else if (part.dataset.space !== undefined) {
    showSpace(Number(part.dataset.space));
  } else {
    const item = Number(part.dataset.item);
    const rows = rowsOfItem(item);
    if (rows.length === 1 && !sheet.names[item].startsWith("namespace ")) showRow(rows[0]);
    else showSpace(data.rows[rows[0]].s);
  }
};

const showSpace = (space) => {
  const rows = data.rows.flatMap((row, at) => (row.s === space ? [at] : []));
  const key = `space-${space}`;
  showRows("Namespace", data.spaces[space], rows);
  if (drawn.has(key) && sheet.key !== key) {
    panel.querySelector("h2").after(el("button", { class: "action", onclick: () => { closePanel(); showSheet(key); } }, "Open this namespace"));
  } else if (sheet.key === key) {
    panel.querySelector("h2").after(el("button", { class: "action", onclick: () => { closePanel(); showSheet(sheets.has("spaces") ? "spaces" : "begin"); } }, "Back to all"));
  }
};

let dragged = false;
map.addEventListener("click", (event) => {
  if (dragged) return;
  const part = event.target.closest("[data-block], [data-item], [data-set], .headbox, .space");
  if (part) pick(part); else closePanel();
});
map.addEventListener("dblclick", (event) => {
  const part = event.target.closest("[data-item]");
  const space = part ? data.rows[rowsOfItem(Number(part.dataset.item))[0]].s : -1;
  if (space >= 0 && drawn.has(`space-${space}`)) { closePanel(); showSheet(`space-${space}`); }
});
map.addEventListener("keydown", (event) => {
  const part = event.target.closest("[tabindex]");
  if (part && part !== map && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); pick(part); }
  if (event.key === "+" || event.key === "-") setZoom(zoom * (event.key === "+" ? 1.2 : 1 / 1.2));
  if (event.key === "0") fit();
});
map.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  setZoom(zoom * Math.exp(-event.deltaY / 300));
}, { passive: false });
map.addEventListener("pointerdown", (event) => {
  dragged = false;
  if (event.button !== 0 || event.pointerType === "touch") return;
  const from = { x: event.clientX, y: event.clientY, left: map.scrollLeft, top: map.scrollTop };
  const move = (now) => {
    const [dx, dy] = [now.clientX - from.x, now.clientY - from.y];
    if (Math.abs(dx) + Math.abs(dy) > 4) dragged = true;
    map.scrollTo(from.left - dx, from.top - dy);
  };
  const stop = () => {
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", stop);
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", stop);
});
