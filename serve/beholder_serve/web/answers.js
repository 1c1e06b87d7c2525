// The form in which a text is judged: scales as radio buttons or sliders, labels as check boxes.
import { $, element, readable } from "./page.js";
import { fixed, ofScale, pointName } from "./questions.js";

const MOST_RADIOS = 7, SLIDER_STEPS = 100;

export class Answers {
  constructor(model, onChange) {
    this.scales = model.scales || [];
    this.labels = model.labels.filter((label) => !ofScale(label, this.scales.map((scale) => scale.name)));
    this.one = model.kind === "multiclass";
    this.onChange = onChange;
  }

  // Show the form with the answers given before, or none.
  show(before = { labels: {}, scales: {} }) {
    this.keys = [];
    const keysAreLabels = !this.scales.some(isShort);
    $("scales").replaceChildren(...this.scales.map((scale, place) => {
      const answer = before.scales[scale.name];
      return isShort(scale) ? this.radios(scale, place, answer) : this.slider(scale, place, answer);
    }));
    $("label-set").hidden = !this.labels.length;
    $("choices").replaceChildren(...this.labels.map((label, place) => {
      const box = element("input", { type: this.one ? "radio" : "checkbox", name: "given", value: label });
      box.checked = Boolean(before.labels[label]);
      box.required = this.one;
      box.addEventListener("change", this.onChange);
      return element("label", { class: "choice" }, box, readable(label), ...this.key(keysAreLabels && place < 9 ? place + 1 : null, box));
    }));
    $("keys").textContent = this.keyHint(keysAreLabels);
    this.onChange();
  }

  // What is answered: label -> given, scale -> answer. A scale without an answer is left out.
  read() {
    const boxes = [...$("choices").querySelectorAll("input")];
    const scales = {};
    this.scales.forEach((scale, place) => {
      const set = $("scales").children[place], slider = set.querySelector("[type=range]");
      const chosen = slider ? !set.querySelector("[type=checkbox]").checked && slider : set.querySelector("input:checked");
      if (chosen && chosen.value !== "") scales[scale.name] = slider ? valueOf(scale, slider) : scale.points[Number(chosen.value)];
    });
    return { labels: Object.fromEntries(boxes.map((box) => [box.value, box.checked])), scales };
  }

  press(key) {
    this.keys.find(([name]) => name === key)?.[1].click();
  }

  radios(scale, place, answer) {
    const mine = !this.keys.length && !this.scales.slice(0, place).some(isShort);
    const numbered = scale.words?.length || scale.points.some((point) => !Number.isInteger(point) || point < 0 || point > 9);
    const option = (value, words, key) => {
      const radio = element("input", { type: "radio", name: `scale-${place}`, value });
      radio.checked = value === "" ? answer === undefined : scale.points[value] === answer;
      radio.addEventListener("change", this.onChange);
      return element("label", { class: "option" }, radio, words, ...this.key(key, radio));
    };
    const options = scale.points.map((point, at) => option(String(at), pointName(scale, at), mine ? (numbered ? at + 1 : point) : null));
    return element("fieldset", { class: "question" }, element("legend", {}, readable(scale.name)),
      element("div", { class: "options" }, ...options, option("", "no answer", null)));
  }

  slider(scale, place, answer) {
    const places = scale.kind === "ordinal", [low, high] = [scale.points[0], scale.points.at(-1)];
    const range = element("input", {
      type: "range", id: `scale-${place}`, "aria-label": readable(scale.name), min: places ? 0 : low,
      max: places ? scale.points.length - 1 : high, step: places ? 1 : (high - low) / SLIDER_STEPS,
    });
    range.value = answer === undefined ? (Number(range.min) + Number(range.max)) / 2 : places ? scale.points.indexOf(answer) : answer;
    const output = element("output", { for: range.id }), none = element("input", { type: "checkbox" });
    none.checked = answer === undefined;
    const update = () => {
      const at = Number(range.value);
      output.textContent = none.checked ? "no answer" : places ? pointName(scale, at) : fixed(scale, at);
      range.setAttribute("aria-valuetext", output.textContent);
      range.classList.toggle("unanswered", none.checked);
      this.onChange();
    };
    const answered = () => {
      none.checked = false;
      update();
    };
    range.addEventListener("input", answered);
    range.addEventListener("click", answered);
    none.addEventListener("change", update);
    const set = element("fieldset", { class: "question" }, element("legend", {}, readable(scale.name)),
      element("div", { class: "slide" }, range, output),
      element("div", { class: "ends" }, element("span", {}, pointName(scale, 0)), element("span", {}, pointName(scale, scale.points.length - 1))),
      element("label", { class: "option" }, none, "no answer"));
    queueMicrotask(update);
    return set;
  }

  key(name, input) {
    if (name === null) return [];
    this.keys.push([String(name), input]);
    return [element("kbd", { "aria-hidden": "true" }, String(name))];
  }

  keyHint(keysAreLabels) {
    if (!this.keys.length) return "Press Enter to continue.";
    const which = keysAreLabels ? "to choose" : `to answer ${readable(this.scales.find(isShort).name)}`;
    const [first, last] = keysAreLabels ? ["1", "9"] : [this.keys[0][0], this.keys.at(-1)[0]];
    return `Press ${first} to ${last} ${which}, Enter to continue.`;
  }
}

const isShort = (scale) => scale.kind === "ordinal" && scale.points.length <= MOST_RADIOS;

// The end of a slider is the end of the scale, whatever its steps add up to.
function valueOf(scale, slider) {
  const value = Number(slider.value), [low, high] = [scale.points[0], scale.points.at(-1)];
  return scale.kind === "ordinal" ? scale.points[value] : Math.min(Math.max(value, low), high);
}
