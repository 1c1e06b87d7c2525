// The page: asks, shows, and hands on to the rest.
import { ask, keepToken } from "./api.js";
import { compare } from "./compare.js";
import { Judge } from "./judge.js";
import { $, element, listed, number, readable } from "./page.js";
import { swarm } from "./swarm.js";

const SHOWN = 6;
let model = null, answer = null, asked = "", me = "", chosen = [], again = null;

// A word at a dot.
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
  model = await ask("GET", "/v1/model");
  $("token").hidden = true;
  const gain = model.evaluation.gain;
  const gained = gain && gain.points ? `, ${gain.points > 0 ? "+" : ""}${gain.points.toFixed(1)} points of macro-F1 over the model for everybody on unseen texts (${gain.low.toFixed(1)} to ${gain.high.toFixed(1)})` : "";
  $("model").textContent = `${model.version} on ${model.base}: ${model.users.toLocaleString("en")} readers${gained}.`;
  $("ask-button").textContent = model.personal_method ? "Ask all readers" : "Ask the model";
}

async function see() {
  const text = $("text").value.trim();
  if (!text) return;
  $("answer").setAttribute("aria-busy", "true");
  $("ask-button").disabled = true;
  try {
    const found = await ask("POST", "/v1/perspectives", { text, users: "all" });
    if (me && !found.readers.some((reader) => reader.user_id === me)) {
      const mine = await ask("POST", "/v1/perspectives", { text, users: [me] });
      found.readers.push(...mine.readers);
    }
    answer = found;
    asked = text;
    $("problem").hidden = true;
    show();
  } finally {
    $("answer").setAttribute("aria-busy", "false");
    $("ask-button").disabled = false;
  }
}

function show() {
  $("summary").textContent = inWords();
  const crowd = answer.readers_total > 0;
  $("key").hidden = $("numbers").hidden = !crowd;
  $("key-me").hidden = !me;
  draw();
  const rest = answer.spread.length - SHOWN;
  $("more-labels").hidden = !(rest > 0);
  $("more-title").textContent = `${rest} more label${rest === 1 ? "" : "s"}, on which readers agree more`;
  $("readers").replaceChildren(...answer.readers.map((reader) => element("option", { value: reader.user_id })));
  table();
  if (chosen.length === 2) refusing(() => compare(answer, asked, ...chosen));
}

function draw() {
  if (!answer) return;
  const width = Math.max(280, $("labels").clientWidth || $("answer").clientWidth);
  const figures = answer.spread.map((told) =>
    swarm(told, answer.labels.indexOf(told.label), answer, width, me, chosen, choose, tip));
  $("labels").replaceChildren(...figures.slice(0, SHOWN));
  $("labels-more").replaceChildren(...figures.slice(SHOWN));
}

function inWords() {
  const given = Object.entries(answer.everybody.decisions).filter(([, yes]) => yes).map(([label]) => readable(label));
  const shared = `The model for everybody ${given.length ? `says ${listed(given)}` : "gives no label"}.`;
  if (!answer.readers_total) return `${shared} There are no readers with models of their own.`;
  const total = answer.readers_total.toLocaleString("en");
  const divided = answer.spread.filter((told) => told.division > 0);
  if (!divided.length) {
    const agreed = answer.spread.filter((told) => told.given === 1).map((told) => readable(told.label));
    return `All ${total} readers agree: ${agreed.length ? listed(agreed) : "none of the labels"}. ${shared}`;
  }
  const most = divided[0], would = Math.round(most.given * answer.readers_total);
  const others = divided.slice(1, 4).map((told) => readable(told.label));
  const also = others.length ? ` They divide, too, on ${listed(others)}.` : "";
  return `Readers divide most on ${readable(most.label)}: ${would.toLocaleString("en")} of ${total} would say so.${also} ${shared}`;
}

function table() {
  const head = element("tr", {}, element("th", { scope: "col" }, "reader"),
    ...answer.labels.map((label) => element("th", { scope: "col" }, readable(label))));
  const rows = answer.readers.slice(0, 200).map((reader) =>
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
  if (chosen.length === 2) refusing(() => compare(answer, asked, ...chosen));
}

// Work that may be refused: says why, and how to go on.
async function refusing(work) {
  try {
    await work();
  } catch (error) {
    refused(error, work);
  }
}

function refused(error, work) {
  again = work;
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

// Do again what was refused; where nothing is known of the model yet, that first.
function resume() {
  const work = again || begin;
  refusing(model || work === begin ? work : async () => {
    await begin();
    await work();
  });
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  refusing(see);
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    refusing(see);
  }
});
$("retry").addEventListener("click", () => {
  $("problem").hidden = true;
  resume();
});
$("pair").addEventListener("submit", (event) => {
  event.preventDefault();
  const pair = [$("one").value.trim(), $("other").value.trim()];
  if (!pair[0] || !pair[1] || pair[0] === pair[1]) {
    $("difference").textContent = "Choose two different readers.";
    return;
  }
  refusing(async () => {
    if (!answer) await see();
    chosen = pair;
    draw();
    await compare(answer, asked, ...pair);
  });
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token-input").value.trim());
  resume();
});
new Judge(() => model, async (who) => {
  me = who;
  if (!who) chosen = [];
  await see();
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

refusing(begin);
