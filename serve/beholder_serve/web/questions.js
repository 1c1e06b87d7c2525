// What a text is judged by: labels that are given or not, and scales. An answer on a scale is in several labels,
// NAME>=POINT, which are not shown by themselves.
import { number, readable } from "./page.js";

export const ofScale = (label, scales) => scales.some((name) => label.startsWith(`${name}>=`));

// Digits that tell a hundred places of a scale apart, more or less.
function digits({ points }) {
  const length = points.at(-1) - points[0];
  if (length > 20) return 0;
  return length > 1.5 ? 1 : 2 + Math.max(0, Math.floor(-Math.log10(length)));
}

export const fixed = (scale, value) => value.toFixed(digits(scale)).replace(/^-(0(\.0*)?)$/, "$1");

// What a point is called: its word, or its number.
export const pointName = (scale, place) => scale.words?.length ? scale.words[place] : String(Number(scale.points[place].toPrecision(6)));

// A value in the unit of the scale; of a scale with words, with the nearest one.
export function valueOn(scale, value) {
  if (!scale.words?.length) return fixed(scale, value);
  const gaps = scale.points.map((point) => Math.abs(point - value));
  return `${fixed(scale, value)} (${scale.words[gaps.indexOf(Math.min(...gaps))]})`;
}

// Each question of a prediction, alike for labels and scales. Values of readers lie between the first and last point.
export function questionsOf(prediction) {
  const names = Object.keys(prediction.everybody.scales || {});
  const scales = (prediction.scales || []).map((scale, place) => onScale(scale, place, prediction));
  const labels = prediction.spread.filter((spread) => !ofScale(spread.label, names)).map((spread) => given(spread, prediction));
  return { scales, labels, all: [...scales, ...labels] };
}

function onScale(scale, place, prediction) {
  const { value, low, high } = prediction.everybody.scales[scale.name];
  const [least, most] = [scale.deciles[0], scale.deciles[10]];
  const shown = (each) => valueOn(scale, each);
  const from = shown(least) === shown(most) ? `are all ${shown(least)}` : `range from ${shown(least)} to ${shown(most)}, mean ${fixed(scale, scale.mean)}`;
  const sentence = (of) => `Readers' answers${of} ${from}; global model: ${fixed(scale, value)}`;
  const end = (each) => (scale.points.includes(each) ? pointName(scale, scale.points.indexOf(each)) : shown(each));
  return {
    ...scale, title: readable(scale.name), shown, global: value, band: [low, high],
    difference: (gap) => fixed(scale, gap),
    value: (reader) => reader.values[place],
    caption: `${sentence("")}.`,
    sentence: sentence(` on ${readable(scale.name)}`),
    described: `${sentence(` on ${readable(scale.name)}`)}, 90 % interval of its answer ${end(low)} to ${end(high)}`,
    ticks: scale.points.map((point, at) => [point, pointName(scale, at)]),
    verdict: () => "",
  };
}

function given(spread, prediction) {
  const place = prediction.labels.indexOf(spread.label), total = prediction.readers_total;
  const would = `${Math.round(spread.given * total).toLocaleString("en")} of ${total.toLocaleString("en")} readers would give it`;
  const global = prediction.everybody.scores[spread.label];
  return {
    ...spread, place, share: spread.given, points: [0, 1], title: readable(spread.label), shown: number, global, difference: number,
    value: (reader) => reader.scores[place],
    given: (reader) => reader.decisions[place],
    caption: would,
    described: `${readable(spread.label)}: ${would}; scores from ${number(spread.deciles[0])} to ${number(spread.deciles[10])}, mean ${number(spread.mean)}; global model: ${number(global)}`,
    ticks: [[0, "0 no"], [0.5, "0.5"], [1, "1 yes"]],
    verdict: (reader) => reader.decisions[place] ? ", would give it" : ", would not give it",
  };
}
