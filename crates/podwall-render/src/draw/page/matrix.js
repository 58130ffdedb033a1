// The matrix: every row against every row, on a canvas of which only what is seen is drawn.
const SIZE = 20;
const matrix = el("div", { id: "matrix", hidden: true });
const canvas = el("canvas", { tabindex: "0", role: "grid", "aria-label": "Matrix: who can reach whom. Arrow keys move, Enter asks." });
const spacer = el("div", { class: "spacer" });
const speech = el("p", { class: "speech", "aria-live": "polite" });
matrix.append(canvas, spacer, speech);

// What the colours mean; only those that there are.
const meanings = data.compared
  ? { added: "new", changed: "other ports than before", removed: "gone", same: "as before" }
  : { everything: "everything passes", some: "some ports pass", perhaps: "depends on a fact that is missing" };
const legend = el("p", { id: "legend", hidden: true }, "A row reaches a column.", ...Object.entries(meanings)
  .filter(([name]) => data.contents.some((content) => (data.compared ? content.change : content.kind) === name))
  .map(([name, says]) => el("span", {}, el("i", { class: name }), says)));
// Only a filled cell can be cut in half: what differs, and what depends on a fact, is drawn whole.
if (!data.compared && data.contents.some((content) => content.partly && content.kind !== "perhaps")) legend.append(el("span", {}, el("i", { class: "partly" }), "between some of them only"));
if (many > 120) legend.append(el("span", {}, "smaller: fewer of a namespace's pairs"));

const folded = new Set(many > 120 ? data.spaces.keys() : []);
let lines = [];      // what is shown: {space, rows, head} or {row, rows}
let cursor = { x: 0, y: 0 };
let pointed = null;
const sums = new Map();

const arrange = () => {
  lines = [];
  data.spaces.forEach((name, space) => {
    const rows = data.rows.flatMap((row, at) => (row.s === space ? [at] : []));
    lines.push({ space, rows, head: true });
    if (!folded.has(space)) rows.forEach((row) => lines.push({ row, rows: [row] }));
  });
  data.rows.forEach((row, at) => { if (row.s < 0) lines.push({ row: at, rows: [at] }); });
  sums.clear();
  const [left, top] = margins();
  spacer.style.width = `${left + lines.length * SIZE + 40}px`;
  spacer.style.height = `${top + lines.length * SIZE + 40}px`;
  paint();
};

const margins = () => (matrix.clientWidth < 600 ? [128, 104] : [232, 148]);

// What is between two lines: one content, or which kinds there are in a folded namespace.
const between = (a, b) => {
  if (a.row !== undefined && b.row !== undefined) return { content: cell(a.row, b.row), whole: true };
  if ((a.head && !folded.has(a.space)) || (b.head && !folded.has(b.space))) return null;
  const key = `${a.row ?? `s${a.space}`} ${b.row ?? `s${b.space}`}`;
  if (!sums.has(key)) {
    const found = new Map();
    let all = 0;
    for (const src of a.rows) for (const dst of b.rows) {
      if (src === dst) continue;
      all += 1;
      const number = cell(src, dst);
      if (number) found.set(number, (found.get(number) ?? 0) + 1);
    }
    sums.set(key, { found, all });
  }
  return sums.get(key);
};

const shade = (sum) => {
  if (!sum) return null;
  const numbers = sum.found ? [...sum.found.keys()] : [sum.content].filter(Boolean);
  if (!numbers.length) return null;
  const contents = numbers.map((number) => data.contents[number]);
  if (data.compared) {
    const changes = new Set(contents.map((content) => content.change));
    const name = ["added", "changed", "removed"].find((change) => changes.has(change)) ?? "same";
    return { name, part: 1 };
  }
  const kinds = ["everything", "some", "perhaps"];
  const name = kinds.find((kind) => contents.some((content) => content.kind === kind));
  const passing = sum.found ? [...sum.found.values()].reduce((all, n) => all + n, 0) / sum.all : 1;
  return { name, part: passing, partly: contents.some((content) => content.partly) };
};

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const shown = () => {
  const [left, top] = margins();
  const first = (scroll) => Math.max(0, Math.floor(scroll / SIZE));
  const last = (scroll, room) => Math.min(lines.length, Math.ceil((scroll + room) / SIZE));
  return {
    left, top,
    x0: first(matrix.scrollLeft), x1: last(matrix.scrollLeft, matrix.clientWidth - left),
    y0: first(matrix.scrollTop), y1: last(matrix.scrollTop, matrix.clientHeight - top),
  };
};

const label = (line) => (line.head ? `${folded.has(line.space) ? "▸" : "▾"} ${data.spaces[line.space]} (${line.rows.length})` : data.rows[line.row].n);

const fitText = (pen, text, room) => {
  if (pen.measureText(text).width <= room) return text;
  let keep = text.length;
  while (keep > 1 && pen.measureText(`${text.slice(0, keep)}…`).width > room) keep -= 1;
  return `${text.slice(0, keep)}…`;
};

const paint = () => {
  if (matrix.hidden) return;
  const [wide, high] = [matrix.clientWidth, matrix.clientHeight];
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(wide * scale) || canvas.height !== Math.round(high * scale)) {
    canvas.width = Math.round(wide * scale);
    canvas.height = Math.round(high * scale);
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${high}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  const paints = Object.fromEntries(["ground", "space", "edge", "text", "note", "everything", "some", "perhaps",
    "added", "removed", "changed", "same", "pale", "cross"].map((name) => [name, colour(name)]));
  pen.fillStyle = paints.ground;
  pen.fillRect(0, 0, wide, high);
  const { left, top, x0, x1, y0, y1 } = shown();
  const at = (x, y) => [left + x * SIZE - matrix.scrollLeft, top + y * SIZE - matrix.scrollTop];
  const chosenRows = new Set(chosen);
  const lit = (line) => line.rows.some((row) => chosenRows.has(row));
  pen.save();
  pen.beginPath();
  pen.rect(left, top, wide - left, high - top);
  pen.clip();
  for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) {
    const [px, py] = at(x, y);
    const [a, b] = [lines[y], lines[x]];
    const head = (a.head && !folded.has(a.space)) || (b.head && !folded.has(b.space));
    pen.fillStyle = head ? paints.pale : pointed && (pointed.x === x || pointed.y === y) ? paints.pale : paints.space;
    pen.fillRect(px, py, SIZE - 1, SIZE - 1);
    const fill = shade(between(a, b));
    if (fill) {
      pen.fillStyle = paints[fill.name];
      const size = fill.part >= 1 ? SIZE - 5 : 4 + (SIZE - 9) * Math.sqrt(fill.part);
      const inset = (SIZE - 1 - size) / 2;
      if (fill.name === "perhaps") {
        pen.strokeStyle = paints.perhaps;
        pen.strokeRect(px + inset + 1, py + inset + 1, size - 2, size - 2);
      } else if (fill.partly && fill.part >= 1) {
        pen.beginPath();
        pen.moveTo(px + inset, py + inset + size);
        pen.lineTo(px + inset + size, py + inset);
        pen.lineTo(px + inset + size, py + inset + size);
        pen.fill();
      } else pen.fillRect(px + inset, py + inset, size, size);
    }
  }
  pen.strokeStyle = paints.cross;
  pen.lineWidth = 2;
  const [cx, cy] = at(cursor.x, cursor.y);
  if (document.activeElement === canvas) pen.strokeRect(cx - 1, cy - 1, SIZE + 1, SIZE + 1);
  pen.restore();
  const text = (line, room, draw) => {
    pen.font = line.head ? "600 12px system-ui, sans-serif" : "12px system-ui, sans-serif";
    pen.fillStyle = lit(line) ? paints.cross : line.head ? paints.text : line.row !== undefined && isOutside(line.row) ? paints.note : paints.text;
    draw(fitText(pen, label(line), room));
  };
  pen.save();
  pen.beginPath();
  pen.rect(0, top, left, high - top);
  pen.clip();
  for (let y = y0; y < y1; y++) text(lines[y], left - 16 - (lines[y].head ? 0 : 14), (words) => pen.fillText(words, lines[y].head ? 8 : 22, at(0, y)[1] + 14));
  pen.restore();
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, wide - left, top);
  pen.clip();
  for (let x = x0; x < x1; x++) text(lines[x], top - 14, (words) => {
    pen.save();
    pen.translate(at(x, 0)[0] + 14, top - 6);
    pen.rotate(-Math.PI / 2);
    pen.fillText(words, 0, 0);
    pen.restore();
  });
  pen.restore();
  pen.fillStyle = paints.note;
  pen.font = "11px system-ui, sans-serif";
  pen.fillText("from ↓   to →", 8, top - 8);
};

const spot = (event) => {
  const box = canvas.getBoundingClientRect();
  const { left, top } = shown();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  return {
    x: x < left ? -1 : Math.floor((x - left + matrix.scrollLeft) / SIZE),
    y: y < top ? -1 : Math.floor((y - top + matrix.scrollTop) / SIZE),
  };
};

const fold = (space) => {
  if (folded.has(space)) folded.delete(space); else folded.add(space);
  arrange();
};

const say = ({ x, y }) => {
  const [a, b] = [lines[y], lines[x]];
  if (!a || !b) return "";
  const name = (line) => (line.head ? `namespace ${data.spaces[line.space]}` : nameOf(line.row));
  const sum = between(a, b);
  if (!sum) return `${name(a)} → ${name(b)}`;
  const words = sum.found
    ? [...sum.found].map(([number, n]) => `${data.contents[number].t} (${n} of ${sum.all})`).join("; ") || "nothing"
    : sum.content ? data.contents[sum.content].t : "nothing";
  return `${name(a)} → ${name(b)}: ${words}`;
};

const ask = ({ x, y }) => {
  const [a, b] = [lines[y], lines[x]];
  if (x < 0 && a) { if (a.head) fold(a.space); else showRow(a.row); return; }
  if (y < 0 && b) { if (b.head) fold(b.space); else showRow(b.row); return; }
  if (!a || !b) return;
  if (a.row !== undefined && b.row !== undefined) {
    if (!(isOutside(a.row) && isOutside(b.row))) showPair(a.row, b.row);
    return;
  }
  const sum = between(a, b);
  if (!sum) { if (a.head && !folded.has(a.space)) fold(a.space); else fold(b.space); return; }
  const unfold = el("button", { class: "action", onclick: () => {
    [a, b].forEach((line) => { if (line.head) folded.delete(line.space); });
    arrange();
  } }, "Unfold");
  const list = [...sum.found].sort((one, two) => two[1] - one[1]).map(([number, n]) =>
    el("li", {}, el("span", { class: `chip ${data.compared ? data.contents[number].change : data.contents[number].kind}` }, data.contents[number].t), ` ${n} of ${sum.all} pairs`));
  openPanel(...heading("Between namespaces", say({ x, y }).split(": ")[0]), unfold,
    list.length ? el("ul", { class: "rules" }, ...list) : el("p", { class: "quiet" }, "Nothing passes."));
};

matrix.addEventListener("scroll", () => requestAnimationFrame(paint));
canvas.addEventListener("pointermove", (event) => {
  const now = spot(event);
  if (pointed && pointed.x === now.x && pointed.y === now.y) return;
  pointed = now;
  canvas.title = now.x >= 0 && now.y >= 0 ? say(now) : "";
  requestAnimationFrame(paint);
});
canvas.addEventListener("pointerleave", () => { pointed = null; requestAnimationFrame(paint); });
canvas.addEventListener("click", (event) => {
  const now = spot(event);
  if (now.x >= 0 && now.y >= 0 && now.x < lines.length && now.y < lines.length) cursor = now;
  ask(now);
  paint();
});
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (step) {
    event.preventDefault();
    const within = (n) => Math.min(lines.length - 1, Math.max(0, n));
    cursor = { x: within(cursor.x + step[0]), y: within(cursor.y + step[1]) };
    const { left, top } = shown();
    const room = [matrix.clientWidth - left, matrix.clientHeight - top];
    const into = (at, scroll, size) => (at * SIZE < scroll ? at * SIZE : (at + 1) * SIZE > scroll + size ? (at + 1) * SIZE - size : scroll);
    matrix.scrollTo(into(cursor.x, matrix.scrollLeft, room[0]), into(cursor.y, matrix.scrollTop, room[1]));
    speech.textContent = say(cursor);
    paint();
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    ask(cursor);
  }
});
canvas.addEventListener("focus", paint);
canvas.addEventListener("blur", paint);
document.addEventListener("chosen", () => paint());
