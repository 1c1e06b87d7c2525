// Requests to the server. Every failure becomes a Refused error with a readable message.

export class Refused extends Error {
  constructor(status, message, after) {
    super(message);
    this.status = status;
    this.after = after;
  }
}

const KEY = "beholder-token";

export function keepToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

export async function request(method, path, body) {
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, "The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response.json();
  let content = {};
  try {
    content = await response.json();
  } catch {
    content = {};
  }
  const after = Number(response.headers.get("retry-after")) || 0;
  throw new Refused(response.status, messageOf(response.status, content.detail, after), after);
}

function messageOf(status, detail, after) {
  if (status === 429) return `Too many requests. Try again in ${after || 1} s.`;
  if (typeof detail === "string" && detail) return detail[0].toUpperCase() + detail.slice(1);
  if (Array.isArray(detail) && detail.length) {
    return detail.map((each) => `${(each.loc || []).slice(1).join(".")}: ${each.msg}`).join("; ");
  }
  return `The server responded with status ${status}.`;
}

export const userPath = (user) => `/v1/users/${encodeURIComponent(user)}`;
