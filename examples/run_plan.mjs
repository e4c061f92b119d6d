// Run a plan with JavaScript and nothing else: `node examples/run_plan.mjs PLAN.json [NOISE.json]`.
//
// PLAN.json is what `diffusolve plan "DPM++ 2M Karras" --json PLAN.json` writes. Without NOISE.json this samples 10,000
// numbers from a normal distribution of mean 0.5 and standard deviation 0.3 and prints both. With NOISE.json, a list of
// lists of numbers, the first list is the noise to start from, the others are the noise drawn on the way, and the
// samples are printed as JSON. Exit status 2: a file is not what it should be, and one line says why.

import { readFileSync } from "node:fs";

// The sample at the plan's end, from `x` at its start; `draw()` is standard normal noise like `x`.
function run(plan, network, x, draw) {
  const held = new Map([[plan.initial, x]]);
  const sum = (terms) => x.map((_, i) => terms.reduce((total, [source, c]) => total + c * get(held, source)[i], 0));
  for (const stage of [plan.opening, ...plan.stages]) {
    if (stage.sample !== undefined) {
      const [output, unguided] = network(sum([[stage.sample, stage.scale]]), stage);
      held.set("output", output).set("unguided", unguided);
      held.set(stage.data, sum([[stage.sample, stage.a], ["output", stage.b]]));
    }
    for (const [name] of stage.noises) held.set(name, draw());
    for (const [name, terms] of stage.writes) held.set(name, sum(terms));
    for (const name of stage.frees) held.delete(name);
  }
  return get(held, plan.result);
}

// What a perfect network says with guidance, of mean 0.5 and standard deviation 0.3, and what without. Only plans of
// CFG++ samplers read the second one ("unguided"); for others it may be null.
function network(scaled, stage) {
  return [perfect(scaled, stage, 0.5, 0.3), perfect(scaled, stage, 0.2, 0.6)];
}

// What a perfect network says of data with this mean and standard deviation (yours takes stage.timestep).
function perfect(scaled, { scale, a, b, alpha, sigma }, mean, std) {
  const gain = (alpha * std ** 2) / (alpha ** 2 * std ** 2 + sigma ** 2);
  return scaled.map((v) => (mean + gain * (v / scale - alpha * mean) - (a * v) / scale) / b);
}

// The rest reads and checks files.

class Malformed extends Error {}

function get(held, register) {
  if (!held.has(register)) throw new Malformed(`malformed plan: register '${register}' is read but holds nothing`);
  return held.get(register);
}

function read(path) {
  let text;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new Malformed(`cannot read ${path}: ${error.code}`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Malformed(`${path} is not JSON: ${error.message}`);
  }
}

const KINDS = {
  "an object": (v) => typeof v === "object" && v !== null && !Array.isArray(v),
  "a list": Array.isArray,
  text: (v) => typeof v === "string",
  "a finite number": Number.isFinite,
};

function require(condition, expected, where) {
  if (!condition) throw new Malformed(`malformed plan: ${where}: expected ${expected}`);
}

function field(value, where, key, kind) {
  require(Object.hasOwn(value, key), `an entry '${key}'`, where);
  require(KINDS[kind](value[key]), kind, `${where}.${key}`);
  return value[key];
}

function isRow(value, ...kinds) {
  return Array.isArray(value) && value.length === kinds.length && kinds.every((kind, i) => KINDS[kind](value[i]));
}

// Throw Malformed unless `plan` has the form of a plan.
function check(plan) {
  require(KINDS["an object"](plan) && plan.format === "diffusolve plan", '"format": "diffusolve plan"', "plan");
  require(plan.version === 1, '"version": 1', "plan");
  const opening = field(plan, "plan", "opening", "an object");
  const stages = field(plan, "plan", "stages", "a list");
  require(stages.length > 0, "at least one stage", "stages");
  require(!Object.hasOwn(opening, "sample"), "no sample, which stages have", "opening");
  for (const [where, update] of [["opening", opening], ...stages.map((stage, i) => [`stages[${i}]`, stage])]) {
    require(KINDS["an object"](update), "an object", where);
    const [noises, writes, frees] = ["noises", "writes", "frees"].map((key) => field(update, where, key, "a list"));
    const number = "a finite number";
    require(noises.every((noise) => isRow(noise, "text", number, number)), "[register, sigma, sigma]", `${where}.noises`);
    require(writes.every((write) => isRow(write, "text", "a list")), "[register, terms]", `${where}.writes`);
    const terms = writes.flatMap((write) => write[1]);
    require(terms.every((term) => isRow(term, "text", number)), "[register, coefficient]", `${where}.writes`);
    require(frees.every(KINDS.text), "registers", `${where}.frees`);
  }
  stages.forEach((stage, i) => {
    for (const key of ["scale", "a", "b", "alpha", "sigma", "timestep"]) field(stage, `stages[${i}]`, key, "a finite number");
    for (const key of ["sample", "data"]) field(stage, `stages[${i}]`, key, "text");
  });
  for (const key of ["initial", "result"]) field(plan, "plan", key, "text");
  field(field(plan, "plan", "start", "an object"), "start", "sigma", "a finite number");
}

// A function that returns the arrays in the file one after the other.
function noiseFrom(path) {
  const arrays = read(path);
  const same = Array.isArray(arrays) && arrays.length > 0 && arrays.every((one) => Array.isArray(one) && one.length === arrays[0].length);
  if (!same || !arrays.flat().every(Number.isFinite))
    throw new Malformed(`malformed noise: ${path}: expected lists of numbers, all of one length`);
  let next = 0;
  return () => {
    if (next === arrays.length) throw new Malformed(`malformed noise: ${path}: the plan draws more than ${next} arrays`);
    return arrays[next++];
  };
}

function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

function main(files) {
  if (files.length < 1 || files.length > 2) throw new Malformed("usage: run_plan.mjs PLAN.json [NOISE.json]");
  const plan = read(files[0]);
  check(plan);
  const draw = files.length === 2 ? noiseFrom(files[1]) : () => Array.from({ length: 10_000 }, normal);
  const x = run(plan, network, draw().map((v) => plan.start.sigma * v), draw);
  if (files.length === 2) return console.log(JSON.stringify(x));
  const mean = x.reduce((total, v) => total + v, 0) / x.length;
  const std = Math.sqrt(x.reduce((total, v) => total + (v - mean) ** 2, 0) / x.length);
  console.log(`mean ${mean.toFixed(3)}, standard deviation ${std.toFixed(3)}`);
}

try {
  main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof Malformed)) throw error;
  console.error(error.message);
  process.exit(2);
}
