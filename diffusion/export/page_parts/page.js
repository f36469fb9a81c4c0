"use strict";

/** The page: settings that people choose, keys, and the drawing that follows from them. */
const element = (id) => document.getElementById(id);
const about = JSON.parse(part("about"));
const { classes } = about.image;
const MOST = 36; // images at once
const GAVE_WAY = "another drawing was asked for"; // as the engine says it
const SEVERAL = classes.length ? Math.min(classes.length, MOST) : 9;
const waiting = new Map(); // drawings that programs have asked for, by their numbers
let send = () => {};
let ready = false;
let broken = ""; // why nothing can be drawn any more
let owed = true; // the page's own drawing has not been begun, or gave way to a program's
let shown = 0; // the number of the drawing that is seen
let numbered = 0;
let movedScale = !Array.isArray(about.guidance.scale); // one scale for each class, until the slider is moved

const stage = new Stage(about.image, (number, { t, alpha, sigma }) => {
  const signal = alpha ** 2 / (alpha ** 2 + sigma ** 2);
  const percent = `${Math.round(100 * signal)} %`;
  element("step").textContent = number < stage.steps ? `Step ${number + 1} of ${stage.steps}` : "The image";
  element("level").textContent = t ? `t = ${t.toFixed(2)}, ${percent} image` : "t = 0, no noise left";
  element("signal").style.width = `${100 * signal}%`;
  element("moment").setAttribute("aria-valuetext", `${element("step").textContent}, ${element("level").textContent}`);
});

/** The choices of the form. */
function chosen() {
  const choice = element("controls").elements.choice.value;
  const several = choice === "several";
  const label = classes.length && !several ? Number(choice) : null;
  return {
    labels: several ? Array.from({ length: SEVERAL }, (_, i) => (classes.length ? i : null)) : [label],
    steps: about.steps[Number(element("steps").value)],
    sampler: about.samplers[element("sampler").selectedIndex],
    scale: movedScale ? Number(element("scale").value) : about.guidance.scale,
    seed: Math.abs(Math.trunc(Number(element("seed").value))),
    noise: null,
  };
}

/** What is drawn, in words. */
function named({ labels, seed }) {
  const what = labels.length > 1 ? (classes.length ? "One of each" : `${labels.length} images`) : classes[labels[0]] ?? "Image";
  return `${what}, seed ${seed}`;
}

/** Draw what is chosen; a drawing that still goes on is given up. */
function draw() {
  if (!ready) return;
  const request = { id: ++numbered, ...chosen() };
  shown = request.id;
  owed = false;
  stage.begin(request.labels.length, request.steps);
  stage.name = named(request);
  element("status").textContent = `${stage.name}: drawing …`;
  element("save").disabled = true;
  send({ draw: request });
}

function newSeed() {
  element("seed").value = Math.floor(Math.random() * 1_000_000);
  draw();
}

/** Draw what the page itself still owes, once no program waits for a drawing. */
function settle() {
  if (owed && !waiting.size) draw();
}

/** Nothing can be drawn any more: tell all who wait. */
function breakDown(reason) {
  broken = reason;
  for (const { reject } of waiting.values()) reject(new Error(reason));
  waiting.clear();
}

/** A drawing that nobody waits for any more fails unseen. */
function hearFailure({ id, failed }) {
  if (waiting.has(id)) {
    waiting.get(id).reject(new Error(failed));
    waiting.delete(id);
    settle();
  } else if (id === shown && failed === GAVE_WAY) {
    owed = true;
    settle();
  } else if (id === shown || id === undefined) {
    if (id === undefined) breakDown(failed); // the engine itself
    element("status").textContent = ready
      ? `The drawing failed (${failed}): load the page again.`
      : `The network cannot be unpacked (${failed}): this file may not be whole.`;
  }
}

function hear(message) {
  if (message.failed) {
    hearFailure(message);
  } else if (message.ready) {
    ready = true;
    for (const { message: asked } of waiting.values()) send({ draw: asked });
    settle();
  } else if (waiting.has(message.id)) {
    if (!message.done) return;
    waiting.get(message.id).resolve(message.images);
    waiting.delete(message.id);
    settle();
  } else if (message.id === shown && message.done) {
    stage.add({ t: 0, alpha: 1, sigma: 0, x_t: message.images, x_0: message.images });
    const { seconds, evaluations } = message;
    const each = Math.round((1000 * seconds) / evaluations);
    element("status").textContent =
      `${stage.name}: ${evaluations} evaluations of the network in ${seconds.toFixed(1)} s, ${each} ms each.`;
    element("save").disabled = false;
  } else if (message.id === shown) {
    stage.add(message);
  }
}

/** A chip that can be chosen; the first one is. */
function addChip(value, name, key, wide) {
  const label = document.createElement("label");
  label.title = name;
  label.classList.toggle("wide", wide);
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "choice", value });
  input.checked = !element("classes").children.length;
  const text = document.createElement("span");
  if (key !== "") {
    const hint = document.createElement("i");
    hint.textContent = key;
    hint.setAttribute("aria-hidden", "true");
    text.append(hint);
  }
  text.append(name);
  label.append(input, text);
  element("classes").append(label);
}

/** Fill the form with what this model can do. */
function furnish() {
  classes.forEach((name, i) => addChip(i, name, i < 10 ? i : "", false));
  if (!classes.length) addChip("one", "One image", "", false);
  const several = SEVERAL < classes.length ? `One of each of the first ${SEVERAL}` : "One of each";
  if (classes.length !== 1) addChip("several", classes.length ? several : "Nine images", "G", classes.length > 0);
  element("classes").classList.toggle("long", classes.some((name) => name.length > 14));
  for (const { name } of about.samplers) element("sampler").add(new Option(name));
  element("steps").max = about.steps.length - 1;
  element("guidance_field").hidden = element("about_guidance").hidden = !about.guidance.free;
  const scale = movedScale ? about.guidance.scale : about.guidance.scale.reduce((a, b) => a + b) / about.guidance.scale.length;
  element("scale").max = about.guidance.plus_plus ? 1 : Math.max(6, 2 * scale);
  element("scale").step = about.guidance.plus_plus ? 0.05 : 0.25;
  element("scale").value = scale;
  const [low, high] = about.guidance.interval?.length ? about.guidance.interval : [0, 0];
  const acts = low ? `${low} < σ/α ≤ ${high}` : `σ/α ≤ ${high}`;
  element("guidance_hint").textContent =
    "0 ignores the class, 1 follows it, more exaggerates it." + (high ? ` Acts where ${acts}, as in the run's own images.` : "");
  useSampler();
}

/** The chosen sampler with its own number of steps. */
function useSampler() {
  const { steps, note } = about.samplers[element("sampler").selectedIndex];
  element("steps").value = about.steps.indexOf(steps);
  element("sampler_hint").textContent = note;
  showValues();
}

function showValues() {
  element("steps_shown").textContent = about.steps[Number(element("steps").value)];
  element("steps").setAttribute("aria-valuetext", `${element("steps_shown").textContent} steps`);
  element("scale_shown").textContent = movedScale ? Number(element("scale").value) : "each class its own";
}

/** Choose a chip by its value and draw it. */
function choose(value) {
  const { choice } = element("controls").elements;
  const input = [...(choice.length ? choice : [choice])].find((each) => each.value === String(value));
  if (!input) return;
  input.checked = true;
  draw();
}

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const { target, key } = event;
  const typing = target.matches("input[type=number], select");
  const actions = { g: () => choose("several"), n: newSeed, s: () => element("save").click() };
  if (/^[0-9]$/.test(key) && !typing) choose(key);
  else if (!typing && actions[key.toLowerCase()]) actions[key.toLowerCase()]();
  else if ((key === " " || key === "Enter") && !target.matches("button, select, summary, input[type=number]")) draw();
  else if (key.startsWith("Arrow") && !target.matches("input, select")) {
    if (key === "ArrowLeft") stage.show(stage.at - 1);
    else if (key === "ArrowRight") stage.show(stage.at + 1);
    else return;
  } else return;
  event.preventDefault();
}

function listen() {
  element("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  element("classes").addEventListener("change", draw);
  element("scale").addEventListener("input", () => {
    movedScale = true;
    showValues();
  });
  element("steps").addEventListener("input", showValues);
  element("sampler").addEventListener("change", useSampler);
  for (const id of ["scale", "steps", "sampler", "seed"]) element(id).addEventListener("change", draw);
  element("new_seed").addEventListener("click", newSeed);
  element("save").addEventListener("click", () => stage.save(stage.name.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-")));
  for (const id of ["x_t", "x_0"]) {
    element(id).addEventListener("click", (event) => {
      const number = stage.count > 1 && classes.length ? stage.under(event) : null;
      if (number !== null) choose(number);
    });
  }
  addEventListener("keydown", press);
}

/**
 * For programs, one drawing after another: `await diffusion.draw({labels: [3], sampler: "DDIM", steps: 10})` gives the
 * bytes of each image, (C, H, W). What is left out is as in the form; `noise` holds an array for each image, with all the
 * numbers that it needs. A drawing that is asked for while one goes on takes its place, and the earlier one is rejected.
 */
window.diffusion = {
  about,
  draw: (request) =>
    new Promise((resolve, reject) => {
      if (broken) throw new Error(broken);
      const message = { ...chosen(), ...request, id: ++numbered };
      message.sampler = about.samplers.find(({ name }) => name === message.sampler) ?? message.sampler;
      if (ready) send({ draw: message });
      waiting.set(message.id, { message, resolve, reject });
    }),
};

if (lacking()) {
  refuse(`, as it lacks ${lacking()}`);
  breakDown(`this browser lacks ${lacking()}`);
} else {
  furnish();
  listen();
  // The model is the last thing in the file, so that one that is not whole can say so.
  addEventListener("DOMContentLoaded", () => (send = startEngine(hear, location.hash === "#no-worker")));
}
