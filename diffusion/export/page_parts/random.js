"use strict";

/**
 * Standard normal numbers of the page's own: the same for a seed and the number of an image, in every browser. They
 * are others than PyTorch's of the same seed.
 *
 * sfc32 (Chris Doty-Humphrey's small fast counter) gives 32 random bits at a time, Box and Muller's formula makes two
 * normal numbers of two uniform ones.
 */
class Random {
  constructor(seed, image) {
    this.state = Uint32Array.of(seed, Math.floor(seed / 2 ** 32), image, 1);
    this.spare = null;
    for (let i = 0; i < 20; i++) this.bits(); // until the seed has spread over the whole state
  }

  bits() {
    const s = this.state;
    const sum = (s[0] + s[1] + s[3]) >>> 0;
    s[3] += 1;
    s[0] = s[1] ^ (s[1] >>> 9);
    s[1] = s[2] + (s[2] << 3);
    s[2] = ((s[2] << 21) | (s[2] >>> 11)) + sum;
    return sum;
  }

  normal() {
    if (this.spare !== null) {
      const value = this.spare;
      this.spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log((this.bits() + 1) / 2 ** 32));
    const angle = (2 * Math.PI * this.bits()) / 2 ** 32;
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** So many of them. */
  normals(count) {
    return Float32Array.from({ length: count }, () => this.normal());
  }
}
