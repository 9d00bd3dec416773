// The page's beginning: the key, the connection, and what is shown while there is none.

import { openLevers } from "./levers.js";
import { follow } from "./stream.js";
import { show, tell } from "./view.js";

const KEPT = "tidegate.console.key"; // in this tab only
const STALE_AFTER_MS = 3500; // three summaries missed

const $ = (id) => document.getElementById(id);
let heardAt = 0; // of performance.now(); 0: nothing was heard yet
let lost = false;
let stop = () => {};

function enter(said = "") {
  stop();
  heardAt = 0;
  lost = false;
  sessionStorage.removeItem(KEPT);
  $("board").hidden = $("leave").hidden = true;
  $("lost").hidden = true;
  $("who").textContent = "";
  $("enter").hidden = false;
  $("key-wrong").textContent = said;
  $("link").dataset.state = "out";
  $("link").textContent = "not connected";
  document.title = "Tidegate";
  $("key").value = "";
  $("key").focus();
}

function watch(key) {
  heardAt = 0;
  lost = false;
  const trail = [];
  $("link").textContent = "connecting…";
  stop = follow(key, {
    viewer(who) {
      sessionStorage.setItem(KEPT, key);
      $("enter").hidden = true;
      $("leave").hidden = false;
      $("who").textContent = `${who.gateway_id} · ${who.levers ? "operator" : "read-only"}`;
      openLevers(key, who.levers);
    },
    trail(points) {
      trail.splice(0, trail.length, ...points);
    },
    summary(summary) {
      heardAt = performance.now();
      trail.push(summary.rates);
      while (trail.length && trail[0].at < summary.rates.at - 120) trail.shift();
      $("board").hidden = false;
      show(summary, trail);
      found();
    },
    refused(said) {
      enter(said);
    },
    broken() {
      if (heardAt === 0) lose();
    },
  });
}

function lose() {
  if (lost) return;
  lost = true;
  $("lost-said").textContent = heardAt
    ? "Connection lost. What is shown is old; trying again."
    : "No connection; trying again.";
  $("lost").hidden = false;
  $("board").classList.add("stale");
  $("link").dataset.state = "lost";
  $("link").textContent = "connection lost";
  document.title = "? · Tidegate";
}

function found() {
  $("link").dataset.state = "live";
  $("link").textContent = "live";
  if (!lost) return;
  lost = false;
  $("lost").hidden = true;
  $("lost-said").textContent = "";
  $("board").classList.remove("stale");
  tell("Connected again.");
}

setInterval(() => {
  if (heardAt && performance.now() - heardAt > STALE_AFTER_MS) lose();
  if (lost) {
    const age = Math.round((performance.now() - heardAt) / 1000);
    $("lost-age").textContent = heardAt ? `Last heard ${age} s ago.` : "";
  }
}, 500);

$("enter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("key-wrong").textContent = "";
  stop();
  watch($("key").value.trim());
});
$("leave").addEventListener("click", () => enter());

const kept = sessionStorage.getItem(KEPT);
if (kept) watch(kept);
else enter();
