// One label or scale: a dot per reader at their value, as large as the height allows. Where dots of all readers do not
// fit, bars count readers in twentieths of the axis, and the readers farthest from the mean are dots below them.
import { axis } from "./axis.js";
import { drawn, element } from "./page.js";

const SIZES = [7, 5.5, 4, 3], SIDE = 54, TOP = 18, MARKERS = 22, AXIS_HEIGHT = 20;
const MOST_DOTS = 400, DOTS_BELOW = 40, BARS = 62, LEVELS = 3;

// How readers are drawn: dots around the axis (`bars` is null), or bars above it and some dots below.
export function layout(question, prediction, width, me, chosen) {
  const inner = width - 2 * SIZES[0] - 2, [low, high] = [question.points[0], question.points.at(-1)];
  const x = (value) => SIZES[0] + 1 + (Math.min(Math.max(value, low), high) - low) / (high - low) * inner;
  const placed = prediction.readers.map((reader) => ({ reader, x: x(question.value(reader)) }));
  if (prediction.readers.length >= prediction.readers_total && placed.length <= MOST_DOTS) {
    for (const radius of SIZES) {
      const dots = stacked(placed, radius);
      const tallest = Math.max(0, ...dots.map((dot) => Math.abs(dot.y))) + radius;
      if (tallest <= SIDE) return { x, dots, radius, above: Math.max(tallest, 16), below: Math.max(tallest, 16), bars: null };
    }
  }
  const radius = 5, named = [me, ...chosen];
  const first = named.flatMap((user) => placed.filter((dot) => user && dot.reader.user_id === user));
  const rest = placed.filter((dot) => !named.includes(dot.reader.user_id));
  const dots = below([...new Set([...first, ...rest])], radius);
  const deepest = Math.max(0, ...dots.map((dot) => dot.y)) + radius;
  return { x, dots, radius, above: BARS, below: deepest + 4, bars: question.histogram };
}

// Each dot at its value, on the level nearest to the axis where it overlaps no other.
function stacked(placed, radius) {
  const step = 2 * radius + 1, last = new Map();
  return [...placed].sort((one, other) => one.x - other.x).map((dot) => {
    let level = 0;
    while (dot.x - (last.get(level) ?? -Infinity) < step) level = level < 0 ? -level : -level - 1;
    last.set(level, dot.x);
    return { ...dot, y: level * step };
  });
}

// Some dots on a few levels below the axis, the first of the list first; those without a free place are in the bars only.
function below(placed, radius) {
  const step = 2 * radius + 1, levels = Array.from({ length: LEVELS }, () => []), dots = [];
  for (const dot of placed) {
    const level = levels.findIndex((taken) => taken.every((other) => Math.abs(other - dot.x) >= step));
    if (level < 0) continue;
    if (dots.length === DOTS_BELOW) break;
    levels[level].push(dot.x);
    dots.push({ ...dot, y: radius + 5 + level * step });
  }
  return dots.sort((one, other) => one.x - other.x);
}

export function swarm(question, prediction, width, me, chosen, onChoose, tip) {
  const plan = layout(question, prediction, width, me, chosen), { x } = plan;
  const middle = TOP + plan.above, markers = middle + plan.below + MARKERS / 2, height = middle + plan.below + MARKERS + AXIS_HEIGHT;
  const counted = plan.bars ? `. Bars count readers; ${plan.dots.length} of them are dots` : "";
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": question.described + counted });
  svg.append(...axis(question.ticks, x, middle, height, width));
  const stops = plan.bars ? bars(plan.bars, question, x, middle) : [];
  stops.forEach((stop) => svg.append(stop.node));
  const mean = x(question.mean), half = plan.bars ? [plan.above, 6] : [16, 16];
  for (const dot of plan.dots) {
    const stop = circle(dot, plan.radius, middle, question, me, chosen);
    stops.push(stop);
    svg.append(stop.node);
  }
  svg.append(drawn("line", { class: "mean-line", x1: mean, x2: mean, y1: middle - half[0], y2: middle + half[1] }));
  svg.append(...marked(plan, middle, width, me, chosen), ...globalAnswer(question, x, markers));
  const figure = element("figure", {}, element("figcaption", {}, element("h2", {}, question.title), element("p", {}, question.caption)), svg);
  figure.dataset.bars = String(Boolean(plan.bars));
  attend(figure, stops, onChoose, tip);
  return figure;
}

function bars(histogram, question, x, middle) {
  const most = Math.max(...histogram, 1), [low, high] = [question.points[0], question.points.at(-1)];
  const at = (bin) => low + (high - low) * bin / histogram.length;
  return histogram.flatMap((count, bin) => {
    if (!count) return [];
    const [from, to, tall] = [x(at(bin)), x(at(bin + 1)), Math.max(2, (BARS * count) / most)];
    const words = `${question.shown(at(bin))} to ${question.shown(at(bin + 1))}: ${count.toLocaleString("en")} reader${count === 1 ? "" : "s"}`;
    const node = drawn("rect", {
      class: "bar stop", x: from + 0.5, y: middle - tall, width: to - from - 1, height: tall, role: "img", "aria-label": words,
    });
    return [{ node, words }];
  });
}

function circle(dot, radius, middle, question, me, chosen) {
  const { reader } = dot, value = question.shown(question.value(reader)), verdict = question.verdict(reader);
  const named = reader.user_id === me ? "you" : reader.user_id;
  const node = drawn("circle", {
    class: ["dot stop", ...kinds(dot, question, me, chosen)].join(" "), cx: dot.x, cy: middle + dot.y, r: radius, role: "button",
    "aria-label": `${named}, ${value}${verdict}. Choose to compare`,
  });
  return { node, user: reader.user_id, words: `${reader.user_id}: ${value}${verdict} (${reader.route})` };
}

function kinds({ reader }, question, me, chosen) {
  const colour = question.given ? question.given(reader) && "given" : "on-scale";
  return [colour, reader.user_id === me && "me", chosen.includes(reader.user_id) && "chosen"].filter(Boolean);
}

// You and chosen readers once more above all other dots, so that no dot hides them.
function marked(plan, middle, width, me, chosen) {
  return plan.dots.filter(({ reader }) => reader.user_id === me || chosen.includes(reader.user_id)).flatMap((dot) => {
    const mine = dot.reader.user_id === me;
    const ring = drawn("circle", { class: mine ? "over me" : "over", cx: dot.x, cy: middle + dot.y, r: Math.max(plan.radius, 5), "aria-hidden": "true" });
    if (!mine) return [ring];
    const anchor = dot.x < 60 ? "start" : dot.x > width - 60 ? "end" : "middle";
    return [ring, drawn("text", { class: "me-name", x: dot.x, y: middle + dot.y - Math.max(plan.radius, 5) - 5, "text-anchor": anchor }, "you")];
  });
}

// The global model's value, and the interval its answer is in.
function globalAnswer(question, x, y) {
  const at = x(question.global);
  const value = drawn("path", { class: "all", d: `M${at} ${y - 8}l8 8l-8 8l-8 -8z`, "aria-hidden": "true" });
  if (!question.band) return [value];
  const [low, high] = question.band.map(x);
  const band = drawn("rect", { class: "band", x: low - 3, y: y - 5, width: high - low + 6, height: 10, rx: 5, "aria-hidden": "true" });
  return [band, value];
}

// One tab stop for all bars and dots; arrow keys move between them. The figure listens for all of them: a drawing that
// listened for focus would be a tab stop itself.
function attend(figure, stops, onChoose, tip) {
  const of = (event) => stops.find((stop) => stop.node === event.target);
  stops.forEach((stop, at) => stop.node.setAttribute("tabindex", at === 0 ? "0" : "-1"));
  const show = (event) => {
    const stop = of(event);
    if (stop) tip.show(stop.node, stop.words);
  };
  const choose = (event) => {
    const stop = of(event);
    if (stop?.user !== undefined) onChoose(stop.user);
  };
  figure.addEventListener("pointerover", show);
  figure.addEventListener("focusin", show);
  figure.addEventListener("pointerout", tip.hide);
  figure.addEventListener("focusout", tip.hide);
  figure.addEventListener("click", choose);
  figure.addEventListener("keydown", (event) => {
    const now = stops.indexOf(of(event));
    if (now < 0) return;
    const next = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: stops.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(event);
    } else if (stops[next]) {
      event.preventDefault();
      stops[now].node.setAttribute("tabindex", "-1");
      stops[next].node.setAttribute("tabindex", "0");
      stops[next].node.focus();
    }
  });
}
