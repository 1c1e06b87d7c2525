// One label: a dot for each reader at their score. With very many readers, a ridge, and the farthest as dots.
import { drawn, element, number, readable } from "./page.js";

const RADIUS = 7, ROOM = 34, NAMED = 400, FARTHEST = 40;

export function swarm(told, place, answer, width, me, chosen, onChoose, tip) {
  const total = answer.readers_total;
  const many = total > NAMED;
  const readers = many ? answer.readers.filter((each, at) => at < FARTHEST || each.user_id === me) : answer.readers;
  const inner = width - 2 * RADIUS - 2;
  const x = (score) => RADIUS + 1 + score * inner;
  const dots = stacked(readers, place, x);
  const tallest = Math.max(0, ...dots.map((dot) => Math.abs(dot.y)));
  const ridge = many ? 46 : 0;
  const middle = Math.max(tallest + RADIUS + 16, ridge + 14);
  const height = middle + Math.max(tallest + RADIUS, 12) + ROOM;
  const would = Math.round(told.given * total);
  const everybody = answer.everybody.scores[told.label];
  const words = `${readable(told.label)}: ${would} of ${total} readers would say so; scores from ${number(told.deciles[0])} to ${number(told.deciles[10])}, mean ${number(told.mean)}; the model for everybody: ${number(everybody)}`;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": words });
  svg.append(drawn("line", { class: "axis", x1: x(0), x2: x(1), y1: middle, y2: middle }));
  for (const [score, word, anchor] of [[0, "surely not", "start"], [0.5, "0.5", "middle"], [1, "surely", "end"]]) {
    svg.append(drawn("text", { x: x(score), y: height - 6, "text-anchor": anchor }, word));
  }
  if (many) svg.append(outline(told.histogram, x, middle, ridge));
  svg.append(drawn("line", { class: "mean-line", x1: x(told.mean), x2: x(told.mean), y1: middle - 16, y2: middle + 16 }));
  dots.forEach((dot, at) => svg.append(circle(dot, at, middle, place, me, chosen, onChoose, tip)));
  const e = x(everybody), below = height - ROOM + 8;
  svg.append(drawn("path", { class: "all", d: `M${e} ${below - 8}l8 8l-8 8l-8 -8z`, "aria-hidden": "true" }));
  const mine = dots.find((dot) => dot.reader.user_id === me);
  if (mine) {
    const anchor = mine.x < 60 ? "start" : mine.x > width - 60 ? "end" : "middle";
    svg.append(drawn("text", { class: "me-name", x: mine.x, y: middle + mine.y - RADIUS - 5, "text-anchor": anchor }, "you"));
  }
  rove(svg);
  return element("figure", {},
    element("figcaption", {},
      element("h2", {}, readable(told.label)),
      element("p", {}, `${would.toLocaleString("en")} of ${total.toLocaleString("en")} readers would say so`)),
    svg);
}

// Every dot at its score, on the level nearest to the line where it overlaps no other.
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
  const says = reader.decisions[place] ? "would say so" : "would not";
  const kinds = ["dot", reader.decisions[place] && "given", reader.user_id === me && "me", chosen.includes(reader.user_id) && "chosen"];
  const made = drawn("circle", {
    class: kinds.filter(Boolean).join(" "), cx: dot.x, cy: middle + dot.y, r: RADIUS, role: "button",
    tabindex: at === 0 ? 0 : -1,
    "aria-label": `${reader.user_id === me ? "you" : reader.user_id}, ${number(reader.scores[place])}, ${says}. Choose to compare`,
  });
  const show = () => tip.show(made, `${reader.user_id}: ${number(reader.scores[place])}, ${says} (${reader.route})`);
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

// One tab stop for all dots; arrow keys go from one to the next.
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
