"use strict";

/**
 * The U-Net of diffusion/networks/unet.py, for one image, with the names of its weights.
 *
 * PyTorch keeps an image channel by channel; here it lies pixel by pixel, with the channels of a pixel side by side, so
 * that a window of a convolution is a few stretches of memory. An image on the way is {at, height, width, channels}.
 */
class UNet {
  /**
   * @param kernel a Kernel.
   * @param tensors name → {shape, values} of all weights.
   * @param settings {patch, groups, head_width}.
   */
  constructor(kernel, tensors, settings) {
    Object.assign(this, settings);
    this.kernel = kernel;
    this.tensors = tensors;
    this.packed = new Map();
    for (const [name, tensor] of tensors) {
      if (name.endsWith(".weight") && tensor.shape.length !== 1 && !name.endsWith(".label.weight")) {
        const layer = name.slice(0, -".weight".length);
        this.packed.set(layer, this.pack(layer));
        tensor.values = null; // the kernel has its own copy
      }
    }
  }

  /** A layer's weights (out, in) or (out, in, k, k) in the order of the kernel: rows of the window, columns, channels. */
  pack(layer) {
    const { shape, values } = this.tensors.get(`${layer}.weight`);
    const [width, channels, side = 1] = shape;
    const window = side * side;
    const terms = channels * window;
    const sorted = new Float32Array(values.length);
    for (let out = 0, i = 0; out < width; out++) {
      for (let c = 0; c < channels; c++) {
        for (let place = 0; place < window; place++) sorted[out * terms + place * channels + c] = values[i++];
      }
    }
    const read = (out, term) => sorted[out * terms + term];
    return { ...this.kernel.pack(terms, width, read, this.tensors.get(`${layer}.bias`).values), side };
  }

  values(name) {
    return this.tensors.get(name).values;
  }

  /**
   * F(x, t, label).
   *
   * @param x (channels, height, width), as PyTorch lays it.
   * @param t time in 0..1000.
   * @param label class, or null for a network without labels.
   * @returns the same shape (or twice the channels, where the network also learns the variance).
   */
  forward(x, t, label, height, width) {
    return this.kernel.within(() => {
      const vector = silu(this.conditioning(t, label));
      let h = this.convolution("first", this.bordered(this.unshuffle(x, height, width)));
      const skips = [h];
      for (let i = 0; this.tensors.has(`down.${i}.weight`) || this.isBlock(`down.${i}`); i++) {
        h = this.isBlock(`down.${i}`) ? this.block(`down.${i}`, h, vector) : this.convolution(`down.${i}`, this.bordered(h), 2);
        skips.push(h);
      }
      h = this.block("middle.0", h, vector);
      h = this.block("middle.1", h, vector);
      for (let i = 0; this.tensors.has(`up.${i}.weight`) || this.isBlock(`up.${i}`); i++) {
        h = this.isBlock(`up.${i}`)
          ? this.block(`up.${i}`, this.joined(h, skips.pop()), vector)
          : this.convolution(`up.${i}`, this.bordered(h, skips.at(-1).height, skips.at(-1).width));
      }
      return this.shuffle(this.convolution("last.2", this.normalised("last.0", h)));
    });
  }

  isBlock(name) {
    return this.tensors.has(`${name}.residual.conv_1.weight`);
  }

  /** Time and label → one vector. */
  conditioning(t, label) {
    const embedding = new Float32Array(this.tensors.get("conditioning.time.0.weight").shape[1]);
    const half = Math.floor(embedding.length / 2);
    for (let i = 0; i < half; i++) {
      const angle = t * Math.exp((-Math.log(10000) * i) / Math.max(half - 1, 1));
      embedding[i] = Math.sin(angle);
      embedding[half + i] = Math.cos(angle);
    }
    const vector = this.linear("conditioning.time.2", silu(this.linear("conditioning.time.0", embedding)));
    if (label === null) return vector;
    const labels = this.values("conditioning.label.weight");
    return vector.map((value, i) => value + labels[label * vector.length + i]);
  }

  /** A residual block, with attention behind it where it has some. */
  block(name, x, vector) {
    return this.kernel.settle(() => {
      const h = this.residual(`${name}.residual`, x, vector);
      return this.tensors.has(`${name}.attention.qkv.weight`) ? this.attention(`${name}.attention`, h) : h;
    });
  }

  /** x + conv(silu(scale · norm(conv(silu(norm(x)))) + shift)), with scale and shift from the vector. */
  residual(name, x, vector) {
    const { kernel } = this;
    const scaleShift = this.linear(`${name}.scale_shift`, vector);
    const skip = this.packed.has(`${name}.skip`) ? this.convolution(`${name}.skip`, x) : x;
    let h = this.convolution(`${name}.conv_1`, this.normalised(`${name}.norm_1`, x));
    h = this.convolution(`${name}.conv_2`, this.normalised(`${name}.norm_2`, h, scaleShift));
    add(kernel.floats(h.at, size(h)), kernel.floats(skip.at, size(skip)));
    return h;
  }

  /** x + projection(softmax(q kᵀ/√d) v) over all pixels. */
  attention(name, x) {
    const { kernel } = this;
    const { height, width, channels } = x;
    const pixels = height * width;
    const qkv = this.convolution(`${name}.qkv`, this.normalised(`${name}.norm`, x, null, false));
    const mixed = { ...x, at: kernel.keep(pixels * channels) };
    const values = kernel.floats(qkv.at, size(qkv)).slice(); // q, k and v of all heads side by side
    for (let head = 0; head < channels / this.head_width; head++) {
      const part = (which) => (pixel, c) => values[(3 * pixel + which) * channels + head * this.head_width + c];
      kernel.within(() => this.attend(part(0), part(1), part(2), mixed, head * this.head_width));
    }
    const out = this.convolution(`${name}.projection`, mixed);
    add(kernel.floats(out.at, size(out)), kernel.floats(x.at, size(x)));
    return out;
  }

  /** softmax(q kᵀ/√d) v of one head, each read as q(pixel, c), into the channels of `mixed` from `first` on. */
  attend(q, k, v, mixed, first) {
    const { kernel, head_width: d } = this;
    const pixels = mixed.height * mixed.width;
    const queries = kernel.put(Float32Array.from({ length: pixels * d }, (_, i) => q(Math.floor(i / d), i % d)));
    const at = kernel.multiply(queries, pixels, d, kernel.pack(d, pixels, k, null));
    const rows = (work) => {
      const all = kernel.floats(at, pixels * pixels);
      for (let p = 0; p < pixels; p++) work(all.subarray(p * pixels, (p + 1) * pixels), p);
    };
    rows((row) => {
      const largest = row.reduce((a, b) => Math.max(a, b));
      for (let i = 0; i < pixels; i++) row[i] -= largest; // so that no power overflows
    });
    kernel.loops.exponentials(at, Math.ceil((pixels * pixels) / 4) * 4, 1 / Math.sqrt(d));
    const sums = new Float64Array(pixels);
    rows((row, p) => (sums[p] = row.reduce((a, b) => a + b)));
    const mix = kernel.multiply(at, pixels, pixels, kernel.pack(pixels, d, (c, pixel) => v(pixel, c), null));
    const from = kernel.floats(mix, pixels * d);
    const into = kernel.floats(mixed.at, size(mixed));
    for (let p = 0; p < pixels; p++) {
      for (let c = 0; c < d; c++) into[p * mixed.channels + first + c] = from[p * d + c] / sums[p];
    }
  }

  /** A layer of a perceptron. */
  linear(name, vector) {
    const { kernel } = this;
    return kernel.within(() => {
      const packed = this.packed.get(name);
      return kernel.floats(kernel.multiply(kernel.put(vector), 1, vector.length, packed), packed.width).slice();
    });
  }

  /** A convolution with 3×3 windows of a bordered image, every `step` pixels, or with 1×1 windows. */
  convolution(name, x, step = 1) {
    const packed = this.packed.get(name);
    const border = packed.side - 1;
    const height = Math.floor((x.height - border - 1) / step) + 1;
    const width = Math.floor((x.width - border - 1) / step) + 1;
    const pixelBytes = 4 * x.channels;
    const rowBytes = x.width * pixelBytes;
    const windows = { height, width, rowBytes: step * rowBytes, pixelBytes: step * pixelBytes };
    const at = this.kernel.convolve(x.at, windows, packed.side, packed.side * x.channels, rowBytes, packed);
    return { at, height, width, channels: packed.width };
  }

  /**
   * Group normalisation, with a SiLU and a border of zeros for the convolution behind it.
   *
   * @param scaleShift of the conditioning: (1 + scale) · norm + shift; null for none.
   * @param active whether there are a SiLU and a border.
   */
  normalised(name, x, scaleShift = null, active = true) {
    const { kernel } = this;
    const { height, width, channels } = x;
    const [weight, bias] = [this.values(`${name}.weight`), this.values(`${name}.bias`)];
    const border = +active;
    const out = this.zeros(height + 2 * border, width + 2 * border, channels);
    kernel.within(() => {
      const { scale, shift } = kernel.normalisation(x.at, height * width, channels, this.groups, weight, bias);
      for (let c = 0; scaleShift && c < channels; c++) {
        scale[c] *= 1 + scaleShift[c];
        shift[c] = shift[c] * (1 + scaleShift[c]) + scaleShift[channels + c];
      }
      const [scaleAt, shiftAt] = [kernel.put(scale), kernel.put(shift)];
      for (let y = 0; y < height; y++) {
        const into = out.at + 4 * channels * ((y + border) * out.width + border);
        kernel.loops.normalise(x.at + 4 * channels * width * y, width, channels, scaleAt, shiftAt, +active, into);
      }
    });
    return out;
  }

  zeros(height, width, channels) {
    const at = this.kernel.keep(height * width * channels);
    this.kernel.floats(at, height * width * channels).fill(0);
    return { at, height, width, channels };
  }

  /** The image with a border of zeros, brought to another size by repeating pixels. */
  bordered(x, height = x.height, width = x.width) {
    const { channels } = x;
    const out = this.zeros(height + 2, width + 2, channels);
    const values = this.kernel.floats(x.at, size(x));
    const into = this.kernel.floats(out.at, size(out));
    for (let i = 0; i < height * width; i++) {
      const [row, column] = [Math.floor(i / width), i % width];
      const from = channels * (Math.floor((row * x.height) / height) * x.width + Math.floor((column * x.width) / width));
      into.set(values.subarray(from, from + channels), channels * ((row + 1) * out.width + column + 1));
    }
    return out;
  }

  /** Two images of one size, their channels side by side. */
  joined(a, b) {
    const { height, width } = a;
    const channels = a.channels + b.channels;
    const at = this.kernel.keep(height * width * channels);
    const into = this.kernel.floats(at, height * width * channels);
    const [first, second] = [this.kernel.floats(a.at, size(a)), this.kernel.floats(b.at, size(b))];
    for (let p = 0; p < height * width; p++) {
      into.set(first.subarray(p * a.channels, (p + 1) * a.channels), p * channels);
      into.set(second.subarray(p * b.channels, (p + 1) * b.channels), p * channels + a.channels);
    }
    return { at, height, width, channels };
  }

  /** (channels, height, width) → patches of pixels as channels, pixel by pixel. */
  unshuffle(x, height, width) {
    const { kernel, patch } = this;
    const [rows, columns, channels] = [height / patch, width / patch, (x.length / height / width) * patch * patch];
    const at = kernel.keep(x.length);
    const into = kernel.floats(at, x.length);
    x.forEach((value, i) => (into[this.place(i, height, width, channels)] = value));
    return { at, height: rows, width: columns, channels };
  }

  /** The inverse of `unshuffle`. */
  shuffle(x) {
    const values = this.kernel.floats(x.at, size(x));
    const [height, width] = [x.height * this.patch, x.width * this.patch];
    return Float32Array.from({ length: values.length }, (_, i) => values[this.place(i, height, width, x.channels)]);
  }

  /** Where pixel i of (channels, height, width) lies among patches with so many channels. */
  place(i, height, width, channels) {
    const { patch } = this;
    const [channel, y, x] = [Math.floor(i / (height * width)), Math.floor(i / width) % height, i % width];
    const inPatch = channel * patch * patch + (y % patch) * patch + (x % patch);
    return (Math.floor(y / patch) * (width / patch) + Math.floor(x / patch)) * channels + inPatch;
  }
}

const size = ({ height, width, channels }) => height * width * channels;
const silu = (vector) => vector.map((value) => value / (1 + Math.exp(-value)));

function add(into, values) {
  for (let i = 0; i < into.length; i++) into[i] += values[i];
}
