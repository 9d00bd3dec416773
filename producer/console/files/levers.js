// The levers: a form, what it would do, and only then the deed. Both are the same call, but for
// `dry_run`; the deed's key makes it safe to send again.

import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const dialog = $("lever");
let key = "";
let allowed = false;
let lever = null; // what the dialog is about
let shown = null; // the body whose dry run is shown

export function openLevers(withKey, levers) {
  key = withKey;
  allowed = levers;
  document.querySelector(".levers").hidden = !levers;
  for (const button of document.querySelectorAll("button.lever")) button.hidden = !levers;
}

const LEVEL = "v1/operator/level";
const CLOSE = {
  title: "Close the whole system",
  what: "Nothing is let in. Who holds a receipt gets the outcome; payments and cancels are taken.",
  path: () => LEVEL, action: "close", verb: "Close now", lasting: true,
};
const FORCE = {
  title: "Force a level",
  what: "It outranks the governor until its time is over or the order is lifted.",
  path: () => LEVEL, action: "force", verb: "Force it now", lasting: true, level: true,
};
const OPEN = {
  title: "Lift the order",
  what: "The governor decides again, and opens as far as the load allows.",
  path: () => LEVEL, action: "open", verb: "Lift it now",
};

const issuance = ({ subject, paused }) => ({
  title: paused ? `Resume coupons of ${subject}` : `Pause coupons of ${subject}`,
  what: paused ? "Coupons are given out again." : "No coupons are given out; those that are out stay good.",
  path: () => `v1/operator/campaigns/${encodeURIComponent(subject)}/issuance`,
  action: paused ? "resume" : "pause", verb: paused ? "Resume now" : "Pause now", lasting: !paused,
});
const merchant = ({ subject, paused }) => ({
  title: paused ? `Resume ${subject}` : `Pause ${subject}`,
  what: paused ? "Its goods are sold again." : "Nothing of it is sold; committed orders stay.",
  path: () => `v1/operator/merchants/${encodeURIComponent(subject)}`,
  action: paused ? "resume" : "pause", verb: paused ? "Resume now" : "Pause now", lasting: !paused,
});

$("close").addEventListener("click", () => begin(CLOSE));
$("force").addEventListener("click", () => begin(FORCE));
$("open").addEventListener("click", () => begin(OPEN));

export const campaignButton = () => leverButton(issuance);
export const merchantButton = () => leverButton(merchant);

function leverButton(about) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "lever";
  button.hidden = !allowed;
  button.addEventListener("click", () => begin(about(button.lever)));
  return button;
}

function begin(about) {
  lever = about;
  $("lever-form").reset();
  $("lever-h").textContent = about.title;
  $("lever-what").textContent = about.what;
  $("lever-level-field").hidden = !about.level;
  $("lever-for-field").hidden = !about.lasting;
  $("lever-do").textContent = about.verb;
  forget();
  dialog.showModal();
  (about.level ? $("lever-level") : $("lever-reason")).focus();
}

// What was shown is of another form by now: it has to be shown anew.
function forget() {
  shown = null;
  $("lever-do").hidden = true;
  $("lever-dry").hidden = false;
  $("lever-told").replaceChildren();
  $("lever-wrong").textContent = "";
}

function body() {
  const said = { action: lever.action, reason: $("lever-reason").value.trim() };
  if (lever.level) said.level = $("lever-level").value;
  if (lever.lasting && $("lever-for").value) said.for_s = Number($("lever-for").value);
  return said;
}

async function send(said, dryRun, idempotencyKey) {
  const reply = await fetch(lever.path(), {
    method: "POST",
    headers: {
      authorization: `Bearer ${key}`,
      "content-type": "application/json",
      "idempotency-key": idempotencyKey,
      "accept-language": "en",
    },
    credentials: "omit",
    body: JSON.stringify({ ...said, dry_run: dryRun }),
  });
  const told = await reply.json();
  if (!reply.ok) throw new Error(told.detail ?? `Answered ${reply.status}.`);
  return told;
}

const freshKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function attempt(work) {
  $("lever-wrong").textContent = "";
  $("lever-dry").disabled = $("lever-do").disabled = true;
  let next = null; // where to go on; not before the buttons can be pressed again
  try {
    next = await work();
  } catch (error) {
    $("lever-wrong").textContent =
      error instanceof TypeError ? "Not heard. Send it again: it takes effect once." : error.message;
  } finally {
    $("lever-dry").disabled = $("lever-do").disabled = false;
  }
  next?.focus();
}

$("lever-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (shown) return; // Enter in a field is no confirmation
  attempt(async () => {
    const said = body();
    const told = await send(said, true, freshKey());
    tellDry(told);
    shown = { said, key: freshKey() };
    $("lever-dry").hidden = true;
    $("lever-do").hidden = !told.changed;
    return told.changed ? $("lever-do") : $("lever-cancel");
  });
});

$("lever-do").addEventListener("click", () =>
  attempt(async () => {
    await send(shown.said, false, shown.key);
    dialog.close();
    $("said").textContent = `Done: ${lever.title.toLowerCase()}. It holds at every gate within a second.`;
    setTimeout(() => ($("said").textContent = ""), 6000);
  }),
);

for (const field of ["lever-level", "lever-for", "lever-reason"]) $(field).addEventListener("input", forget);
$("lever-cancel").addEventListener("click", () => dialog.close());

function tellDry(told) {
  const heading = document.createElement("strong");
  heading.textContent = told.changed ? `Dry run: ${would(told)}. Nothing was done yet.` : "Nothing to change.";
  const list = document.createElement("ul");
  for (const line of touches(told)) {
    const item = document.createElement("li");
    item.textContent = line;
    list.append(item);
  }
  $("lever-told").replaceChildren(heading, list);
}

function would(told) {
  if ("order" in told) {
    if (!told.order) return "the order would be lifted";
    return `${told.order.level} would be ordered ${ending(told.order.until)}`;
  }
  return told.paused ? `${told.subject} would be paused ${ending(told.until)}` : `${told.subject} would be resumed`;
}

const ending = (until) => (until ? `until ${words.moment(until)}` : "until it is lifted");

function touches(told) {
  const lines = [];
  if (told.before) lines.push(`In place of: ${told.before.level}, ${ending(told.before.until)} (${told.before.reason})`);
  if (told.campaigns !== null && told.campaigns !== undefined) lines.push(`Open campaigns: ${words.count(told.campaigns)}`);
  if (told.touched) {
    lines.push(`Touches ${words.count(told.touched.users)} users and ${words.count(told.touched.coupons)} coupons not redeemed`);
    lines.push(`In flight: ${words.count(told.touched.in_flight)} intents that were accepted already`);
  }
  if (told.items !== null && told.items !== undefined) lines.push(`Sells ${words.count(told.items)} items, ${words.count(told.units ?? 0)} units available`);
  return lines;
}
