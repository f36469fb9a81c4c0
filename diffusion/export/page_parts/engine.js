"use strict";

/**
 * The engine: a model, and the work of drawing with it. It runs in a worker of its own, so that the page stays awake,
 * or in the page itself where there can be no worker.
 */
class Engine {
  /**
   * @param about what the page says of the model: {image, network, guidance, …}.
   * @param texts {kernel, model} in base64.
   */
  static async load(about, texts) {
    const kernel = await Kernel.load(fromBase64(texts.kernel));
    const tensors = readTensors(await unzipped(fromBase64(texts.model)));
    const levels = new Map();
    for (const [name, { values }] of [...tensors].filter(([name]) => name.startsWith("levels."))) {
      levels.set(Number(name.slice("levels.".length)), tableOfLevels(values));
      tensors.delete(name);
    }
    return new Engine(about, new UNet(kernel, tensors, about.network), levels);
  }

  constructor(about, network, levels) {
    Object.assign(this, { about, network, levels, current: null });
    const [top, bottom, left, right] = about.image.padding;
    this.height = about.image.size[0] + top + bottom;
    this.width = about.image.size[1] + left + right;
    this.count = about.image.channels * this.height * this.width;
  }

  /** x̂_0 = c_skip x_t + c_out F(c_in x_t, 1000 t, label). */
  estimate(x_t, level, label) {
    this.evaluations += 1;
    const prediction = this.network.forward(sum([level.c_in, x_t]), 1000 * level.t, label, this.height, this.width);
    return sum([level.c_skip, x_t], [level.c_out, prediction]);
  }

  /** The denoiser of one image: guided, and clamped to ±clip where the sampler asks for it. */
  denoiser(label, scale, clip) {
    const { guidance, network } = this.about;
    const { interval, rescale, plus_plus: plusPlus } = guidance;
    const none = network.num_classes || null; // the label that says "no label"
    const clamped = (x) => (clip ? x.map((value) => Math.min(Math.max(value, -clip), clip)) : x);
    return (x_t, level) => {
      const ratio = level.alpha ? level.sigma / level.alpha : Infinity;
      const inside = !interval?.length || (interval[0] < ratio && ratio <= interval[1]);
      if (label === null || !inside || (scale === 1 && !plusPlus)) {
        const x_0 = clamped(this.estimate(x_t, level, label ?? none));
        return { x_0, kept: x_0 };
      }
      const poor = this.estimate(x_t, level, none);
      const good = scale === 0 ? poor : this.estimate(x_t, level, label);
      let x_0 = sum([1 - scale, poor], [scale, good]);
      if (rescale) x_0 = sum([1 + rescale * (contrast(good) / Math.max(contrast(x_0), 1e-6) - 1), x_0]);
      x_0 = clamped(x_0);
      return { x_0, kept: plusPlus ? clamped(poor) : x_0 };
    };
  }

  /**
   * Draw some images, step by step, until they are done; it throws when another drawing is asked for meanwhile.
   *
   * Images of a seed begin with one noise where they have labels, and each with its own where they have none.
   *
   * @param request {id, labels, steps, sampler, scale, seed, noise}: a label (or null) for each image; `sampler` as the
   *     page describes it; one guidance scale, or one for each class; `noise` (or null) the numbers of each image
   *     instead of those of the seed, all it needs in one array.
   * @param tell called with {id, step, steps, t, alpha, sigma, x_t, x_0} after each step, where x_t and x_0 hold the
   *     bytes of each image; and at last with {id, done: true, images, evaluations, seconds}.
   */
  async draw({ id, labels, steps, sampler, scale, seed, noise }, tell) {
    const levels = this.levels.get(steps);
    if (!levels) throw new Error(`steps=${steps} must be one of ${this.about.steps.join(", ")}`);
    this.current = id;
    this.evaluations = 0;
    let busy = 0;
    const drawings = labels.map((label, i) => {
      const random = new Random(seed, label === null ? i : 0);
      let used = 0;
      const next = () => (noise ? noise[i].slice(used, (used += this.count)) : random.normals(this.count));
      const denoise = this.denoiser(label, Array.isArray(scale) ? scale[label] : scale, sampler.clip);
      return SAMPLERS[sampler.kind](denoise, levels, next, sampler);
    });
    for (let step = 0; step <= steps; step++) {
      const found = [];
      for (const drawing of drawings) {
        const start = performance.now();
        found.push(drawing.next().value);
        busy += performance.now() - start;
        await pause();
        if (this.current !== id) throw new Error("another drawing was asked for");
      }
      if (step === steps) {
        const images = found.map((x) => this.bytes(x));
        tell({ id, done: true, images, evaluations: this.evaluations, seconds: busy / 1000 });
      } else {
        const { t, alpha, sigma } = found[0].level;
        const unit = 1 / Math.hypot(alpha, sigma); // noise of any size is shown at unit size
        const x_t = found.map((each) => this.bytes(each.x_t, unit));
        tell({ id, step, steps, t, alpha, sigma, x_t, x_0: found.map((each) => this.bytes(each.x_0)) });
      }
    }
  }

  /** Values about [−1, 1], with the padding → bytes (channels, height, width) without. */
  bytes(x, factor = 1) {
    const { size, padding, channels } = this.about.image;
    const [height, width] = size;
    const out = new Uint8ClampedArray(channels * height * width);
    for (let i = 0; i < out.length; i++) {
      const [channel, row, column] = [Math.floor(i / (height * width)), Math.floor(i / width) % height, i % width];
      const from = (channel * this.height + row + padding[0]) * this.width + column + padding[2];
      out[i] = Math.round((factor * x[from] + 1) * 127.5); // clamped to 0..255 by the array
    }
    return out;
  }
}

/** Rows of (t, α, σ, c_skip, c_out, c_in), from the noisiest level to t = 0. */
function tableOfLevels(values) {
  return Array.from({ length: values.length / 6 }, (_, i) => {
    const [t, alpha, sigma, c_skip, c_out, c_in] = values.slice(6 * i, 6 * i + 6);
    return { t, alpha, sigma, c_skip, c_out, c_in };
  });
}

/** The standard deviation of an image's numbers. */
function contrast(x) {
  const mean = x.reduce((a, b) => a + b) / x.length;
  return Math.sqrt(x.reduce((total, value) => total + (value - mean) ** 2, 0) / (x.length - 1));
}

/** Let the page, or the worker, see to what else has come meanwhile. */
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Answer the messages of a page: {load: {about, texts}} and {draw: request}. */
function serve(tell) {
  let engine = null;
  return async (message) => {
    try {
      if (message.load) {
        engine = await Engine.load(message.load.about, message.load.texts);
        tell({ ready: true });
      } else {
        await engine.draw(message.draw, tell);
      }
    } catch (error) {
      tell({ id: message.draw?.id, failed: error.message });
    }
  };
}

if (typeof WorkerGlobalScope !== "undefined") {
  const answer = serve((message) => postMessage(message));
  onmessage = (event) => answer(event.data);
}
