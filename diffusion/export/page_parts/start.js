"use strict";

/** The text of a part of this page. */
const part = (id) => document.getElementById(id).textContent;

/** Why this browser cannot draw, in a sentence; null where it can. */
function refusal() {
  const missing = [];
  const kernel = typeof WebAssembly === "object" && Uint8Array.from(atob(part("kernel")), (c) => c.charCodeAt(0));
  if (!kernel || !WebAssembly.validate(kernel)) missing.push("WebAssembly with SIMD");
  if (typeof DecompressionStream === "undefined") missing.push("DecompressionStream");
  if (!missing.length) return null;
  return `This browser is too old to draw here, as it lacks ${missing.join(" and ")}: open the page in Chrome or Edge 91, ` +
    "Firefox 113, Safari 16.4, or a newer one.";
}

/**
 * Start the engine, in a worker if there can be one, else in this page.
 *
 * @param hear called with each of its messages.
 * @param alone true: no worker.
 * @returns a function that sends it a message.
 */
function startEngine(hear, alone) {
  const load = { about: JSON.parse(part("about")), texts: { kernel: part("kernel"), model: part("model") } };
  const inPage = () => {
    const script = document.createElement("script");
    script.textContent = `window.serveEngine = (() => {${part("engine")}\nreturn serve; })();`;
    document.body.append(script);
    return window.serveEngine((message) => setTimeout(hear, 0, message));
  };
  let send;
  try {
    if (alone) throw new Error("no worker is wanted");
    const worker = new Worker(URL.createObjectURL(new Blob([part("engine")], { type: "text/javascript" })));
    send = (message) => worker.postMessage(message);
    worker.onmessage = (event) => hear(event.data);
    worker.onerror = (event) => hear({ failed: event.message || "the worker ended" });
  } catch {
    send = inPage();
  }
  send({ load });
  return send;
}
