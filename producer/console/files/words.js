// Words and numbers as people read them.

export const LEVELS = ["normal", "throttled", "shedding", "closed"];

export const MEANING = {
  normal: "Everything is open.",
  throttled: "No coupons are given out; polls are slowed.",
  shedding: "Orders are let in at a bounded rate, by class.",
  closed: "Nothing is let in. Payments and cancels are.",
};

export const WHY = {
  wait: "waits grew too long",
  postgres: "PostgreSQL is slow or away",
  valkey: "Valkey does not answer",
  dispatch: "hints are late",
  operator: "by an operator",
};

const AT_THE_GATE = {
  user: "limit of a user",
  conversation: "limit of a conversation",
  gateway: "limit of a gateway",
  campaign: "limit of a campaign",
  sku: "limit of an item",
  in_flight: "too many in flight",
  merchant: "merchant full or paused",
  level: "level",
  deadline: "would have come too late",
  stock: "all units taken",
  budget: "all of the budget taken",
  intake: "too many wait to be taken",
};

export const reasonWord = (refusal) =>
  (refusal.where === "gate" && AT_THE_GATE[refusal.reason]) || refusal.reason.replaceAll("_", " ");

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

export const count = (value) => {
  if (value === null || value === undefined) return "–";
  return value < 1e6 ? whole.format(value) : short.format(value);
};

export const rate = (value) => {
  if (value === null || value === undefined) return "–";
  return value > 0 && value < 10 ? tenth.format(value) : count(value);
};

export const wait = (ms) => {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${whole.format(ms)} ms`;
  return ms < 60000 ? `${tenth.format(ms / 1000)} s` : span(ms / 1000);
};

export const span = (seconds) => {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
};

export const money = (minor, currency) => {
  const options = { style: "currency", currency, currencyDisplay: "narrowSymbol" };
  try {
    const digits = new Intl.NumberFormat("en", options).resolvedOptions().maximumFractionDigits;
    const value = minor / 10 ** digits;
    const large = value >= 1e5 ? { notation: "compact", maximumSignificantDigits: 4 } : {};
    return new Intl.NumberFormat("en", { ...options, ...large }).format(value);
  } catch {
    return `${count(minor)} ${currency}`; // no currency that this browser knows
  }
};

const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

export const moment = (text) => {
  const at = new Date(text);
  const near = Math.abs(Date.now() - at) < 20 * 3600 * 1000;
  return (near ? clock : day).format(at);
};

export const share = (part, all) => (all > 0 ? `${Math.round((100 * part) / all)} %` : "–");
