"use strict";

/** The path of a drawing as people see it: x_t and x̂_0 at one moment, and a strip of the moments that can be moved along. */
class Stage {
  /**
   * @param image {channels, size}.
   * @param moved called when another moment is shown, with its frame.
   */
  constructor(image, moved) {
    Object.assign(this, { image, moved, frames: [], steps: 1, at: 0, count: 1 });
    for (const id of ["x_t", "x_0", "strip", "moment"]) this[id] = document.getElementById(id);
    document.documentElement.style.setProperty("--aspect", image.size[1] / image.size[0]);
    this.moment.addEventListener("input", () => this.show(Number(this.moment.value)));
    const scrub = (event) => {
      const { left, width } = this.strip.getBoundingClientRect();
      this.show(Math.floor(((event.clientX - left) / width) * (this.steps + 1)));
    };
    this.strip.addEventListener("pointermove", scrub);
    this.strip.addEventListener("pointerdown", scrub);
    addEventListener("resize", () => this.drawStrip());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawStrip());
  }

  /** A new drawing of so many images in so many steps. */
  begin(count, steps) {
    const [height, width] = this.image.size;
    Object.assign(this, { frames: [], count, steps, columns: Math.ceil(Math.sqrt((count * height) / width)) });
    this.moment.max = steps;
    document.querySelector(".pair").classList.toggle("several", count > 1);
  }

  /** The next moment: {t, alpha, sigma, x_t, x_0} with the bytes of each image; it is shown. */
  add({ t, alpha, sigma, x_t, x_0 }) {
    this.frames.push({ t, alpha, sigma, x_t: this.tile(x_t), x_0: this.tile(x_0) });
    this.show(this.frames.length - 1);
  }

  /** Images side by side as a canvas, each pixel one pixel. */
  tile(images) {
    const { channels, size } = this.image;
    const [height, width] = size;
    const gap = images.length > 1 ? 1 : 0;
    const canvas = document.createElement("canvas");
    canvas.width = this.columns * (width + gap) - gap;
    canvas.height = Math.ceil(images.length / this.columns) * (height + gap) - gap;
    const context = canvas.getContext("2d");
    images.forEach((bytes, i) => {
      const pixels = context.createImageData(width, height);
      for (let p = 0; p < height * width; p++) {
        for (let c = 0; c < 3; c++) pixels.data[4 * p + c] = bytes[(channels === 3 ? c : 0) * height * width + p];
        pixels.data[4 * p + 3] = 255;
      }
      context.putImageData(pixels, (i % this.columns) * (width + gap), Math.floor(i / this.columns) * (height + gap));
    });
    return canvas;
  }

  /** Show the moment with this number, or the nearest one that there is. */
  show(number) {
    if (!this.frames.length) return;
    this.at = Math.max(0, Math.min(number, this.frames.length - 1));
    this.moment.value = this.at;
    const frame = this.frames[this.at];
    for (const name of ["x_t", "x_0"]) {
      this[name].width = frame[name].width;
      this[name].height = frame[name].height;
      this[name].getContext("2d").drawImage(frame[name], 0, 0);
    }
    this.drawStrip();
    this.moved(this.at, frame);
  }

  /** Which of the images lies under a pointer on one of the two pictures. */
  under(event) {
    const { left, top, width, height } = event.target.getBoundingClientRect();
    const { width: across, height: down } = event.target;
    const scale = Math.min(width / across, height / down); // the picture is centred in its box
    const x = (event.clientX - left - (width - across * scale) / 2) / scale;
    const y = (event.clientY - top - (height - down * scale) / 2) / scale;
    const column = Math.floor(x / (this.image.size[1] + 1));
    const number = Math.floor(y / (this.image.size[0] + 1)) * this.columns + column;
    return x >= 0 && y >= 0 && column < this.columns && number < this.count ? number : null;
  }

  /** The strip: x_t above, x̂_0 below, at as many moments as there is room for. */
  drawStrip() {
    if (!this.frames.length) return;
    const width = this.strip.clientWidth;
    const moments = this.steps + 1;
    const shown = Math.min(moments, Math.max(2, Math.floor(width / 26)));
    const pitch = width / shown;
    const side = Math.min(pitch - Math.min(4, pitch / 8), 56);
    const { width: across, height: down } = this.frames[0].x_0;
    const high = Math.min((side * down) / across, 64);
    const ratio = devicePixelRatio || 1;
    const padding = 3;
    this.strip.style.height = `${2 * high + 4 + 2 * padding}px`;
    this.strip.width = Math.round(width * ratio);
    this.strip.height = Math.round((2 * high + 4 + 2 * padding) * ratio);
    const context = this.strip.getContext("2d");
    const colours = getComputedStyle(document.documentElement);
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = this.count > 1;
    for (let slot = 0; slot < shown; slot++) {
      const number = Math.round((slot * (moments - 1)) / (shown - 1));
      const frame = this.frames[number];
      const left = slot * pitch + (pitch - side) / 2;
      [frame?.x_t, frame?.x_0].forEach((picture, row) => {
        const top = padding + row * (high + 4);
        context.fillStyle = colours.getPropertyValue("--ground");
        context.fillRect(left, top, side, high);
        if (picture) context.drawImage(picture, left, top, side, high);
      });
    }
    const slot = Math.round((this.at * (shown - 1)) / (moments - 1));
    context.strokeStyle = colours.getPropertyValue("--accent");
    context.lineWidth = 2;
    context.beginPath();
    context.roundRect(slot * pitch + (pitch - side) / 2 - 2, 1, side + 4, 2 * high + 4 + 2 * padding - 2, 4);
    context.stroke();
  }

  /** The finished image, large, as a PNG file. */
  save(name) {
    const picture = this.frames.at(-1).x_0;
    const factor = Math.max(1, Math.round(560 / Math.max(picture.width, picture.height)));
    const large = document.createElement("canvas");
    large.width = factor * picture.width;
    large.height = factor * picture.height;
    const context = large.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, 0, 0, large.width, large.height);
    large.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${name}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
  }
}
