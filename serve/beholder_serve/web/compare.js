// Comparison of two readers on one text.
import { request } from "./api.js";
import { $, element, listed } from "./page.js";
import { questionsOf } from "./questions.js";

// Shows the difference; readers that the prediction does not list are added to it.
export async function compare(prediction, text, one, other) {
  const missing = [one, other].filter((user) => !prediction.readers.some((reader) => reader.user_id === user));
  if (missing.length) {
    const more = await request("POST", "/v1/perspectives", { text, users: missing });
    prediction.readers.push(...more.readers);
  }
  const find = (user) => prediction.readers.find((reader) => reader.user_id === user);
  show(questionsOf(prediction), find(one), find(other));
}

function show(questions, one, other) {
  const rows = questions.all.map((question) => row(question, one, other)).sort((first, second) => second.part - first.part);
  $("difference").textContent = [...onLabels(rows.filter(({ question }) => question.given)), ...onScales(rows)].join(" ");
  const names = element("p", { class: "names" },
    element("span", {}, element("span", { class: "swatch" }), one.user_id),
    element("span", {}, element("span", { class: "swatch other" }), other.user_id));
  $("dumbbells").replaceChildren(names, ...rows.map(dumbbell));
}

// Values of two readers on a question; `part`: how far apart they are, of the length of its axis.
function row(question, one, other) {
  const [low, high] = [question.points[0], question.points.at(-1)], [a, b] = [one, other].map(question.value);
  const split = question.given && question.given(one) !== question.given(other);
  return { question, low, high, a, b, split, part: Math.abs(a - b) / (high - low) };
}

function onLabels(rows) {
  if (!rows.length) return [];
  const split = rows.filter((each) => each.split).map(({ question }) => question.title);
  if (split.length) return [`They would disagree on ${listed(split.slice(0, 4))}${split.length > 4 ? ` and ${split.length - 4} more` : ""}.`];
  const { question, a, b } = rows[0];
  return [`They would give the same labels; their scores differ most on ${question.title} (${question.difference(Math.abs(a - b))}).`];
}

function onScales(rows) {
  const most = rows.find(({ question }) => !question.given);
  if (!most) return [];
  const { question, a, b } = most;
  const apart = rows.filter((each) => !each.question.given).length > 1 ? "Of the scales, their answers differ most on" : "Their answers differ on";
  return [`${apart} ${question.title}: ${question.shown(a)} and ${question.shown(b)}.`];
}

function dumbbell({ question, low, high, a, b }) {
  const place = (value) => (100 * (value - low)) / (high - low), [first, last] = [question.ticks[0][1], question.ticks.at(-1)[1]];
  const track = element("div", {
    class: "track", role: "img", "aria-label": `${question.shown(a)} and ${question.shown(b)}${question.given ? "" : `, from ${first} to ${last}`}`,
  }, element("span", { class: "span" }), element("span", { class: "end" }), element("span", { class: "end other" }));
  const [span, one, other] = track.children;
  span.style.left = `${place(Math.min(a, b))}%`;
  span.style.width = `${place(Math.max(a, b)) - place(Math.min(a, b))}%`;
  one.style.left = `${place(a)}%`;
  other.style.left = `${place(b)}%`;
  const range = question.given ? [] : [element("small", {}, `${first} to ${last}`)];
  return element("div", { class: "dumbbell" },
    element("span", {}, question.title, ...range), track, element("span", {}, question.difference(Math.abs(a - b))));
}
