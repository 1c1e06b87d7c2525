// Becoming a reader: judge texts one by one, train a model, delete it.
import { request, userPath } from "./api.js";
import { Answers } from "./answers.js";
import { $ } from "./page.js";

const MIN_JUDGEMENTS = 5;

export class Judge {
  constructor(model, onTrained, onRefused) {
    this.model = model;
    this.onTrained = onTrained;
    this.onRefused = onRefused;
    this.me = "";
    $("begin").addEventListener("submit", (event) => this.submit(event, () => this.begin()));
    $("judgement").addEventListener("submit", (event) => this.submit(event, () => this.next()));
    $("back").addEventListener("click", () => this.go(this.at - 1));
    $("skip").addEventListener("click", () => this.go(this.at + 1));
    $("train").addEventListener("click", (event) => this.submit(event, () => this.train()));
    $("forget").addEventListener("click", () => $("sure").showModal());
    $("keep").addEventListener("click", () => $("sure").close());
    $("delete").addEventListener("click", (event) => this.submit(event, () => this.forget()));
    $("judge").addEventListener("keydown", (event) => this.key(event));
  }

  async submit(event, work) {
    event.preventDefault();
    const button = event.submitter || event.currentTarget;
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      this.onRefused(error, () => work());
    } finally {
      button.disabled = button.id === "train" && this.judged.size < MIN_JUDGEMENTS;
    }
  }

  async begin() {
    const name = $("name").value.trim();
    if (!name) return;
    if (!this.model().personal_method) {
      $("outcome").textContent = "This model has no personal models, so you cannot become a reader.";
      return;
    }
    const known = await request("GET", userPath(name));
    if (known.known && !known.enrolled) {
      $("outcome").textContent = `${name} is already a reader of this model. Choose another name.`;
      return;
    }
    const { texts } = await request("GET", "/v1/texts?n=20");
    if (!texts.length) {
      $("outcome").textContent = "There are no texts to judge: the run that trained this model is missing on this server.";
      return;
    }
    this.me = name;
    this.texts = texts;
    this.judged = new Map();
    $("outcome").textContent = "";
    $("begin").hidden = true;
    $("judge").hidden = false;
    $("forget").hidden = false;
    $("progress").max = texts.length;
    this.go(0);
  }

  go(at) {
    this.at = Math.min(Math.max(at, 0), this.texts.length);
    const done = this.at === this.texts.length;
    for (const id of ["given", "keys", "skip", "next"]) $(id).hidden = done;
    $("back").disabled = this.at === 0;
    const left = MIN_JUDGEMENTS - this.judged.size;
    $("train").disabled = left > 0;
    $("train-hint").textContent = left > 0
      ? `after ${left} more judgement${left === 1 ? "" : "s"}`
      : done ? "" : "now, or after more judgements, which improve the model";
    $("progress").value = this.judged.size;
    $("progress-words").textContent = `${done ? "All texts shown" : `Text ${this.at + 1} of ${this.texts.length}`}, ${this.judged.size} judged`;
    $("unanswered").textContent = "";
    $("judged").textContent = done ? "Thank you. There are no more texts." : this.texts[this.at];
    if (done) {
      $("train").focus();
      return;
    }
    this.choices();
    $("judged").focus();
  }

  choices() {
    this.answers = new Answers(this.model(), () => this.renameNext());
    this.answers.show(this.judged.get(this.texts[this.at]));
  }

  renameNext() {
    const { labels, scales } = this.answers.read(), asked = this.model();
    const none = !asked.scales?.length && asked.kind !== "multiclass" && !Object.values(labels).some(Boolean);
    $("next").textContent = none ? "None of these" : "Next";
    if (Object.keys(scales).length) $("unanswered").textContent = "";
  }

  key(event) {
    if ($("given").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^[0-9]$/.test(event.key)) {
      this.answers.press(event.key);
    } else if (event.key === "Enter" && event.target.tagName !== "BUTTON") {
      event.preventDefault();
      $("judgement").requestSubmit($("next"));
    }
  }

  async next() {
    const text = this.texts[this.at], given = this.answers.read();
    if (!Object.keys(given.labels).length && !Object.keys(given.scales).length) {
      $("unanswered").textContent = "Answer at least one scale, or skip this text.";
      return;
    }
    await request("PUT", `${userPath(this.me)}/annotations`, { judgements: [{ text, ...given }] });
    this.judged.set(text, given);
    this.go(this.at + 1);
  }

  async train() {
    $("outcome").textContent = "Training your model ...";
    try {
      const found = await request("POST", `${userPath(this.me)}/enrol`);
      $("outcome").textContent = found.message;
    } catch (error) {
      $("outcome").textContent = "";
      throw error;
    }
    await this.onTrained(this.me);
  }

  async forget() {
    $("sure").close();
    await request("DELETE", userPath(this.me));
    this.me = "";
    $("begin").hidden = false;
    $("judge").hidden = true;
    $("forget").hidden = true;
    $("outcome").textContent = "Your data are erased.";
    await this.onTrained("");
  }
}
