// One label: a dot per reader at their score. With very many readers, their distribution and the farthest as dots.
import { drawn, element, number, readable } from "./page.js";

const RADIUS = 7, AXIS_HEIGHT = 34, MAX_DOTS = 400, FARTHEST = 40;

export function swarm(spread, place, prediction, width, me, chosen, onChoose, tip) {
  const total = prediction.readers_total;
  const many = total > MAX_DOTS;
  const readers = many ? prediction.readers.filter((each, at) => at < FARTHEST || each.user_id === me) : prediction.readers;
  const inner = width - 2 * RADIUS - 2;
  const x = (score) => RADIUS + 1 + score * inner;
  const dots = stacked(readers, place, x);
  const tallest = Math.max(0, ...dots.map((dot) => Math.abs(dot.y)));
  const ridge = many ? 46 : 0;
  const middle = Math.max(tallest + RADIUS + 16, ridge + 14);
  const height = middle + Math.max(tallest + RADIUS, 12) + AXIS_HEIGHT;
  const would = Math.round(spread.given * total);
  const global = prediction.everybody.scores[spread.label];
  const words = `${readable(spread.label)}: ${would} of ${total} readers would give it; scores from ${number(spread.deciles[0])} to ${number(spread.deciles[10])}, mean ${number(spread.mean)}; global model: ${number(global)}`;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": words });
  svg.append(drawn("line", { class: "axis", x1: x(0), x2: x(1), y1: middle, y2: middle }));
  for (const [score, word, anchor] of [[0, "0 no", "start"], [0.5, "0.5", "middle"], [1, "1 yes", "end"]]) {
    svg.append(drawn("text", { x: x(score), y: height - 6, "text-anchor": anchor }, word));
  }
  if (many) svg.append(outline(spread.histogram, x, middle, ridge));
  svg.append(drawn("line", { class: "mean-line", x1: x(spread.mean), x2: x(spread.mean), y1: middle - 16, y2: middle + 16 }));
  dots.forEach((dot, at) => svg.append(circle(dot, at, middle, place, me, chosen, onChoose, tip)));
  const e = x(global), below = height - AXIS_HEIGHT + 8;
  svg.append(drawn("path", { class: "all", d: `M${e} ${below - 8}l8 8l-8 8l-8 -8z`, "aria-hidden": "true" }));
  const mine = dots.find((dot) => dot.reader.user_id === me);
  if (mine) {
    const anchor = mine.x < 60 ? "start" : mine.x > width - 60 ? "end" : "middle";
    svg.append(drawn("text", { class: "me-name", x: mine.x, y: middle + mine.y - RADIUS - 5, "text-anchor": anchor }, "you"));
  }
  rove(svg);
  return element("figure", {},
    element("figcaption", {},
      element("h2", {}, readable(spread.label)),
      element("p", {}, `${would.toLocaleString("en")} of ${total.toLocaleString("en")} readers would give it`)),
    svg);
}

// Each dot at its score, on the level nearest to the axis where it overlaps no other.
function stacked(readers, place, x) {
  const step = 2 * RADIUS + 1, last = new Map();
  return readers
    .map((reader) => ({ reader, x: x(reader.scores[place]) }))
    .sort((one, other) => one.x - other.x)
    .map((dot) => {
      let level = 0;
      while (dot.x - (last.get(level) ?? -Infinity) < step) level = level < 0 ? -level : -level - 1;
      last.set(level, dot.x);
      return { ...dot, y: level * step };
    });
}

function outline(histogram, x, middle, high) {
  const most = Math.max(...histogram, 1);
  const points = histogram.map((count, bin) => `${x((bin + 0.5) / histogram.length)},${middle - (high * count) / most}`);
  return drawn("path", { class: "ridge", d: `M${x(0)},${middle}L${points.join("L")}L${x(1)},${middle}Z`, "aria-hidden": "true" });
}

function circle(dot, at, middle, place, me, chosen, onChoose, tip) {
  const { reader } = dot;
  const verdict = reader.decisions[place] ? "would give it" : "would not give it";
  const kinds = ["dot", reader.decisions[place] && "given", reader.user_id === me && "me", chosen.includes(reader.user_id) && "chosen"];
  const made = drawn("circle", {
    class: kinds.filter(Boolean).join(" "), cx: dot.x, cy: middle + dot.y, r: RADIUS, role: "button",
    tabindex: at === 0 ? 0 : -1,
    "aria-label": `${reader.user_id === me ? "you" : reader.user_id}, ${number(reader.scores[place])}, ${verdict}. Choose to compare`,
  });
  const show = () => tip.show(made, `${reader.user_id}: ${number(reader.scores[place])}, ${verdict} (${reader.route})`);
  made.addEventListener("pointerenter", show);
  made.addEventListener("focus", show);
  made.addEventListener("pointerleave", tip.hide);
  made.addEventListener("blur", tip.hide);
  made.addEventListener("click", () => onChoose(reader.user_id));
  made.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onChoose(reader.user_id);
    }
  });
  return made;
}

// One tab stop for all dots; arrow keys move between them.
function rove(svg) {
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    const dots = [...svg.querySelectorAll(".dot")];
    const now = dots.indexOf(document.activeElement);
    const next = dots[now + move];
    if (now < 0 || !next) return;
    event.preventDefault();
    dots[now].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}
