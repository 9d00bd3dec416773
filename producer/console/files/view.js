// Showing a summary. What comes from data is only ever set as text.

import { draw } from "./drawing.js";
import { campaignButton, merchantButton } from "./levers.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const RATES = ["offered", "admitted", "refused", "committed"];
const REFUSALS_MAX = 6;

// Say something once, to those who look and to those who listen.
let silencing = 0;
export function tell(text) {
  $("said").textContent = text;
  clearTimeout(silencing);
  silencing = setTimeout(() => set($("said"), ""), 6000);
}

export function show(summary, trail) {
  showLevel(summary);
  for (const name of RATES) showRate(name, summary.rates, trail);
  const all = summary.committed;
  set($("committed"), all === null ? "per second" : `per second · ${words.count(all)} in all`);
  showWaits(summary.waits, trail);
  showRefusals(summary.refusals);
  showQueue(summary.queue);
  showDependencies(summary);
  keyed($("campaigns"), summary.campaigns, (one) => one.campaign_id, makeCampaign, showCampaign);
  set($("campaigns-none"), summary.campaigns.length ? "" : "No campaign yet.");
  keyed($("merchants"), summary.merchants, (one) => one.merchant_id, makeMerchant, showMerchant);
  keyed($("acts"), summary.acts, (one) => one.at + one.action + one.subject, makeAct, () => {});
}

function showLevel({ level, at }) {
  const { level: name, reason, ordered } = level;
  $("level-panel").dataset.level = name;
  set($("level"), name); // a live region: touched on change only
  set($("level-what"), words.MEANING[name]);
  for (const step of $("scale").children) {
    const rank = words.LEVELS.indexOf(step.dataset.level);
    step.classList.toggle("reached", rank <= words.LEVELS.indexOf(name));
    step.classList.toggle("here", step.dataset.level === name);
  }
  const lasting = words.span((new Date(at) - new Date(level.since)) / 1000);
  const why = words.WHY[reason] ? ` · ${words.WHY[reason]}` : "";
  const alone = level.governed ? "" : " · no governor is alive";
  set($("level-since"), `since ${words.moment(level.since)} (${lasting})${why}${alone}`);
  $("level-ordered").hidden = !ordered;
  if (ordered) {
    const end = ordered.until ? `until ${words.moment(ordered.until)}` : "until it is lifted";
    set($("level-ordered"), `Ordered: ${ordered.level}, ${end}. ${ordered.reason}`);
  }
  document.title = `${name} · Tidegate`;
}

function showRate(name, rates, trail) {
  const tile = document.querySelector(`.stat[data-rate="${name}"]`);
  set(tile.querySelector(".value"), words.rate(rates[name]));
  draw(tile.querySelector("svg"), trail, [{ name: "line", area: true, of: (point) => point[name] }]);
}

function showWaits(waits, trail) {
  set($("predicted"), words.wait(waits.predicted_ms));
  set($("true"), words.wait(waits.true_ms));
  draw($("waits"), trail, [
    { name: "true", of: (point) => point.true_ms },
    { name: "predicted", of: (point) => point.predicted_ms },
  ]);
  const { service_per_s: serves, admitted_per_s: lets } = waits;
  const known = serves === null ? [] : [`workers decide up to ${words.rate(serves)}/s`];
  if (lets !== null) known.push(`${words.rate(lets)}/s are let in`);
  set($("capacity"), known.join(" · "));
}

function showRefusals(refusals) {
  const shown = refusals.filter((one) => one.last_minute > 0).slice(0, REFUSALS_MAX);
  const most = Math.max(1, ...shown.map((one) => one.last_minute));
  keyed($("refusals"), shown, (one) => `${one.where} ${one.reason}`, makeBar, (item, one) => {
    set(item.querySelector(".why"), words.reasonWord(one));
    set(item.querySelector("small"), one.where === "gate" ? " at the gate" : " when decided");
    set(item.querySelector(".count"), words.count(one.last_minute));
    item.querySelector("i").style.width = `${(100 * one.last_minute) / most}%`;
  });
  const ever = refusals.reduce((sum, one) => sum + one.total, 0);
  const none = shown.length ? "" : "Nobody. ";
  set($("refusals-none"), `${none}${words.count(ever)} since the counting began.`);
}

function showQueue(queue) {
  const oldest = queue.oldest_age_s === null ? null : queue.oldest_age_s * 1000;
  const rows = [
    ["Open", words.count(queue.open)],
    ["Oldest", queue.open === 0 ? "none" : words.wait(oldest), oldest > 10000],
    ["In flight", words.count(queue.in_flight)],
    ["Hints queued", words.count(queue.hints)],
    ["Workers", words.count(queue.workers)],
    ["Quarantined", words.count(queue.quarantined), queue.quarantined > 0],
  ];
  keyed($("queue"), rows, ([name]) => name, makeFigure, (figure, [name, value, bad]) => {
    set(figure.querySelector("dt"), name);
    set(figure.querySelector("dd"), value);
    figure.classList.toggle("bad", Boolean(bad));
  });
}

function showDependencies({ dependencies, read_at: readAt, at }) {
  keyed($("dependencies"), dependencies, (one) => one.name, makeDependency, (item, one) => {
    set(item.firstElementChild, one.name);
    set(item.lastElementChild, one.up ? " up" : " down");
    item.classList.toggle("down", !one.up);
  });
  const age = readAt === null ? null : (new Date(at) - new Date(readAt)) / 1000;
  const old = age === null ? "The tables could not be read yet." : age > 5 ? `Tables read ${words.span(age)} ago.` : "";
  set($("read"), old);
}

function makeDependency() {
  const item = make("li");
  item.append(make("span"), make("span", "state"));
  return item;
}

function makeCampaign() {
  const card = make("article", "panel campaign");
  const head = make("div", "head");
  head.append(make("h3"), make("span", "chip"));
  const foot = make("div", "foot");
  const more = make("details");
  more.append(make("summary"), make("ul", "items"));
  foot.append(more, campaignButton());
  card.append(head, make("p", "why hint"), makeScarce("stock"), makeScarce("money"), foot);
  return card;
}

function showCampaign(card, campaign) {
  set(card.querySelector("h3"), campaign.campaign_id);
  const { paused, stock, budget, currency } = campaign;
  showPause(card, paused, budget ? "coupons open" : "no coupons", "coupons paused");
  showScarce(card.querySelector(".stock"), stock, stock.sold, "Units sold", words.count);
  const spelled = (minor) => words.money(minor, currency);
  card.querySelector(".money").hidden = !budget;
  if (budget) showScarce(card.querySelector(".money"), budget, budget.spent, "Budget spent", spelled);
  const gone = campaign.items.filter((one) => one.available + one.reserved === 0).length;
  const out = gone ? `, ${gone} sold out` : "";
  set(card.querySelector("summary"), `${campaign.items.length} items${out}`);
  keyed(card.querySelector(".items"), campaign.items, (one) => one.sku, makeItem, showItem);
  const button = card.querySelector("button");
  if (button) button.lever = { subject: campaign.campaign_id, paused: Boolean(paused) };
  if (button) set(button, paused ? "Resume coupons…" : "Pause coupons…");
}

function makeScarce(name) {
  const scarce = make("div", `scarce ${name}`);
  const line = make("p", "line");
  line.append(make("strong"), make("span"));
  scarce.append(line, makeTrack());
  return scarce;
}

function showScarce(scarce, all, used, what, spelled) {
  set(scarce.querySelector("strong"), `${what}: ${spelled(used)} of ${spelled(all.initial)}`);
  const left = `${spelled(all.reserved)} held, ${spelled(all.available)} left`;
  set(scarce.querySelector("span"), left);
  fill(scarce, used, all.reserved, all.initial);
}

function makeItem() {
  const item = make("li");
  item.append(make("span", "name"), make("span", "left"), makeTrack());
  return item;
}

function showItem(item, one) {
  set(item.querySelector(".name"), one.sku);
  const left = one.available ? `${words.count(one.available)} left` : one.reserved ? "all taken" : "sold out";
  set(item.querySelector(".left"), left);
  fill(item, one.sold, one.reserved, one.initial);
}

function makeMerchant() {
  const item = make("li");
  item.append(make("span", "name"), make("span", "chip"), merchantButton(), make("p", "why hint"));
  return item;
}

function showMerchant(item, one) {
  set(item.querySelector(".name"), one.merchant_id);
  showPause(item, one.paused, "selling", "paused");
  const button = item.querySelector("button");
  if (button) button.lever = { subject: one.merchant_id, paused: Boolean(one.paused) };
  if (button) set(button, one.paused ? "Resume…" : "Pause…");
}

function showPause(where, paused, open, shut) {
  const chip = where.querySelector(".chip");
  chip.classList.toggle("paused", Boolean(paused));
  set(chip, paused ? shut : open);
  const end = paused && (paused.until ? `until ${words.moment(paused.until)}` : "until it is resumed");
  set(where.querySelector(".why"), paused ? `Paused ${end}. ${paused.reason ?? ""}` : "");
}

function makeAct(act) {
  const item = make("li");
  const when = make("time");
  when.dateTime = act.at;
  set(when, words.moment(act.at));
  const why = make("span", "why");
  set(why, act.reason ?? "");
  const what = make("strong");
  const named = act.subject.split(":").slice(1).join(":");
  set(what, named ? `${act.action} ${named}` : act.action);
  item.append(when, what, ` by ${act.actor}`, why);
  return item;
}

function makeBar() {
  const item = make("li");
  const name = make("span", "name");
  name.append(make("span", "why"), make("small"));
  const track = make("span", "track");
  track.append(make("i"));
  item.append(name, make("span", "count"), track);
  return item;
}

function makeFigure() {
  const figure = make("div");
  figure.append(make("dt"), make("dd"));
  return figure;
}

function makeTrack() {
  const track = make("div", "track");
  track.setAttribute("aria-hidden", "true");
  track.append(make("i", "used"), make("i", "held"));
  return track;
}

function fill(where, used, held, all) {
  const part = (value) => `${all > 0 ? (100 * value) / all : 0}%`;
  where.querySelector(".used").style.width = part(used);
  where.querySelector(".held").style.width = part(held);
}

function make(kind, classes = "") {
  const made = document.createElement(kind);
  if (classes) made.className = classes;
  return made;
}

// Change a text only where it differs: live regions speak of every change.
function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Keep a list's elements as long as what they show is there: who is on a button stays on it.
function keyed(list, shown, keyOf, create, update) {
  const before = new Map([...list.children].map((child) => [child.shownAs, child]));
  let place = list.firstElementChild;
  for (const one of shown) {
    const key = keyOf(one);
    let child = before.get(key);
    before.delete(key);
    if (!child) {
      child = create(one);
      child.shownAs = key;
    }
    if (child === place) place = place.nextElementSibling;
    else list.insertBefore(child, place);
    update(child, one);
  }
  for (const gone of before.values()) gone.remove();
}
