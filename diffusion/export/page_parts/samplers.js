"use strict";

/**
 * How an image is drawn: the samplers of diffusion/sampler, each as a generator for one image.
 *
 * A sampler walks down the levels {t, alpha, sigma, …}, from pure noise to sigma = 0. After each step's (first)
 * estimate it yields {level, x_t, x_0}, for those who watch; it returns the image.
 *
 *     denoise(x_t, level) → {x_0, kept}: the estimate of the clean image, and the one whose noise a step carries on
 *     noise() → the next standard normal numbers
 *     settings: those of the sampler in Python
 */
const SAMPLERS = { DDIM: ddim, Euler: heun, Heun: heun, DPMSolver: dpmSolver, UniPC: uniPC, Consistency: consistency };

/** The sum of some [number, array] pairs, number times array. */
function sum(...terms) {
  return new Float32Array(terms[0][1].length).map((_, i) => terms.reduce((total, [factor, x]) => total + factor * x[i], 0));
}

/** Pairs of neighbours. */
const pairs = (levels) => levels.slice(1).map((level, i) => [levels[i], level]);

/** λ = log(α/σ), with −20 for pure noise, where it is infinite. */
const halfLogSnr = ({ alpha, sigma }) => (alpha ? Math.log(alpha / sigma) : -20);

/** DDIM (eta = 0) and DDPM (eta = 1): x_s = α_s x̂_0 + √(σ_s² − η² β̃) ε̂ + η √β̃ z. */
function* ddim(denoise, levels, noise, { eta = 0, variance = "posterior" }) {
  let x_t = sum([levels[0].sigma, noise()]);
  for (const [t, s] of pairs(levels)) {
    const { x_0, kept } = denoise(x_t, t);
    yield { level: t, x_t, x_0 };
    const forward = Math.max(t.sigma ** 2 - ((t.alpha / s.alpha) * s.sigma) ** 2, 0);
    const posterior = forward * (s.sigma / t.sigma) ** 2;
    const eps = sum([1 / t.sigma, x_t], [-t.alpha / t.sigma, kept]);
    const straight = sum([s.alpha, x_0], [Math.sqrt(Math.max(s.sigma ** 2 - eta ** 2 * posterior, 0)), eps]);
    const fresh = eta * Math.sqrt(variance === "forward" ? forward : posterior);
    x_t = eta && s.sigma ? sum([1, straight], [fresh, noise()]) : straight;
  }
  return x_t;
}

/** Euler's and Heun's methods in τ = σ/(α + σ), or in σ/α; Heun's takes the slope at both ends of a step. */
function* heun(denoise, levels, noise, { kind, variable = "flow" }) {
  let x_t = sum([levels[0].sigma, noise()]);
  for (const [t, s] of pairs(levels)) {
    const { x_0, kept } = denoise(x_t, t);
    yield { level: t, x_t, x_0 };
    if (kind === "Euler") {
      x_t = sum([s.alpha, x_0], [s.sigma / t.sigma, x_t], [(-s.sigma / t.sigma) * t.alpha, kept]);
      continue;
    }
    const c = variable === "sigma" && t.sigma < 100 * t.alpha ? 0 : 1;
    const slope = (x, at, estimate) => sum([1 / at.sigma, x], [-at.alpha / at.sigma - c, estimate]);
    const [scaleT, scaleS] = [t.alpha + c * t.sigma, s.alpha + c * s.sigma];
    const length = s.sigma / scaleS - t.sigma / scaleT;
    const first = slope(x_t, t, x_0);
    const x_s = sum([scaleS / scaleT, x_t], [scaleS * length, first]);
    const half = (scaleS * length) / 2;
    x_t = s.sigma ? sum([scaleS / scaleT, x_t], [half, first], [half, slope(x_s, s, denoise(x_s, s).x_0)]) : x_s;
  }
  return x_t;
}

/** DPM-Solver++(2M): the estimate changes on as it did over the last step. */
function* dpmSolver(denoise, levels, noise) {
  let x_t = sum([levels[0].sigma, noise()]);
  let last = null;
  for (const [t, s] of pairs(levels)) {
    const { x_0 } = denoise(x_t, t);
    yield { level: t, x_t, x_0 };
    let towards = x_0;
    if (last && s.sigma) {
      const r = (halfLogSnr(t) - halfLogSnr(last.level)) / (halfLogSnr(s) - halfLogSnr(t));
      towards = sum([1 + 0.5 / r, x_0], [-0.5 / r, last.x_0]);
    }
    last = { level: t, x_0 };
    x_t = sum([s.sigma / t.sigma, x_t], [s.alpha - (t.alpha * s.sigma) / t.sigma, towards]);
  }
  return x_t;
}

/** UniPC: a polynomial through the last estimates; each step is taken again, more exactly, once its end is known. */
function* uniPC(denoise, levels, noise, { order = 2 }) {
  const past = [];
  const steps = levels.length - 1;
  let x_t = sum([levels[0].sigma, noise()]);
  for (const [k, [t, s]] of pairs(levels).entries()) {
    const here = { level: t, x_t, x_0: denoise(x_t, t).x_0 };
    yield here;
    if (k > 0) {
      const points = Math.min(order, k, steps - k + 1);
      here.x_t = polynomialStep(t, past[k - 1], [...past.slice(k - points, k - 1).reverse(), here]);
    }
    const points = s.sigma ? Math.min(order, k + 1, steps - k) : 1;
    x_t = polynomialStep(s, here, past.slice(k - points + 1, k).reverse());
    past.push(here);
  }
  return x_t;
}

/** UniPC's step to level s: the estimate `here`, and what those at other levels add to it. */
function polynomialStep(s, here, others) {
  const t = here.level;
  const terms = [[s.sigma / t.sigma, here.x_t], [s.alpha - (t.alpha * s.sigma) / t.sigma, here.x_0]];
  if (others.length) {
    const h = halfLogSnr(s) - halfLogSnr(t);
    const ratios = others.map(({ level }) => (halfLogSnr(level) - halfLogSnr(t)) / h);
    polynomialWeights(h, ratios).forEach((weight, i) => {
      const factor = (s.alpha * -Math.expm1(-h) * weight) / ratios[i];
      terms.push([factor, others[i].x_0], [-factor, here.x_0]);
    });
  }
  return sum(...terms);
}

/** What the differences from the estimates at t weigh, such that polynomials are integrated exactly; one weighs 1/2. */
function polynomialWeights(h, ratios) {
  if (ratios.length === 1) return [0.5];
  let moment = -Math.expm1(-h);
  const rows = ratios.map((_, k) => {
    moment = 1 - ((k + 1) / h) * moment;
    return [...ratios.map((ratio) => ratio ** k), moment / -Math.expm1(-h)];
  });
  return solved(rows);
}

/** The solution of a small system of linear equations, each a row of factors with the right side behind them. */
function solved(rows) {
  const n = rows.length;
  for (let i = 0; i < n; i++) {
    const pivot = rows.slice(i).reduce((best, row) => (Math.abs(row[i]) > Math.abs(best[i]) ? row : best));
    rows[rows.indexOf(pivot)] = rows[i];
    rows[i] = pivot.map((value) => value / pivot[i]);
    rows = rows.map((row, j) => (j === i ? row : row.map((value, c) => value - row[i] * rows[i][c])));
  }
  return rows.map((row) => row[n]);
}

/** Consistency models: noise is put back on and taken away again. */
function* consistency(denoise, levels, noise) {
  let x_t = sum([levels[0].sigma, noise()]);
  for (const [t, s] of pairs(levels)) {
    const { x_0 } = denoise(x_t, t);
    yield { level: t, x_t, x_0 };
    x_t = s.sigma ? sum([s.alpha, x_0], [s.sigma, noise()]) : x_0;
  }
  return x_t;
}
