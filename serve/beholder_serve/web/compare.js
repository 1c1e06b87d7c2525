// Comparison of two readers on one text.
import { request } from "./api.js";
import { $, element, listed, number, readable } from "./page.js";

export async function compare(prediction, text, one, other) {
  const known = new Map(prediction.readers.map((reader) => [reader.user_id, reader]));
  if (!known.has(one) || !known.has(other)) {
    const more = await request("POST", "/v1/perspectives", { text, users: [one, other] });
    for (const reader of more.readers) known.set(reader.user_id, reader);
  }
  show(prediction.labels, known.get(one), known.get(other));
}

function show(labels, one, other) {
  const rows = labels
    .map((label, at) => ({ label, a: one.scores[at], b: other.scores[at], split: one.decisions[at] !== other.decisions[at] }))
    .sort((first, second) => Math.abs(second.a - second.b) - Math.abs(first.a - first.b));
  const split = rows.filter((row) => row.split).map((row) => readable(row.label));
  const most = rows[0];
  $("difference").textContent = split.length
    ? `They would disagree on ${listed(split.slice(0, 4))}${split.length > 4 ? ` and ${split.length - 4} more` : ""}.`
    : `They would give the same labels; their scores differ most on ${readable(most.label)} (${number(Math.abs(most.a - most.b))}).`;
  const names = element("p", { class: "names" },
    element("span", {}, element("span", { class: "swatch" }), one.user_id),
    element("span", {}, element("span", { class: "swatch other" }), other.user_id));
  $("dumbbells").replaceChildren(names, ...rows.map(dumbbell));
}

function dumbbell({ label, a, b }) {
  const track = element("div", {
    class: "track", role: "img", "aria-label": `${number(a)} and ${number(b)}`,
  }, element("span", { class: "span" }), element("span", { class: "end" }), element("span", { class: "end other" }));
  const [span, first, second] = track.children;
  span.style.left = `${100 * Math.min(a, b)}%`;
  span.style.width = `${100 * Math.abs(a - b)}%`;
  first.style.left = `${100 * a}%`;
  second.style.left = `${100 * b}%`;
  return element("div", { class: "dumbbell" },
    element("span", {}, readable(label)), track, element("span", {}, number(Math.abs(a - b))));
}
