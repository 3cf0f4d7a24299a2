"use strict";

const DASHES = [[], [7, 3], [7, 3, 2, 3], [2, 3], [4, 2], [10, 3, 2, 3, 2, 3]];
const still = matchMedia("(prefers-reduced-motion: reduce)");
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const hue = k => color(`--hue${k}`);

// ---- frames: codes of 8 or 16 bits; leading axes are the controls', or 1 where a control changes nothing

function place(shape, count, position) {
  let index = 0;
  for (let i = 0; i < count; i++) index = index * shape[i] + (shape[i] > 1 ? position[i] : 0);
  return index;
}

class Frames {
  constructor({ data, shape, bits, low, high, log }, controls) {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    this.codes = bits === 16 ? new Uint16Array(bytes.buffer) : bytes;
    this.controls = controls;
    this.shape = shape;
    this.size = shape.slice(controls).reduce((a, b) => a * b, 1);
    Object.assign(this, { low, high, log, step: (high - low) / (2 ** bits - 1) });
  }
  at(position) {
    const start = place(this.shape, this.controls, position) * this.size;
    return this.codes.subarray(start, start + this.size);
  }
  read(position) {  // numbers; their base-10 logarithms where they were kept so
    return Float64Array.from(this.at(position), code => this.low + code * this.step);
  }
}

// ---- axes

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const minus = text => text.replace("-", "−");

function ticks(low, high, log, most) {  // [place, text] of each
  const found = [];
  if (log && high - low >= 1) {
    const step = Math.ceil((high - low) / most), plain = low >= -2.1 && high <= 3.1;
    for (let k = Math.ceil(low - 1e-9); k <= high + 1e-9; k++) {
      const raised = k === 0 ? "1" : k === 1 ? "10" : "10" + [...String(k)].map(c => SUPERSCRIPT[c]).join("");
      if (k % step === 0) found.push([k, plain ? String(Number((10 ** k).toPrecision(3))) : raised]);
    }
    return found;
  }
  const from = log ? 10 ** low : low, to = log ? 10 ** high : high;
  const rough = (to - from) / most, ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(k => k * ten).find(s => s >= rough * 0.999);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  for (let k = Math.ceil(from / step - 1e-9); k * step <= to + step * 1e-9; k++) {
    const large = Math.max(Math.abs(from), Math.abs(to)) >= 1e5;
    found.push([log ? Math.log10(k * step) : k * step, minus(large ? (k * step).toPrecision(2) : (k * step).toFixed(digits))]);
  }
  return found;
}

function surface(canvas) {  // a context in CSS pixels, as sharp as the screen, and the size in them
  const { clientWidth: width, clientHeight: height } = canvas, ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return { pen, width, height };
}

function axes({ pen, width, height }, [left, right, bottom, top], [xlog, ylog], [xlabel, ylabel]) {
  const yticks = ticks(bottom, top, ylog, height > 220 ? 6 : 4);
  const wide = Math.max(...yticks.map(([, text]) => pen.measureText(text).width), 8);
  const box = { x: wide + (ylabel ? 28 : 10), y: 8 };
  box.w = width - box.x - 16;
  box.h = height - box.y - (xlabel ? 42 : 24);
  const x = v => box.x + box.w * (v - left) / (right - left), y = v => box.y + box.h * (top - v) / (top - bottom);
  pen.lineWidth = 1;
  pen.fillStyle = color("--faint");
  pen.strokeStyle = color("--line");
  pen.textAlign = "center";
  for (const [at, text] of ticks(left, right, xlog, Math.max(2, Math.floor(box.w / 60)))) {
    pen.strokeRect(x(at), box.y, 0, box.h);
    pen.fillText(text, x(at), box.y + box.h + 16);
  }
  pen.textAlign = "right";
  for (const [at, text] of yticks) {
    pen.strokeRect(box.x, y(at), box.w, 0);
    pen.fillText(text, box.x - 6, y(at) + 4);
  }
  pen.fillStyle = color("--ink");
  pen.textAlign = "center";
  if (xlabel) pen.fillText(xlabel, box.x + box.w / 2, height - 6);
  if (ylabel) {
    pen.save();
    pen.translate(12, box.y + box.h / 2);
    pen.rotate(-Math.PI / 2);
    pen.fillText(ylabel, 0, 0);
    pen.restore();
  }
  return { box, x, y };
}

function within(pen, box, draw) {
  pen.save();
  pen.beginPath();
  pen.rect(box.x, box.y, box.w, box.h);
  pen.clip();
  draw();
  pen.restore();
}

// ---- marks, the same in panels and in legends

function curve(pen, k, dash, points) {
  pen.strokeStyle = hue(k);
  pen.lineWidth = 2;
  pen.lineJoin = "round";
  pen.setLineDash(DASHES[dash]);
  pen.beginPath();
  for (const [x, y] of points) pen.lineTo(x, y);
  pen.stroke();
  pen.setLineDash([]);
}

function bar(pen, k, x, y, width, height) {
  pen.fillStyle = hue(k);
  pen.globalAlpha = 0.38;
  pen.fillRect(x, y, width, height);
  pen.globalAlpha = 1;
}

function dot(pen, k, x, y, radius, ring = k % 2) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = pen.strokeStyle = hue(k);
  pen.lineWidth = 1.2;
  if (ring) pen.stroke(); else pen.fill();
}

function arrow(pen, k, x, y, dx, dy, wide = 1.4) {
  const long = Math.hypot(dx, dy), head = Math.min(5, long / 2);
  if (long < 0.5) return;
  const [ux, uy] = [dx / long, dy / long];
  pen.strokeStyle = hue(k);
  pen.lineWidth = wide;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(x + dx, y + dy);
  pen.moveTo(x + dx - head * (ux - 0.6 * uy), y + dy - head * (uy + 0.6 * ux));
  pen.lineTo(x + dx, y + dy);
  pen.lineTo(x + dx - head * (ux + 0.6 * uy), y + dy - head * (uy - 0.6 * ux));
  pen.stroke();
}

function swatch(canvas) {
  const { pen, width, height } = surface(canvas), k = Number(canvas.dataset.hue), middle = height / 2;
  if (canvas.dataset.kind === "line") curve(pen, k, canvas.dataset.dash, [[0, middle], [width, middle]]);
  if (canvas.dataset.kind === "bar") bar(pen, k, 3, 1, width - 6, height - 2);
  if (canvas.dataset.kind === "point") dot(pen, k, width / 2, middle, 3.5);
  if (canvas.dataset.kind === "arrow") arrow(pen, k, 2, middle, width - 4, 0);
}

// ---- panels: each gives a function that draws the frame at a position

const PANELS = {
  picture(figure, { frames }, n) {
    const canvas = figure.querySelector("canvas.panel"), source = new Frames(frames, n);
    [canvas.height, canvas.width] = source.shape.slice(n);
    const pen = canvas.getContext("2d"), image = pen.createImageData(canvas.width, canvas.height);
    return position => {
      source.at(position).forEach((code, i) => image.data.set([code, code, code, 255], 4 * i));
      pen.putImageData(image, 0, 0);
    };
  },

  lines(figure, data, n) {
    const canvas = figure.querySelector("canvas.panel"), along = new Frames(data.x, 0).read([]);
    const of = list => list.map(one => ({ k: one.hue, dash: one.dash, frames: new Frames(one, n) })), [series, bars] = [of(data.series), of(data.bars)];
    const mark = data.mark && new Frames(data.mark, n), last = along.length - 1;
    const edge = i => i < 0 ? 1.5 * along[0] - 0.5 * along[1] : i >= last ? 1.5 * along[last] - 0.5 * along[last - 1] : (along[i] + along[i + 1]) / 2;
    const ends = bars.length && last ? [edge(-1), edge(last)] : last ? [along[0], along[last]] : [along[0] - 1, along[0] + 1];
    if (mark) [ends[0], ends[1]] = [Math.min(ends[0], mark.low), Math.max(ends[1], mark.high)];
    return position => {
      const paper = surface(canvas), { pen } = paper;
      const { box, x, y } = axes(paper, [...ends, ...data.range], data.logs, data.labels);
      const floor = data.logs[1] ? data.range[0] : Math.max(0, data.range[0]);
      within(pen, box, () => {
        for (const { k, frames } of bars) {
          frames.read(position).forEach((v, i) => bar(pen, k, x(edge(i - 1)) + 0.5, y(v), x(edge(i)) - x(edge(i - 1)) - 1, y(floor) - y(v)));
        }
        const here = mark && mark.read(position)[0];
        if (mark) {
          pen.strokeStyle = color("--ink");
          pen.lineWidth = 1.2;
          pen.strokeRect(x(here), box.y, 0, box.h);
        }
        for (const { k, dash, frames } of series) {
          const values = frames.read(position);
          curve(pen, k, dash, Array.from(values, (v, i) => [x(along[i]), y(v)]));
          const i = along.findIndex((v, i) => mark && v <= here && here <= along[i + 1]);
          if (i >= 0) {
            const share = (here - along[i]) / (along[i + 1] - along[i] || 1);
            dot(pen, k, x(here), y(values[i] + share * (values[i + 1] - values[i])), 4, false);
          }
        }
      });
    };
  },

  plane(figure, data, n) {
    const canvas = figure.querySelector("canvas.panel"), [left, right, bottom, top] = data.extent;
    const of = list => list.map(one => ({ k: one.hue, frames: new Frames(one, n) }));
    const [points, arrows] = [of(data.points), of(data.arrows)], density = data.density && new Frames(data.density, n);
    const at = data.at && new Frames(data.at, 0).read([]), shade = document.createElement("canvas");
    if (density) [shade.height, shade.width] = density.shape.slice(n);
    return position => {
      canvas.style.height = `${(canvas.clientWidth - 48) * (top - bottom) / (right - left) + 32}px`;
      const paper = surface(canvas), { pen } = paper;
      const { box, x, y } = axes(paper, data.extent, [false, false], ["", ""]);
      within(pen, box, () => {
        if (density) {
          const inner = shade.getContext("2d"), image = inner.createImageData(shade.width, shade.height), { width, height } = shade;
          const rgb = color("--faint").match(/[\da-f]{2}/gi).map(part => parseInt(part, 16));
          density.at(position).forEach((code, i) => {  // rows from the bottom up
            image.data.set([...rgb, 0.62 * code], 4 * ((height - 1 - Math.floor(i / width)) * width + i % width));
          });
          inner.putImageData(image, 0, 0);
          pen.drawImage(shade, box.x, box.y, box.w, box.h);
        }
        arrows.forEach(({ k, frames }, j) => {  // the last is thinner: both are seen where they agree
          const v = frames.read(position), long = data.scale * box.w / (right - left);
          for (let i = 0; i < v.length; i += 2) arrow(pen, k, x(at[i]), y(at[i + 1]), v[i] * long, -v[i + 1] * long, j < arrows.length - 1 ? 2.6 : 1.4);
        });
        for (const { k, frames } of points) {
          const v = frames.read(position), radius = v.length > 1600 ? 1.3 : 2.2;
          for (let i = 0; i < v.length; i += 2) dot(pen, k, x(v[i]), y(v[i + 1]), radius);
        }
      });
    };
  },

  numbers(figure, { rows }, n) {
    const cells = figure.querySelectorAll("td");
    return position => rows.forEach(({ shape, text }, i) => { cells[i].textContent = text[place(shape, n, position)]; });
  },
};

// ---- controls

function play(button, slider) {
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "▶\ufe0e"; };
  const move = to => { slider.value = to; slider.dispatchEvent(new Event("input", { bubbles: true })); };
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (still.matches) return;
    if (slider.value === slider.max) move(0);
    button.textContent = "❚❚";
    timer = setInterval(() => slider.value === slider.max ? stop() : move(Number(slider.value) + 1), Math.max(40, Math.min(250, 5000 / slider.max)));
  });
  for (const kind of ["pointerdown", "keydown"]) slider.addEventListener(kind, stop);
}

function show(section) {
  const data = JSON.parse(section.querySelector("script").textContent), controls = [...section.querySelectorAll(".control")];
  for (const part of section.querySelectorAll("[hidden]")) part.hidden = false;
  const figures = [...section.querySelectorAll("figure")];
  const panels = data.panels.map((panel, i) => PANELS[panel.kind](figures[i], panel, data.controls.length));
  const position = controls.map(() => 0);
  let waiting = false;
  const draw = () => {
    waiting = false;
    for (const panel of panels) panel(position);
  };
  const soon = () => { if (!waiting) waiting = Boolean(requestAnimationFrame(draw)); };
  controls.forEach((control, i) => {
    const values = JSON.parse(control.dataset.values), slider = control.querySelector("input[type=range]");
    const read = () => {
      position[i] = Number(control.querySelector("input:checked, select, input[type=range]").value);
      if (slider) control.querySelector("output").textContent = values[position[i]];
      if (slider) slider.setAttribute("aria-valuetext", values[position[i]]);
    };
    if (slider) play(control.querySelector("button"), slider);
    control.addEventListener("input", () => { read(); soon(); });
    read();
  });
  return () => { section.querySelectorAll(".legend canvas").forEach(swatch); draw(); };
}

const redraws = [...document.querySelectorAll("section")].filter(part => part.querySelector("script")).map(show);
const redraw = () => redraws.forEach(draw => draw());
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
redraw();
