// Asking the server. Every refusal becomes a Refused with words a person can read.

export class Refused extends Error {
  constructor(status, words, after) {
    super(words);
    this.status = status;
    this.after = after;
  }
}

const KEY = "beholder-token";

export function keepToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

export async function ask(method, path, body) {
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, "The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer.json();
  let said = {};
  try {
    said = await answer.json();
  } catch {
    said = {};
  }
  const after = Number(answer.headers.get("retry-after")) || 0;
  throw new Refused(answer.status, words(answer.status, said.detail, after), after);
}

function words(status, detail, after) {
  if (status === 429) return `That was a lot at once. Try again in ${after || 1} s.`;
  if (typeof detail === "string" && detail) return detail[0].toUpperCase() + detail.slice(1);
  if (Array.isArray(detail) && detail.length) {
    return detail.map((each) => `${(each.loc || []).slice(1).join(".")}: ${each.msg}`).join("; ");
  }
  return `The server says ${status}.`;
}

export const userPath = (user) => `/v1/users/${encodeURIComponent(user)}`;
