"use strict";

/** The bytes of base64 text. */
function fromBase64(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Gzipped bytes → bytes. */
async function unzipped(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** One half-precision number: sign, five bits of exponent, ten of fraction. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return exponent === 31 ? sign * (fraction ? NaN : Infinity) : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function halves(bits) {
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = half(bits[i]);
  return values;
}

/**
 * A safetensors file: the length of a JSON header, the header, the numbers.
 *
 * A tensor of bytes, I8, has a companion "NAME.step" that says how much one step is worth in each row.
 *
 * @returns Map of name → {shape, values}.
 */
function readTensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: place }] of Object.entries(header)) {
    const data = bytes.slice(8 + length + place[0], 8 + length + place[1]).buffer;
    if (dtype === "F64") tensors.set(name, { shape, values: new Float64Array(data) });
    if (dtype === "F32") tensors.set(name, { shape, values: new Float32Array(data) });
    if (dtype === "F16") tensors.set(name, { shape, values: halves(new Uint16Array(data)) });
    if (dtype === "I8") tensors.set(name, { shape, values: new Int8Array(data) });
  }
  for (const [name, { values: steps }] of [...tensors].filter(([name]) => name.endsWith(".step"))) {
    const whole = tensors.get(name.slice(0, -".step".length));
    const values = new Float32Array(whole.values);
    const length = values.length / steps.length;
    for (let row = 0, i = 0; row < steps.length; row++) {
      for (; i < (row + 1) * length; i++) values[i] *= steps[row];
    }
    whole.values = values;
    tensors.delete(name);
  }
  return tensors;
}
