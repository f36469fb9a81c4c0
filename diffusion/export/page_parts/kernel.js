"use strict";

/**
 * The kernel: the four loops of kernel.wat, and the memory that they work in.
 *
 * Weights and images lie in one block of WebAssembly memory; an address is a number of bytes. The memory is a stack:
 * `keep` takes room, and `within` gives back what was taken inside it. When it grows, earlier views of it are void, so
 * `floats` is called anew for every use.
 */
class Kernel {
  /** Compile the kernel from its bytes. */
  static async load(bytes) {
    const { instance } = await WebAssembly.instantiate(bytes, {});
    return new Kernel(instance.exports);
  }

  constructor(exports) {
    this.loops = exports;
    this.memory = exports.memory;
    this.top = 1024;
    this.tables = new Map();
  }

  /** The address of room for so many floats, in steps of 16 bytes. */
  keep(count) {
    const address = this.top;
    this.top += (4 * count + 15) & ~15;
    const missing = this.top - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536) + 256);
    return address;
  }

  /** Call `work`, and take back all room that was kept in it. */
  within(work) {
    const before = this.top;
    try {
      return work();
    } finally {
      this.top = before;
    }
  }

  /** Call `work`, which returns an image {at, height, width, channels}, and keep nothing of its room but the image. */
  settle(work) {
    const before = this.top;
    const image = work();
    const count = image.height * image.width * image.channels;
    const all = new Float32Array(this.memory.buffer);
    all.copyWithin(before / 4, image.at / 4, image.at / 4 + count);
    this.top = before;
    return { ...image, at: this.keep(count) };
  }

  /** The floats at an address, as an array that can be read and written. */
  floats(address, count) {
    return new Float32Array(this.memory.buffer, address, count);
  }

  /** The address of a copy of these floats. */
  put(values) {
    const address = this.keep(values.length);
    this.floats(address, values.length).set(values);
    return address;
  }

  /**
   * Weights in the order in which the loop reads them: eight output channels to a block, (blocks, terms, 8).
   *
   * @param terms how many numbers one output sums over.
   * @param width output channels; fewer than eight are filled up with zeros.
   * @param read read(channel, term) is a weight.
   * @param bias read as bias[channel], or null.
   */
  pack(terms, width, read, bias) {
    const blocks = Math.ceil(width / 8);
    const room = Math.max(width, 8);
    const weights = new Float32Array(blocks * terms * 8);
    const biases = new Float32Array(blocks * 8);
    for (let block = 0; block < blocks; block++) {
      const first = Math.min(8 * block, room - 8);
      for (let lane = 0; lane < 8 && first + lane < width; lane++) {
        biases[8 * block + lane] = bias ? bias[first + lane] : 0;
        for (let term = 0; term < terms; term++) {
          weights[8 * (block * terms + term) + lane] = read(first + lane, term);
        }
      }
    }
    return { weights: this.put(weights), bias: this.put(biases), blocks, width, room };
  }

  /** Where the window of each pixel begins, in bytes; kept for ever, as there are few different ones. */
  offsets(height, width, rowBytes, pixelBytes) {
    const key = [height, width, rowBytes, pixelBytes].join();
    if (!this.tables.has(key)) {
      const count = height * width;
      const table = new Int32Array(Math.ceil(count / 4) * 4);
      for (let i = 0; i < table.length; i++) {
        const pixel = Math.min(i, count - 1); // the last one again, to fill up the last four
        table[i] = Math.floor(pixel / width) * rowBytes + (pixel % width) * pixelBytes;
      }
      this.tables.set(key, table);
    }
    const table = this.tables.get(key);
    const address = this.keep(table.length);
    new Int32Array(this.memory.buffer, address, table.length).set(table);
    return address;
  }

  /**
   * A convolution (or, with one run of one pixel, a matrix product).
   *
   * @param x address of the input.
   * @param windows {height, width} of the output, and {rowBytes, pixelBytes} from window to window.
   * @param runs, length, stride rows of a window, floats of one, and bytes from one to the next.
   * @param packed from `pack`.
   * @returns the address of (height·width, packed.width).
   */
  convolve(x, { height, width, rowBytes, pixelBytes }, runs, length, stride, packed) {
    const pixels = Math.ceil((height * width) / 4) * 4;
    const out = this.keep(pixels * packed.room);
    return this.within(() => {
      const offsets = this.offsets(height, width, rowBytes, pixelBytes);
      const { weights, bias, blocks, room } = packed;
      this.loops.convolve(x, offsets, pixels, runs, length, stride, weights, bias, blocks, out, room);
      if (packed.width < room) {
        const values = this.floats(out, pixels * room);
        for (let p = 0; p < pixels; p++) {
          values.copyWithin(p * packed.width, p * room, p * room + packed.width);
        }
      }
      return out;
    });
  }

  /** rows × columns times packed weights: the address of (rows, packed.width). */
  multiply(x, rows, columns, packed) {
    const windows = { height: 1, width: rows, rowBytes: 0, pixelBytes: 4 * columns };
    return this.convolve(x, windows, 1, columns, 0, packed);
  }

  /**
   * Group normalisation as one scale and one shift for each channel, its weights included.
   *
   * @param x address of (pixels, channels).
   * @param weight, bias of the normalisation, one number for each channel.
   * @returns {scale, shift} as Float32Arrays.
   */
  normalisation(x, pixels, channels, groups, weight, bias, eps = 1e-5) {
    return this.within(() => {
      const centre = this.keep(channels);
      const sums = this.keep(channels);
      const squares = this.keep(channels);
      const size = channels / groups;
      const inGroups = (address) => {
        const values = this.floats(address, channels);
        return Array.from({ length: groups }, (_, group) => {
          let sum = 0;
          for (let c = group * size; c < (group + 1) * size; c++) sum += values[c];
          return sum / (size * pixels);
        });
      };
      this.floats(centre, channels).fill(0);
      this.loops.moments(x, pixels, channels, centre, sums, squares);
      const means = inGroups(sums);
      this.floats(centre, channels).set(Float32Array.from({ length: channels }, (_, c) => means[Math.floor(c / size)]));
      this.loops.moments(x, pixels, channels, centre, sums, squares);
      const variances = inGroups(squares);
      const scale = new Float32Array(channels);
      const shift = new Float32Array(channels);
      for (let c = 0; c < channels; c++) {
        const group = Math.floor(c / size);
        scale[c] = weight[c] / Math.sqrt(variances[group] + eps);
        shift[c] = bias[c] - means[group] * scale[c];
      }
      return { scale, shift };
    });
  }
}
