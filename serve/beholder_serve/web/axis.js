// The axis of a figure: a line, marks at its points, and as many of their names as fit beside each other.
import { drawn } from "./page.js";

const LETTER = 6.8, GAP = 10, MOST_NAMES = 11;

export function axis(ticks, x, line, bottom, width) {
  const parts = [drawn("line", { class: "axis", x1: x(ticks[0][0]), x2: x(ticks.at(-1)[0]), y1: line, y2: line })];
  const marks = ticks.length <= MOST_NAMES ? ticks : [];
  for (const [point] of marks) {
    parts.push(drawn("line", { class: "axis", x1: x(point), x2: x(point), y1: bottom - 22, y2: bottom - 17 }));
  }
  for (const [point, name, anchor] of names(ticks, x, width)) {
    parts.push(drawn("text", { x: x(point), y: bottom - 4, "text-anchor": anchor }, name));
  }
  return parts;
}

// [point, name, anchor] of all ticks, else of the ends and the middle, else of the ends, shortened if they must be.
function names(ticks, x, width) {
  const ends = [ticks[0], ticks.at(-1)], half = ticks[(ticks.length - 1) / 2];
  const choices = [ticks.length <= MOST_NAMES ? ticks : ends, half ? [ends[0], half, ends[1]] : ends, ends];
  if (ticks.length > MOST_NAMES && half) choices.shift();
  const fitting = choices.find((some) => fits(some, x));
  const short = (name) => (name.length * LETTER <= width / 2 - GAP ? name : `${name.slice(0, Math.floor(width / 2 / LETTER) - 3)}…`);
  const shown = fitting || ends.map(([point, name]) => [point, short(name)]);
  return shown.map(([point, name], at) => [point, name, anchorOf(at, shown.length)]);
}

const anchorOf = (at, many) => (at === 0 ? "start" : at === many - 1 ? "end" : "middle");

function fits(ticks, x) {
  let taken = -Infinity;
  return ticks.every(([point, name], at) => {
    const long = name.length * LETTER, from = x(point) - { start: 0, middle: long / 2, end: long }[anchorOf(at, ticks.length)];
    const free = from >= taken + GAP;
    taken = from + long;
    return free;
  });
}
