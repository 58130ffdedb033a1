// The panel: what is said of a line, a cell, a workload, a namespace or a policy.
const el = (name, attributes = {}, ...inside) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside.filter((part) => part !== undefined && part !== null));
  return made;
};

const panel = el("aside", { id: "panel", "aria-label": "Details", hidden: true });
const MANY = 60;

const openPanel = (...inside) => {
  panel.replaceChildren(
    el("button", { class: "close", title: "Close (Escape)", "aria-label": "Close", onclick: closePanel }, "×"),
    ...inside,
  );
  panel.hidden = false;
  panel.scrollTop = 0;
};
const closePanel = () => {
  panel.hidden = true;
  document.dispatchEvent(new CustomEvent("cleared"));
};

const rowLink = (row, text = nameOf(row)) =>
  isOutside(row) ? el("span", { class: "outside" }, text) : el("button", { class: "link", onclick: () => showRow(row) }, text);

// Names of rows; very many are cut.
const rowList = (rows) => {
  const list = el("ul", { class: "names" }, ...rows.slice(0, MANY).map((row) => el("li", {}, rowLink(row))));
  if (rows.length > MANY) {
    list.append(el("li", {}, el("button", {
      class: "link", onclick: (event) => {
        event.target.closest("li").replaceWith(...rows.slice(MANY).map((row) => el("li", {}, rowLink(row))));
      },
    }, `and ${rows.length - MANY} more`)));
  }
  return list;
};

const place = (at) => (at ? el("code", {}, at) : undefined);

const ruleItem = (rule) => {
  const policy = data.policies[rule.p];
  return el("li", { class: policy.old ? "old" : "" },
    el("div", {}, `${policy.old ? "before: " : ""}${policy.dry ? "(dry run) " : ""}${rule.a} ${rule.d === EGRESS ? "to" : "from"} ${rule.peers}, on ${rule.ports}`),
    el("div", { class: "quiet" }, `${rule.d === EGRESS ? "egress" : "ingress"} rule ${rule.n} of `,
      el("button", { class: "link", onclick: () => showPolicy(rule.p) }, policy.n), " ", place(rule.at)),
  );
};

// The rules of one side, or why there are none.
const sideOf = (title, direction, subject, peer) => {
  const rules = rulesOf(direction, subject, peer);
  const inside = subject.filter((row) => !isOutside(row));
  const part = el("section", {}, el("h3", {}, title));
  if (!inside.length) {
    part.append(el("p", { class: "quiet" }, "Addresses outside: no policy of this cluster holds them."));
    return part;
  }
  const free = inside.filter((row) => data.rows[row].f & direction);
  if (free.length) {
    part.append(el("p", { class: "quiet" },
      free.length === inside.length && inside.length === 1
        ? "No policy holds this side, so everything passes it."
        : `No policy holds ${free.length} of ${inside.length} here, so everything passes there.`));
  }
  if (rules.length) {
    const shown = rules.slice(0, MANY).map(ruleItem);
    part.append(el("ul", { class: "rules" }, ...shown));
    if (rules.length > MANY) part.append(el("p", { class: "quiet" }, `and ${rules.length - MANY} more rules`));
  } else if (!free.length) {
    part.append(el("p", { class: "quiet" }, "Held by policies, and no rule matches."));
  }
  return part;
};

// What passes, in full, and what it depends on.
const contentLines = (content) => {
  const lines = [];
  if (content.before) lines.push(el("p", { class: "verdict removed" }, "before: ", content.before));
  lines.push(el("p", { class: `verdict ${content.before ? "added" : content.kind}` }, content.before ? "now: " : "", content.full));
  if (content.partly) lines.push(el("p", { class: "quiet" }, "Between some of the pods only."));
  if (content.missing?.length) {
    lines.push(el("p", { class: "quiet" }, "Depends on: ", content.missing.slice(0, 6).join("; ")));
  }
  return lines;
};

const heading = (kind, ...text) => [el("p", { class: "kind" }, kind), el("h2", {}, ...text)];

const showPair = (src, dst) => {
  const content = data.contents[cell(src, dst)];
  openPanel(
    ...heading(src === dst ? "Among its own pods" : "Connection", rowLink(src), " → ", rowLink(dst)),
    ...contentLines(content),
    sideOf("Out of the source", EGRESS, [src], [dst]),
    sideOf("Into the destination", INGRESS, [dst], [src]),
  );
};

const showBlock = (sheet, number) => {
  const [content, from, to] = sheet.blocks[number];
  const rows = (items) => items.flatMap((item) => expand(sheet.items[item]));
  const names = (items) => items.length > 3 ? `${items.length} boxes` : items.map((item) => sheet.names[item]).join(", ");
  const [sources, destinations] = [rows(from), rows(to)];
  openPanel(
    ...heading("Line", `${names(from)} → ${names(to)}`),
    ...contentLines(data.contents[content]),
    sideOf("Rules of the sources", EGRESS, sources, destinations),
    sideOf("Rules of the destinations", INGRESS, destinations, sources),
    el("section", {}, el("h3", {}, `From (${sources.length})`), rowList(sources)),
    el("section", {}, el("h3", {}, `To (${destinations.length})`), rowList(destinations)),
  );
};

// Who is at the other end, together where the same passes.
const others = (title, row, into) => {
  const groups = new Map();
  for (let other = 0; other < many; other++) {
    const number = into ? cell(other, row) : cell(row, other);
    if (other === row || !number) continue;
    if (!groups.has(number)) groups.set(number, []);
    groups.get(number).push(other);
  }
  const part = el("section", {}, el("h3", {}, title));
  if (!groups.size) part.append(el("p", { class: "quiet" }, "Nobody."));
  const sorted = [...groups].sort((a, b) => a[1].length - b[1].length);
  for (const [number, rows] of sorted) {
    const content = data.contents[number];
    part.append(el("details", { open: rows.length <= 8 },
      el("summary", {}, el("span", { class: `chip ${data.compared ? content.change : content.kind}` }, content.t), ` ${rows.length}`),
      rowList(rows)));
  }
  return part;
};

const showRow = (row) => {
  const its = data.rows[row];
  document.dispatchEvent(new CustomEvent("chosen", { detail: [row] }));
  if (isOutside(row)) {
    openPanel(...heading("Addresses outside", its.n), el("p", { class: "quiet" }, its.l),
      others("Can reach", row, false), others("Is reached by", row, true));
    return;
  }
  const held = (direction, title) => {
    const policies = holders(row, direction);
    return el("section", {}, el("h3", {}, title), policies.length
      ? el("ul", { class: "rules" }, ...policies.map((policy) => el("li", {},
        el("button", { class: "link", onclick: () => showPolicy(data.policies.indexOf(policy)) }, policy.n),
        policy.tier ? ` (${policy.tier})` : "", policy.dry ? " (dry run)" : "", " ", place(policy.at))))
      : el("p", { class: "quiet" }, its.f & 16 ? "On its node's network: no policy can hold it." : "By nothing: no policy selects it."));
  };
  openPanel(
    ...heading(`${its.k}${its.p > 1 ? ` · ${its.p} pods` : ""}${its.f & 4 ? " · new" : ""}${its.f & 8 ? " · gone" : ""}`, nameOf(row)),
    its.l ? el("p", { class: "labels" }, ...its.l.split(", ").map((label) => el("code", {}, label))) : undefined,
    held(INGRESS, "What comes in is held"),
    held(EGRESS, "What goes out is held"),
    others("Who reaches it", row, true),
    others("Where it goes", row, false),
  );
};

const showPolicy = (index) => {
  const policy = data.policies[index];
  const rows = expand(policy.s);
  document.dispatchEvent(new CustomEvent("chosen", { detail: rows }));
  const rules = data.rules.filter((rule) => rule.p === index);
  openPanel(
    ...heading("Policy", policy.n), el("p", {}, place(policy.at)),
    el("section", {}, el("h3", {}, "Rules"), rules.length
      ? el("ul", { class: "rules" }, ...rules.map(ruleItem))
      : el("p", { class: "quiet" }, "None: what it holds, nothing passes by it.")),
    el("section", {}, el("h3", {}, `Selects (${rows.length})`), rowList(rows)),
  );
};

const showRows = (kind, title, rows) => {
  document.dispatchEvent(new CustomEvent("chosen", { detail: rows }));
  openPanel(...heading(kind, title), rowList(rows));
};
