// What is known: rows, what passes between each two, rules. Reads the page's data once.
const data = JSON.parse(document.getElementById("data").textContent);
const many = data.rows.length;

const unroll = (runs) => {
  const out = [];
  for (let i = 0; i < runs.length; i += 2) for (let n = 0; n < runs[i]; n++) out.push(runs[i + 1]);
  return out;
};
const cells = data.cells.map((line) => Uint32Array.from(unroll(line)));
const own = unroll(data.own);

// The number of what passes from one row to another.
const cell = (src, dst) => (src === dst ? own[src] : cells[data.rows[src].c][data.rows[dst].c]);
const isOutside = (row) => data.rows[row].s < 0;
const nameOf = (row) => {
  const its = data.rows[row];
  return its.s < 0 ? its.n : `${data.spaces[its.s]}/${its.n}`;
};

const expand = (ranges) => {
  const rows = [];
  for (let i = 0; i < ranges.length; i += 2) for (let r = ranges[i]; r <= ranges[i + 1]; r++) rows.push(r);
  return rows;
};
const has = (ranges, row) => {
  for (let i = 0; i < ranges.length; i += 2) if (row >= ranges[i] && row <= ranges[i + 1]) return true;
  return false;
};
const meets = (ranges, rows) => rows.some((row) => has(ranges, row));

const EGRESS = 1, INGRESS = 2;

// The rules of one side that select `subject` and match `peer` (lists of rows).
const rulesOf = (direction, subject, peer) =>
  data.rules.filter((rule) => rule.d === direction && meets(data.policies[rule.p].s, subject) && meets(rule.m, peer));

// The policies that hold a row in a direction.
const holders = (row, direction) =>
  data.policies.filter((policy) => policy.d & direction && has(policy.s, row));

// What certainly passes of what is said, and what depends on a missing fact.
const certain = (text) => text.replace(/(^|; )perhaps .*$/, "");
const perhaps = (text) => (/(?:^|; )perhaps (.*)$/.exec(text) ?? ["", ""])[1];

// Whether a text like "TCP 80-90,443; UDP 53" holds a port; `protocol` may be empty.
const holdsPort = (text, protocol, port) => {
  if (text.includes("everything")) return true;
  for (const part of text.split(/; |perhaps |over IPv\d: /)) {
    const found = /^(TCP|UDP|SCTP)(?: ([\d,-]+))?$/.exec(part.trim());
    if (!found || (protocol && found[1] !== protocol)) continue;
    if (!found[2]) return true;
    if (found[2].split(",").some((range) => {
      const [low, high] = range.split("-").map(Number);
      return port >= low && port <= (high || low);
    })) return true;
  }
  return false;
};

// Whether a list of CIDRs holds an IPv4 address.
const holdsAddress = (cidrs, address) => {
  const number = (text) => text.split(".").reduce((all, byte) => all * 256 + Number(byte), 0);
  return cidrs.split("; ").some((cidr) => {
    const [net, length] = cidr.split("/");
    if (!/^\d+\.\d+\.\d+\.\d+$/.test(net)) return false;
    const size = 2 ** (32 - Number(length ?? 32));
    return Math.floor(number(net) / size) === Math.floor(number(address) / size);
  });
};
