"use strict";

/** The text of a part of this page. */
const part = (id) => document.getElementById(id).textContent;

/** What this browser lacks, in words; "" where it can draw. */
function lacking() {
  const missing = [];
  const kernel = typeof WebAssembly === "object" && Uint8Array.from(atob(part("kernel")), (c) => c.charCodeAt(0));
  if (!kernel || !WebAssembly.validate(kernel)) missing.push("WebAssembly with SIMD");
  if (typeof DecompressionStream === "undefined") missing.push("DecompressionStream");
  if (!CanvasRenderingContext2D.prototype.roundRect) missing.push("rounded rectangles");
  return missing.join(" and ");
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
  let heard = false;
  const use = (way) => {
    send = way;
    send({ load });
  };
  try {
    if (alone) throw new Error("no worker is wanted");
    const worker = new Worker(URL.createObjectURL(new Blob([part("engine")], { type: "text/javascript" })));
    worker.onmessage = (event) => {
      heard = true;
      hear(event.data);
    };
    worker.onerror = (event) => (heard ? hear({ failed: event.message || "the worker ended" }) : use(inPage()));
    use((message) => worker.postMessage(message));
  } catch {
    use(inPage());
  }
  return (message) => send(message);
}
