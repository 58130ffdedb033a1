// The page around it: views, sheets, search, light and dark.
const results = el("ul", { id: "results", role: "listbox", hidden: true });
const field = el("input", {
  id: "search", type: "search", placeholder: "Search: workload, namespace, policy, port, address", "aria-label": "Search",
  autocomplete: "off", role: "combobox", "aria-expanded": "false", "aria-controls": "results",
});
const picker = el("select", { id: "sheets", "aria-label": "Sheet" });
const begin = sheets.get("begin");
const same = data.sheets.find((other) => other.key !== "begin" && JSON.stringify(other.items) === JSON.stringify(begin.items) && other.blocks.length === begin.blocks.length);
for (const its of data.sheets) {
  if (its.key === "begin" && same) continue;
  picker.append(el("option", { value: its.key }, its.key.startsWith("space-") ? `Namespace ${its.name}` : its.name));
}
picker.value = (same ?? begin).key;
picker.addEventListener("change", () => { closePanel(); showView("map"); showSheet(picker.value); });
document.addEventListener("sheet", (event) => { picker.value = event.detail === "begin" && same ? same.key : event.detail; });

const views = ["map", "matrix"].map((name) =>
  el("button", { "aria-pressed": String(name === "map"), onclick: () => showView(name) }, name === "map" ? "Map" : "Matrix"));
const showView = (name) => {
  map.hidden = name !== "map";
  matrix.hidden = legend.hidden = name !== "matrix";
  tools.hidden = name !== "map";
  views.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent.toLowerCase() === name)));
  if (name === "matrix") arrange(); else fit();
};

const root = document.documentElement;
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
const theme = el("button", { title: "Light or dark", "aria-label": "Light or dark", onclick: () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  paint();
} }, "◐");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint());

const tools = el("div", { id: "tools" },
  el("button", { title: "Closer (+)", "aria-label": "Closer", onclick: () => setZoom(zoom * 1.2) }, "+"),
  el("button", { title: "Farther (-)", "aria-label": "Farther", onclick: () => setZoom(zoom / 1.2) }, "−"),
  el("button", { title: "Fit (0)", "aria-label": "Fit", onclick: fit }, "⤢"));

// What a text may mean: [kind, name, what to do].
const search = (text) => {
  const words = text.trim().toLowerCase();
  if (!words) return [];
  const found = [];
  const port = /^(?:(tcp|udp|sctp)[ /:]?)?(\d{1,5})$/.exec(words);
  if (port) {
    const protocol = (port[1] ?? "").toUpperCase();
    const holding = (part) => {
      const numbers = new Set(data.contents.flatMap((content, at) =>
        content.kind !== "everything" && holdsPort(part(content.full), protocol, Number(port[2])) ? [at] : []));
      return data.rows.flatMap((row, dst) => (row.s >= 0 && data.rows.some((_, src) => numbers.has(cell(src, dst))) ? [dst] : []));
    };
    // What depends on a missing fact is no rule that lets it in.
    const rows = holding(certain);
    const open = holding(perhaps).filter((row) => !rows.includes(row));
    const name = `${protocol || "port"} ${port[2]}`;
    if (rows.length) found.push(["port", `${name}: let in by ${rows.length}`, () => showRows("Let it in by a rule", text, rows)]);
    if (open.length) found.push(["port", `${name}: perhaps by ${open.length}`, () => showRows("Perhaps let it in: a fact is missing", text, open)]);
  }
  const address = /^\d+\.\d+\.\d+\.\d+$/.test(words);
  data.rows.forEach((row, at) => {
    if (row.s < 0 && (address ? holdsAddress(row.l, words) : `${row.n} ${row.l}`.toLowerCase().includes(words))) {
      found.push(["outside", row.n, () => showRow(at)]);
    }
  });
  data.spaces.forEach((name, space) => {
    if (name.toLowerCase().includes(words)) found.push(["namespace", name, () => { goto(data.rows.findIndex((row) => row.s === space)); showSpace(space); }]);
  });
  data.rows.forEach((row, at) => {
    if (row.s >= 0 && nameOf(at).toLowerCase().includes(words)) found.push([row.k, nameOf(at), () => { goto(at); showRow(at); }]);
  });
  data.policies.forEach((policy, at) => {
    if (`${policy.n} ${policy.at}`.toLowerCase().includes(words)) found.push(["policy", policy.n, () => showPolicy(at)]);
  });
  data.rows.forEach((row, at) => {
    if (row.s >= 0 && !nameOf(at).toLowerCase().includes(words) && row.l.toLowerCase().includes(words)) {
      found.push(["label", `${nameOf(at)} (${row.l})`, () => { goto(at); showRow(at); }]);
    }
  });
  return found;
};

// Where the sheet does not show a workload by itself, its namespace's does.
const goto = (row) => {
  if (matrix.hidden === false) {
    folded.delete(data.rows[row].s);
    arrange();
    const at = lines.findIndex((line) => line.row === row);
    matrix.scrollTo(matrix.scrollLeft, Math.max(0, at * SIZE - 80));
    return;
  }
  const alone = sheet.items.some((item) => item[0] <= row && item[1] >= row && item.length === 2 && item[0] === item[1]);
  if (!alone && sheetOf(row)) showSheet(sheetOf(row));
};

let at = -1;
const listResults = () => {
  const found = search(field.value);
  at = -1;
  results.replaceChildren(...found.slice(0, 40).map(([kind, name, act], index) =>
    el("li", { role: "option", id: `result-${index}`, onclick: () => { hideResults(); act(); } }, el("span", { class: "kind" }, kind), name)));
  if (field.value.trim() && !found.length) results.append(el("li", { class: "quiet" }, "Nothing of that name."));
  if (found.length > 40) results.append(el("li", { class: "quiet" }, `and ${found.length - 40} more`));
  results.hidden = !field.value.trim();
  field.setAttribute("aria-expanded", String(!results.hidden));
};
const hideResults = () => { results.hidden = true; field.setAttribute("aria-expanded", "false"); };
field.addEventListener("input", listResults);
field.addEventListener("focus", () => { if (field.value.trim()) listResults(); });
field.addEventListener("keydown", (event) => {
  const options = [...results.querySelectorAll("[role=option]")];
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    at = Math.min(options.length - 1, Math.max(0, at + (event.key === "ArrowDown" ? 1 : -1)));
    options.forEach((option, index) => option.setAttribute("aria-selected", String(index === at)));
    options[at]?.scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", options[at]?.id ?? "");
  } else if (event.key === "Enter") (options[at] ?? options[0])?.click();
  else if (event.key === "Escape") { hideResults(); event.stopPropagation(); }
});
document.addEventListener("click", (event) => { if (!event.target.closest("#find")) hideResults(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closePanel();
  if (event.key === "/" && document.activeElement !== field) { event.preventDefault(); field.focus(); }
});
window.addEventListener("resize", () => { if (matrix.hidden) fit(); else paint(); });

document.body.prepend(el("header", {},
  el("h1", {}, data.title),
  el("div", { class: "switch", role: "group", "aria-label": "View" }, ...views),
  picker,
  el("div", { id: "find" }, field, results),
  theme));
stage.append(matrix, legend, panel, tools);
root.classList.add("live");
map.setAttribute("tabindex", "0");
map.setAttribute("aria-label", "Map. Tab goes to lines and boxes, Enter asks.");
prepare(map.firstElementChild);
fit();
