// The page: requests predictions and renders them.
import { request, keepToken } from "./api.js";
import { compare } from "./compare.js";
import { Judge } from "./judge.js";
import { $, element, listed, number, readable } from "./page.js";
import { ofScale, questionsOf, valueOn } from "./questions.js";
import { swarm } from "./swarm.js";

const SHOWN = 6;
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
  const crowd = prediction.readers_total > 0, { scales, labels } = questionsOf(prediction);
  $("key").hidden = $("numbers").hidden = !crowd;
  $("key-me").hidden = !me;
  $("key-scale").hidden = $("key-band").hidden = !scales.length;
  for (const entry of document.querySelectorAll(".key-label")) entry.hidden = !labels.length;
  draw();
  $("readers").replaceChildren(...prediction.readers.map((reader) => element("option", { value: reader.user_id })));
  table();
  if (chosen.length === 2) guarded(compareChosen);
}

// Figures of scales, then of labels, the largest disagreement first; those that are folded are drawn when opened.
function draw() {
  if (!prediction) return;
  const { scales, labels } = questionsOf(prediction), width = Math.max(280, $("labels").clientWidth || $("answer").clientWidth);
  const shown = [...scales.slice(0, SHOWN), ...labels.slice(0, SHOWN)];
  const rest = [...scales.slice(SHOWN), ...labels.slice(SHOWN)], open = $("more-labels").open;
  const drawn = (question) => swarm(question, prediction, width, me, chosen, choose, tip);
  $("labels").replaceChildren(...shown.map(drawn));
  $("labels-more").replaceChildren(...(open ? rest.map(drawn) : []));
  $("more-labels").hidden = !rest.length;
  const what = rest.every((question) => question.given) ? `label${rest.length === 1 ? "" : "s"}, on which readers agree more` : "scales and labels";
  $("more-title").textContent = `${rest.length} more ${what}`;
  $("key-bars").hidden = !document.querySelector('#answer figure[data-bars="true"]');
}

async function compareChosen() {
  const listed = prediction.readers.length;
  await compare(prediction, predictedText, ...chosen);
  if (prediction.readers.length > listed) draw();
}

function summary() {
  const { scales, labels } = questionsOf(prediction), total = prediction.readers_total.toLocaleString("en");
  const global = globally();
  if (!prediction.readers_total) return `${global} No readers have models of their own.`;
  const part = (scale) => scale.deviation / (scale.points.at(-1) - scale.points[0]);
  const onScales = [...scales].sort((one, other) => part(other) - part(one)).slice(0, 1).map((scale) => `${scale.sentence}.`).join("");
  const most = labels[0];
  if (!most) return onScales;
  const divided = labels.filter((label) => label.division > 0);
  const would = Math.round(most.share * prediction.readers_total);
  let onLabels = `Readers disagree most on ${most.title}: ${would.toLocaleString("en")} of ${total} would give it.`;
  if (!divided.length) {
    const agreed = labels.filter((label) => label.share === 1).map((label) => label.title);
    onLabels = `All ${total} readers are predicted to agree: ${agreed.length ? listed(agreed) : "no label"}.`;
  } else if (divided.length > 1) {
    onLabels += ` They also disagree on ${listed(divided.slice(1, 4).map((label) => label.title))}.`;
  }
  return [onScales, onLabels, globalLabels()].filter(Boolean).join(" ");
}

// What the global model predicts: labels, and on scales only where no reader does.
function globally() {
  const scales = Object.entries(prediction.everybody.scales || {}).map(([name, answer]) => {
    const scale = model.scales?.find((each) => each.name === name);
    return `${readable(name)} ${scale ? valueOn(scale, answer.value) : number(answer.value)}`;
  });
  return [globalLabels(), scales.length ? `On scales it predicts ${listed(scales)}.` : ""].filter(Boolean).join(" ");
}

function globalLabels() {
  const names = Object.keys(prediction.everybody.scales || {});
  const plain = Object.entries(prediction.everybody.decisions).filter(([label]) => !ofScale(label, names));
  const given = plain.filter(([, yes]) => yes).map(([label]) => readable(label));
  return plain.length ? `The global model predicts ${given.length ? listed(given) : "no label"}.` : "";
}

// Labels in the order of the model, then scales.
function table() {
  const { scales, labels } = questionsOf(prediction);
  const questions = [...labels.sort((one, other) => one.place - other.place), ...scales];
  const head = element("tr", {}, element("th", { scope: "col" }, "reader"),
    ...questions.map((question) => element("th", { scope: "col" }, question.title)));
  const rows = prediction.readers.slice(0, 200).map((reader) =>
    element("tr", {}, element("th", { scope: "row" }, reader.user_id), ...questions.map((question) =>
      element("td", {}, `${question.shown(question.value(reader))}${question.given?.(reader) ? " yes" : ""}`))));
  $("table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
}

function choose(user) {
  chosen = chosen.includes(user) ? chosen.filter((each) => each !== user) : [...chosen, user].slice(-2);
  [$("one").value, $("other").value] = [chosen[0] || "", chosen[1] || ""];
  const here = document.activeElement, label = here && here.getAttribute("aria-label");
  draw();
  if (label) document.querySelector(`.dot[aria-label="${CSS.escape(label)}"]`)?.focus({ preventScroll: true });
  if (chosen.length === 2) guarded(compareChosen);
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
    await compareChosen();
  });
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token-input").value.trim());
  retry();
});
$("more-labels").addEventListener("toggle", draw);
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
