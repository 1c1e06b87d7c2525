// The page: requests predictions and renders them.
import { request, keepToken } from "./api.js";
import { compare } from "./compare.js";
import { Judge } from "./judge.js";
import { $, element, listed, number, readable } from "./page.js";
import { swarm } from "./swarm.js";

const SHOWN_LABELS = 6;
let model = null, prediction = null, predictedText = "", me = "", chosen = [], lastWork = null;

// The tooltip of a dot.
const tip = {
  show(dot, words) {
    const box = dot.getBoundingClientRect(), note = $("tip");
    note.textContent = words;
    note.hidden = false;
    const left = box.left + box.width / 2 - note.offsetWidth / 2;
    note.style.left = `${window.scrollX + Math.max(8, Math.min(left, document.documentElement.clientWidth - note.offsetWidth - 8))}px`;
    note.style.top = `${window.scrollY + box.top - note.offsetHeight - 8}px`;
  },
  hide() {
    $("tip").hidden = true;
  },
};

async function begin() {
  model = await request("GET", "/v1/model");
  $("token").hidden = true;
  const gain = model.evaluation.gain;
  const gained = gain && gain.points ? `, ${gain.points > 0 ? "+" : ""}${gain.points.toFixed(1)} points of macro-F1 over the global model on unseen texts (${gain.low.toFixed(1)} to ${gain.high.toFixed(1)})` : "";
  $("model").textContent = `${model.version} on ${model.base}: ${model.users.toLocaleString("en")} readers${gained}.`;
  $("ask-button").textContent = model.personal_method ? "Predict for all readers" : "Predict";
}

async function predict() {
  const text = $("text").value.trim();
  if (!text) return;
  $("answer").setAttribute("aria-busy", "true");
  $("ask-button").disabled = true;
  try {
    const found = await request("POST", "/v1/perspectives", { text, users: "all" });
    if (me && !found.readers.some((reader) => reader.user_id === me)) {
      const mine = await request("POST", "/v1/perspectives", { text, users: [me] });
      found.readers.push(...mine.readers);
    }
    prediction = found;
    predictedText = text;
    $("problem").hidden = true;
    show();
  } finally {
    $("answer").setAttribute("aria-busy", "false");
    $("ask-button").disabled = false;
  }
}

function show() {
  $("summary").textContent = summary();
  const crowd = prediction.readers_total > 0;
  $("key").hidden = $("numbers").hidden = !crowd;
  $("key-me").hidden = !me;
  draw();
  const rest = prediction.spread.length - SHOWN_LABELS;
  $("more-labels").hidden = !(rest > 0);
  $("more-title").textContent = `${rest} more label${rest === 1 ? "" : "s"}, on which readers agree more`;
  $("readers").replaceChildren(...prediction.readers.map((reader) => element("option", { value: reader.user_id })));
  table();
  if (chosen.length === 2) guarded(() => compare(prediction, predictedText, ...chosen));
}

function draw() {
  if (!prediction) return;
  const width = Math.max(280, $("labels").clientWidth || $("answer").clientWidth);
  const figures = prediction.spread.map((spread) =>
    swarm(spread, prediction.labels.indexOf(spread.label), prediction, width, me, chosen, choose, tip));
  $("labels").replaceChildren(...figures.slice(0, SHOWN_LABELS));
  $("labels-more").replaceChildren(...figures.slice(SHOWN_LABELS));
}

function summary() {
  const given = Object.entries(prediction.everybody.decisions).filter(([, yes]) => yes).map(([label]) => readable(label));
  const shared = `The global model predicts ${given.length ? listed(given) : "no label"}.`;
  if (!prediction.readers_total) return `${shared} No readers have models of their own.`;
  const total = prediction.readers_total.toLocaleString("en");
  const divided = prediction.spread.filter((spread) => spread.division > 0);
  if (!divided.length) {
    const agreed = prediction.spread.filter((spread) => spread.given === 1).map((spread) => readable(spread.label));
    return `All ${total} readers are predicted to agree: ${agreed.length ? listed(agreed) : "no label"}. ${shared}`;
  }
  const most = divided[0], would = Math.round(most.given * prediction.readers_total);
  const others = divided.slice(1, 4).map((spread) => readable(spread.label));
  const also = others.length ? ` They also disagree on ${listed(others)}.` : "";
  return `Readers disagree most on ${readable(most.label)}: ${would.toLocaleString("en")} of ${total} would give it.${also} ${shared}`;
}

function table() {
  const head = element("tr", {}, element("th", { scope: "col" }, "reader"),
    ...prediction.labels.map((label) => element("th", { scope: "col" }, readable(label))));
  const rows = prediction.readers.slice(0, 200).map((reader) =>
    element("tr", {}, element("th", { scope: "row" }, reader.user_id),
      ...reader.scores.map((score, at) => element("td", {}, `${number(score)}${reader.decisions[at] ? " yes" : ""}`))));
  $("table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
}

function choose(user) {
  chosen = chosen.includes(user) ? chosen.filter((each) => each !== user) : [...chosen, user].slice(-2);
  [$("one").value, $("other").value] = [chosen[0] || "", chosen[1] || ""];
  const here = document.activeElement, label = here && here.getAttribute("aria-label");
  draw();
  if (label) document.querySelector(`.dot[aria-label="${CSS.escape(label)}"]`)?.focus({ preventScroll: true });
  if (chosen.length === 2) guarded(() => compare(prediction, predictedText, ...chosen));
}

// Work that may fail: shows the error and offers to retry.
async function guarded(work) {
  try {
    await work();
  } catch (error) {
    refused(error, work);
  }
}

function refused(error, work) {
  lastWork = work;
  if (error.status === 401) {
    $("token").hidden = false;
    $("token-problem").textContent = sessionStorage.length ? error.message : "";
    $("token-input").focus();
    return;
  }
  $("problem").hidden = false;
  $("problem-words").textContent = error.message;
  $("problem").scrollIntoView({ block: "nearest" });
}

// Retry what failed; load the description of the model first, if it is missing.
function retry() {
  const work = lastWork || begin;
  guarded(model || work === begin ? work : async () => {
    await begin();
    await work();
  });
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(predict);
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    guarded(predict);
  }
});
$("retry").addEventListener("click", () => {
  $("problem").hidden = true;
  retry();
});
$("pair").addEventListener("submit", (event) => {
  event.preventDefault();
  const pair = [$("one").value.trim(), $("other").value.trim()];
  if (!pair[0] || !pair[1] || pair[0] === pair[1]) {
    $("difference").textContent = "Choose two different readers.";
    return;
  }
  guarded(async () => {
    if (!prediction) await predict();
    chosen = pair;
    draw();
    await compare(prediction, predictedText, ...pair);
  });
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token-input").value.trim());
  retry();
});
new Judge(() => model, async (who) => {
  me = who;
  if (!who) chosen = [];
  await predict();
  if (who) $("summary").scrollIntoView({ block: "start" });
}, refused);

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = dark ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
}
const wanted = localStorage.getItem("beholder-theme");
theme(wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme !== "dark";
  localStorage.setItem("beholder-theme", dark ? "dark" : "light");
  theme(dark);
});
let before = 0;
new ResizeObserver(() => {
  const width = $("answer").clientWidth;
  if (width !== before) draw();
  before = width;
}).observe($("answer"));

guarded(begin);
